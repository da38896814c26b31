#!/bin/busybox sh
# The machine's first process: the host's file system, with an overlay in memory, becomes its own.
b=/bin/busybox
fail() { echo "vm: $*"; $b poweroff -f; }
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs dev /dev
for module in $($b cat /modules/order); do
    $b insmod "/modules/$module" || fail "$module does not load"
done
$b mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro host /host || fail "the host's files are not there"
$b mount -t tmpfs tmpfs /changes
$b mkdir /changes/upper /changes/work
$b mount -t overlay -o lowerdir=/host,upperdir=/changes/upper,workdir=/changes/work overlay /machine || fail "there is no overlay"
$b mkdir -p /machine/run
$b mount -t tmpfs tmpfs /machine/run
$b mkdir /machine/run/vm
$b cp /run.sh /programs /machine/run/vm/
exec $b switch_root /machine /bin/sh /run/vm/run.sh
