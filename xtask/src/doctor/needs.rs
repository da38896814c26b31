//! The list of everything that building, testing, showing and measuring needs.

use super::{
    Group::{self, Bench, Build, Demo, Test},
    Need, Remedy, machine,
};

/// Whoever runs the agent.
const RUNNING: &[Group] = &[Demo, Test, Bench];

pub const NEEDS: &[Need] = &[
    Need {
        what: "root",
        why: "eBPF programs are loaded and network namespaces made",
        groups: RUNNING,
        present: machine::is_root,
        remedy: Remedy::Machine("run as root"),
    },
    Need {
        what: "kernel 5.15 or later",
        why: "the programs ask sockets for their network namespace",
        groups: RUNNING,
        present: machine::has_kernel,
        remedy: Remedy::Machine("boot a kernel of 5.15 or later"),
    },
    Need {
        what: "kernel type information (BTF)",
        why: "eBPF maps are described with it",
        groups: RUNNING,
        present: machine::has_btf,
        remedy: Remedy::Machine("boot a kernel with CONFIG_DEBUG_INFO_BTF=y"),
    },
    Need {
        what: "cgroup v2",
        why: "the programs are attached to its root",
        groups: RUNNING,
        present: machine::has_cgroup2,
        remedy: Remedy::Machine("mount -t cgroup2 none /sys/fs/cgroup/unified (or boot with it)"),
    },
    Need {
        what: "bpf file system",
        why: "programs and maps are pinned there, to outlive the agent",
        groups: RUNNING,
        present: machine::has_bpffs,
        remedy: Remedy::Machine("boot a kernel with CONFIG_BPF_SYSCALL=y"),
    },
    Need {
        what: "C compiler",
        why: "the cryptographic library has parts in C and assembler",
        groups: &[Build],
        present: machine::has_c_compiler,
        remedy: Remedy::Packages(&["gcc", "libc6-dev"]),
    },
    Need {
        what: "rustc for eBPF",
        why: "it brings `core` for the kernel's virtual machine; \
              `rustup component add rust-src` does as well",
        groups: &[Build],
        present: machine::has_ebpf_toolchain,
        remedy: Remedy::Packages(&["rustc-web", "libstd-rust-web-dev-bpf"]),
    },
    Need {
        what: "LLVM 22 for bpf-linker",
        why: "bpf-linker is built against the LLVM of the rustc for eBPF",
        groups: &[Build],
        present: machine::has_llvm_or_linker,
        remedy: Remedy::Packages(&[
            "llvm-22-dev",
            "libpolly-22-dev",
            "zlib1g-dev",
            "libzstd-dev",
            "g++",
        ]),
    },
    Need {
        what: "bpf-linker",
        why: "it links eBPF programs",
        groups: &[Build],
        present: machine::has_linker,
        remedy: Remedy::Linker,
    },
    Need {
        what: "ip",
        why: "nodes and pods are network namespaces, made with it",
        groups: RUNNING,
        present: || machine::has(&["ip"]),
        remedy: Remedy::Packages(&["iproute2"]),
    },
    Need {
        what: "nginx",
        why: "an unmodified server to talk to",
        groups: &[Demo, Test],
        present: || machine::has(&["nginx"]),
        remedy: Remedy::Packages(&["nginx"]),
    },
    Need {
        what: "curl",
        why: "an unmodified client",
        groups: &[Demo, Test],
        present: || machine::has(&["curl"]),
        remedy: Remedy::Packages(&["curl"]),
    },
    Need {
        what: "openssl",
        why: "tests let it judge our certificates, and make odd ones with it",
        groups: &[Test, Bench],
        present: || machine::has(&["openssl"]),
        remedy: Remedy::Packages(&["openssl"]),
    },
    Need {
        what: "redis",
        why: "tests run it, and its benchmark, through Martlet",
        groups: &[Test],
        present: || machine::has(&["redis-server", "redis-benchmark", "redis-cli"]),
        remedy: Remedy::Packages(&["redis-server", "redis-tools"]),
    },
    Need {
        what: "PostgreSQL and pgbench",
        why: "tests run them through Martlet",
        groups: &[Test],
        present: machine::has_pgbench,
        remedy: Remedy::Packages(&["postgresql"]),
    },
    Need {
        what: "MariaDB",
        why: "a server that speaks first",
        groups: &[Test],
        present: || machine::has(&["mariadbd", "mariadb-install-db", "mariadb"]),
        remedy: Remedy::Packages(&["mariadb-server-core", "mariadb-client-core"]),
    },
    Need {
        what: "OpenSSH",
        why: "a server that speaks first, and a client that copies files",
        groups: &[Test],
        present: || machine::has(&["sshd", "ssh", "scp", "ssh-keygen"]),
        remedy: Remedy::Packages(&["openssh-server", "openssh-client"]),
    },
    Need {
        what: "iperf3",
        why: "tests move bulk data both ways with it",
        groups: &[Test],
        present: || machine::has(&["iperf3"]),
        remedy: Remedy::Packages(&["iperf3"]),
    },
    Need {
        what: "nc of OpenBSD",
        why: "tests close one direction with it",
        groups: &[Test],
        present: || machine::has(&["nc.openbsd"]),
        remedy: Remedy::Packages(&["netcat-openbsd"]),
    },
    Need {
        what: "websockets for Python",
        why: "tests keep a WebSocket open for minutes",
        groups: &[Test],
        present: machine::has_websockets,
        remedy: Remedy::Packages(&["python3", "python3-websockets"]),
    },
    Need {
        what: "HAProxy",
        why: "the benchmark measures beside it",
        groups: &[Bench],
        present: || machine::has(&["haproxy"]),
        remedy: Remedy::Packages(&["haproxy"]),
    },
];
