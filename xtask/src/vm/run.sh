# Runs each program, says how it ended, and switches the machine off. What it needs to know is above.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp MARTLET_PATIENCE=6
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mkdir -p /lib/modules
mount --bind "$MODULES" /lib/modules
ip link set lo up
ulimit -n 65536
echo "vm: Linux $(uname -r), $(nproc) processors"
cd "$TESTS"
while read -r name path; do
    echo "vm: $name"
    timeout --kill-after=5 900 "$path" --test-threads=1 --color never 2>&1 < /dev/null
    echo "$ENDED$name: $?"
    echo "vm: after $(cut -d' ' -f1 /proc/uptime) s"
done < /run/vm/programs
dmesg | grep -E 'BUG: |WARNING: |Oops|Call Trace' | while read -r line; do echo "$COMPLAINT$line"; done
echo "$DONE"
echo o > /proc/sysrq-trigger
# By now no program can be started any more.
while :; do :; done
