#!/bin/bash
# The first process of a node. Makes what the node sees as its machine, and keeps running what every
# node runs. Begins twice: to enter the node's control groups, and inside of their namespace.
set -eu
source "$1"
if [ "${2:-}" != inside ]; then
    # What the caller was in is the namespace's root from now on.
    for group in $GROUPS_OF_NODE; do echo 0 > "$group/cgroup.procs"; done
    exec unshare --cgroup bash "$0" "$1" inside
fi

hostname "$NODE"
root=$DIRECTORY/root
mkdir -p "$DIRECTORY"/{upper,work,root,containerd,kubelet,log}
mount -t overlay overlay -o "lowerdir=$FILES,upperdir=$DIRECTORY/upper,workdir=$DIRECTORY/work" "$root"

# Devices are the machine's, all else is the node's own.
mount --rbind /dev "$root/dev"
mount --make-rprivate "$root/dev"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mount -t bpf bpf "$root/sys/fs/bpf"
# Tools for debugging; a kernel need not have them.
mount -t debugfs debugfs "$root/sys/kernel/debug" 2> /dev/null || true
mount -t tracefs tracefs "$root/sys/kernel/tracing" 2> /dev/null || true

# Control groups as the machine has them. Where there are several hierarchies, each has a directory.
if [ "$HIERARCHIES" != unified ]; then mount -t tmpfs tmpfs "$root/sys/fs/cgroup"; fi
for hierarchy in $HIERARCHIES; do
    case $hierarchy in
    unified) at=$root/$UNIFIED; mkdir -p "$at"; mount -t cgroup2 cgroup2 "$at" ;;
    name=*) at=$root/sys/fs/cgroup/${hierarchy#name=}; mkdir -p "$at"; mount -t cgroup -o "none,$hierarchy" cgroup "$at" ;;
    *) at=$root/sys/fs/cgroup/$hierarchy; mkdir -p "$at"; mount -t cgroup -o "$hierarchy" cgroup "$at" ;;
    esac
done

bind() { mkdir -p "$root/$2"; mount --bind "$1" "$root/$2"; }
bind "$DIRECTORY/containerd" var/lib/containerd
bind "$DIRECTORY/kubelet" var/lib/kubelet
bind "$DIRECTORY/log" var/log
bind "$DIRECTORY/kubernetes" etc/kubernetes
bind "$PROGRAMS" opt/kubernetes
bind "$IMAGES" opt/images
mkdir -p "$root/etc/cni" "$root/etc/containerd"
ln -sfn /etc/kubernetes/cni "$root/etc/cni/net.d"
ln -sfn /etc/kubernetes/containerd.toml "$root/etc/containerd/config.toml"
cp "$DIRECTORY/kubernetes/machine-id" "$root/etc/machine-id"
echo "nameserver $NAME_SERVER" > "$root/etc/resolv.conf"

# The kubelet sets these for the whole machine. It is shown files that say what it wants to read, so
# that the machine stays as it is.
shown() {
    mkdir -p "$root/run/shown"
    echo "$2" > "$root/run/shown/${1//\//.}"
    mount --bind "$root/run/shown/${1//\//.}" "$root/proc/sys/$1"
}
shown vm/overcommit_memory 1
shown vm/panic_on_oom 0
shown kernel/panic 10
shown kernel/panic_on_oops 1
shown kernel/keys/root_maxkeys 1000000
shown kernel/keys/root_maxbytes 25000000

cd "$root"
mkdir -p .machine
pivot_root . .machine
umount --lazy /.machine
mount --make-rshared /
export PATH=/opt/kubernetes:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
hash -r
mkdir -p /run/netns /run/lock

# As systemd would: each service in a group of its own, and started again when it ends.
unified=/$UNIFIED
mkdir -p "$unified/init.scope"
echo 0 > "$unified/init.scope/cgroup.procs"
if [ "$HIERARCHIES" = unified ]; then
    for controller in $(cat "$unified/cgroup.controllers"); do echo "+$controller" > "$unified/cgroup.subtree_control"; done
fi
service() {
    local group=$unified/system.slice/$1.service
    mkdir -p "$group"
    (
        echo 0 > "$group/cgroup.procs"
        while true; do
            "$@" >> "/var/log/$1.log" 2>&1 < /dev/null || true
            echo "$1 ended; starting it again" >> "/var/log/$1.log"
            sleep 1
        done
    ) &
}

service containerd
until ctr version > /dev/null 2>&1; do sleep 0.1; done
for image in /opt/images/*.tar; do ctr --namespace k8s.io images import "$image"; done
service kubelet --container-runtime=remote \
    --container-runtime-endpoint=unix:///run/containerd/containerd.sock \
    --config=/etc/kubernetes/kubelet.yaml --kubeconfig=/etc/kubernetes/kubelet.kubeconfig \
    --hostname-override="$NODE" --node-ip="$ADDRESS"
[ "$PROXY" = none ] || service kube-proxy --config=/etc/kubernetes/kube-proxy.yaml --hostname-override="$NODE"

# Collects what its children leave behind.
set +e
while true; do wait; sleep 1; done
