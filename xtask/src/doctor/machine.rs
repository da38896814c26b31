//! Questions to this machine, answered from files and the programs that are there.

use std::{fs, path::Path};

use crate::{
    build,
    command::{find, output},
};

pub const LLVM: &str = "/usr/lib/llvm-22";

pub fn is_root() -> bool {
    output("id", &["-u"]).is_some_and(|id| id.trim() == "0")
}

/// 5.15 is the first long-term kernel whose `sock_ops` programs can ask for the namespace's cookie.
pub fn has_kernel() -> bool {
    fs::read_to_string("/proc/sys/kernel/osrelease").is_ok_and(|release| is_recent(&release))
}

fn is_recent(release: &str) -> bool {
    let mut parts = release.split(['.', '-']).map(str::parse::<u32>);
    matches!((parts.next(), parts.next()), (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= (5, 15))
}

pub fn has_btf() -> bool {
    Path::new("/sys/kernel/btf/vmlinux").exists()
}

pub fn has_cgroup2() -> bool {
    has_mounted("cgroup2")
}

/// The agent mounts it if the kernel only knows it.
pub fn has_bpffs() -> bool {
    has_mounted("bpf")
        || fs::read_to_string("/proc/filesystems")
            .is_ok_and(|known| known.lines().any(|line| line.ends_with("\tbpf")))
}

fn has_mounted(kind: &str) -> bool {
    fs::read_to_string("/proc/mounts")
        .is_ok_and(|mounts| mounts.lines().any(|line| line.split(' ').nth(2) == Some(kind)))
}

pub fn has_c_compiler() -> bool {
    output("cc", &["--version"]).is_some() && Path::new("/usr/include/stdio.h").exists()
}

pub fn has_cxx_compiler() -> bool {
    output("c++", &["--version"]).is_some()
}

pub fn has_ebpf_toolchain() -> bool {
    build::mode().is_some()
}

pub fn has_linker() -> bool {
    output("bpf-linker", &["--version"]).is_some()
}

/// What bpf-linker is built with; of no use once it is there.
pub fn has_llvm_or_linker() -> bool {
    has_linker() || (Path::new(LLVM).join("bin/llvm-config").exists() && has_cxx_compiler())
}

pub fn has_pgbench() -> bool {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut programs = versions.map(|version| version.path().join("bin"));
    programs.any(|bin| bin.join("postgres").is_file() && bin.join("pgbench").is_file())
}

pub fn has_faketime() -> bool {
    let libraries = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut directories = libraries.map(|entry| entry.path().join("faketime"));
    directories.any(|directory| directory.join("libfaketime.so.1").is_file())
}

/// Debian's own interpreter, as for the websockets.
pub fn has_python() -> bool {
    Path::new("/usr/bin/python3").exists()
}

pub fn has_websockets() -> bool {
    // Debian's own interpreter: another one, first on the PATH, does not see Debian's modules.
    output("/usr/bin/python3", &["-c", "import websockets"]).is_some()
}

/// Kernel features that single tests need and Martlet itself does not; only for one of these,
/// and only where it is really absent, may a test be skipped.
pub fn lacks(feature: &str) -> Option<bool> {
    let absent = |path: &str| !Path::new(path).exists();
    Some(match feature {
        "ipv6" => absent("/proc/net/if_inet6"),
        "mptcp" => absent("/proc/sys/net/mptcp/enabled"),
        "io_uring" => {
            fs::read_to_string("/proc/kallsyms")
                .is_ok_and(|symbols| !symbols.contains("io_uring_setup"))
                || fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
                    .is_ok_and(|disabled| disabled.trim() != "0")
        }
        "fastopen" => absent("/proc/sys/net/ipv4/tcp_fastopen"),
        "tls" => !fs::read_to_string("/proc/sys/net/ipv4/tcp_available_ulp")
            .is_ok_and(|protocols| protocols.split_whitespace().any(|name| name == "tls")),
        _ => return None,
    })
}

/// Whether all of these programs can be found.
pub fn has(programs: &[&str]) -> bool {
    programs.iter().all(|program| find(program).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_from_5_15_on_are_recent() {
        for recent in ["5.15.0-130-generic", "6.1.0-28-amd64\n", "6.18.44"] {
            assert!(is_recent(recent), "{recent}");
        }
    }

    #[test]
    fn older_and_unreadable_kernels_are_not() {
        for old in ["5.10.0-33-amd64", "4.19.1", "", "next"] {
            assert!(!is_recent(old), "{old}");
        }
    }

    #[test]
    fn a_feature_that_nobody_knows_is_not_lacked() {
        assert_eq!(lacks("patience"), None);
    }

    #[test]
    fn a_program_that_is_not_there_is_missed() {
        assert!(has(&["sh"]));
        assert!(!has(&["sh", "no-such-program"]));
    }
}
