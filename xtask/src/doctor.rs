//! What a machine needs: checked, named, and with `--yes` installed.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, bail, ensure};

struct Need {
    what: &'static str,
    why: &'static str,
    present: fn() -> bool,
    remedy: Remedy,
}

enum Remedy {
    /// Debian packages.
    Packages(&'static [&'static str]),
    /// bpf-linker, from source, against the LLVM that rustc for eBPF has.
    Linker,
    /// Cannot be installed.
    Machine(&'static str),
}

const NEEDS: &[Need] = &[
    Need {
        what: "root",
        why: "kernel tests load eBPF programs and make network namespaces",
        present: || output("id", &["-u"]).is_some_and(|id| id.trim() == "0"),
        remedy: Remedy::Machine("run as root"),
    },
    Need {
        what: "kernel type information (BTF)",
        why: "eBPF maps are described with it",
        present: || Path::new("/sys/kernel/btf/vmlinux").exists(),
        remedy: Remedy::Machine("use a kernel of 5.15 or later with CONFIG_DEBUG_INFO_BTF=y"),
    },
    Need {
        what: "C compiler",
        why: "the cryptographic library has parts in C",
        present: || output("cc", &["--version"]).is_some(),
        remedy: Remedy::Packages(&["gcc", "libc6-dev"]),
    },
    Need {
        what: "ip",
        why: "kernel tests make network namespaces with it",
        present: || output("ip", &["-V"]).is_some(),
        remedy: Remedy::Packages(&["iproute2"]),
    },
    Need {
        what: "openssl",
        why: "tests let it judge our certificates, and make odd ones with it",
        present: || output("openssl", &["version"]).is_some(),
        remedy: Remedy::Packages(&["openssl"]),
    },
    Need {
        what: "rustc for eBPF",
        why: "it brings `core` for the kernel's virtual machine; rustup's rust-src does as well",
        present: ebpf_toolchain,
        remedy: Remedy::Packages(&["rustc-web", "libstd-rust-web-dev-bpf"]),
    },
    Need {
        what: "LLVM 22 for bpf-linker",
        why: "bpf-linker is built against the LLVM of the rustc for eBPF",
        present: || linker() || Path::new("/usr/lib/llvm-22/bin/llvm-config").exists(),
        remedy: Remedy::Packages(&["llvm-22-dev", "libpolly-22-dev", "zlib1g-dev", "libzstd-dev"]),
    },
    Need {
        what: "bpf-linker",
        why: "it links eBPF programs",
        present: linker,
        remedy: Remedy::Linker,
    },
];

/// Fails if something is missing and is not, or cannot be, installed.
pub fn run(install: bool) -> Result<()> {
    let mut updated = false;
    let mut missing = 0;
    for need in NEEDS {
        if (need.present)() {
            println!("  ok       {}", need.what);
            continue;
        }
        println!("  missing  {}: {}\n           {}", need.what, need.why, need.remedy.command());
        if install {
            need.remedy.apply(&mut updated)?;
            ensure!((need.present)(), "{} is still missing after its installation", need.what);
        } else {
            missing += 1;
        }
    }
    match missing {
        0 => Ok(()),
        _ => bail!("{missing} missing; `cargo xtask doctor --yes` installs what can be installed"),
    }
}

impl Remedy {
    fn command(&self) -> String {
        match self {
            Remedy::Packages(names) => format!("apt-get install {}", names.join(" ")),
            Remedy::Linker => format!("LLVM_PREFIX={LLVM} cargo {}", LINKER_ARGUMENTS.join(" ")),
            Remedy::Machine(advice) => (*advice).to_owned(),
        }
    }

    fn apply(&self, updated: &mut bool) -> Result<()> {
        match self {
            Remedy::Machine(advice) => bail!("cannot be installed: {advice}"),
            Remedy::Linker => {
                run_command(Command::new("cargo").args(LINKER_ARGUMENTS).env("LLVM_PREFIX", LLVM))
            }
            Remedy::Packages(names) => {
                if !*updated {
                    run_command(Command::new("apt-get").arg("update"))?;
                    *updated = true;
                }
                let mut install = Command::new("apt-get");
                install.args(["install", "-y"]).args(*names);
                run_command(install.env("DEBIAN_FRONTEND", "noninteractive"))
            }
        }
    }
}

const LLVM: &str = "/usr/lib/llvm-22";
const LINKER_ARGUMENTS: &[&str] = &[
    "install",
    "bpf-linker",
    "--version",
    "0.13.0",
    "--no-default-features",
    "--features",
    "llvm-22",
];

fn ebpf_toolchain() -> bool {
    let sysroot = |rustc: &str| output(rustc, &["--print", "sysroot"]);
    let has = |root: String, part: &str| Path::new(root.trim()).join(part).is_dir();
    ["rustc", "/usr/bin/rustc"]
        .iter()
        .filter_map(|rustc| sysroot(rustc))
        .any(|root| has(root, "lib/rustlib/bpfel-unknown-none"))
        || sysroot("rustc").is_some_and(|root| has(root, "lib/rustlib/src/rust/library/core"))
}

fn linker() -> bool {
    output("bpf-linker", &["--version"]).is_some()
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn run_command(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("running {command:?}"))?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}
