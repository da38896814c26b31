//! The workspace's binaries, with the kernel programs in them.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::command::{cargo, find, output, run};

/// The kernel programs are built by `martlet-kernel` for their own target, not by these.
pub const ALL_BUT_EBPF: &[&str] = &["--workspace", "--exclude", "martlet-ebpf"];

/// What runs on a node, and what stands in for applications.
pub const NODE: &[&str] = &["martlet-agent", "martlet", "lab-probe"];

/// As package and as program.
pub const PLUGIN: &str = "martlet-cni";

/// How the kernel programs can be compiled. `userspace/kernel/build.rs` chooses in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// A sysroot that has `core` for the kernel's virtual machine.
    Core(String),
    /// Sources from which `core` is built along.
    Source(String),
}

pub fn all(release: bool) -> Result<()> {
    println!("{}", describe()?);
    let mut command = cargo("build");
    command.args(ALL_BUT_EBPF);
    // Debug builds are for whoever has the tests built, too: another choice of targets would select
    // other features of the same libraries, and build these once more.
    match release {
        true => command.args(["--bins", "--release"]),
        false => command.arg("--all-targets"),
    };
    run(&mut command)
}

/// Release builds of some binaries. Chosen from the whole workspace, since another choice of packages
/// would select other features of the same libraries, and build these once more.
pub fn release(binaries: &[&str]) -> Result<()> {
    println!("{}", describe()?);
    let mut command = cargo("build");
    command.args(ALL_BUT_EBPF).arg("--release");
    for binary in binaries {
        command.args(["--bin", binary]);
    }
    run(&mut command)
}

/// The plugin of the container network, linked statically: it runs beside whatever C library a node
/// has. For a target of its own, so that nothing else is built anew for it.
pub fn plugin(release: bool) -> Result<PathBuf> {
    let version = output("rustc", &["-vV"]).context("asking rustc what it is")?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("rustc does not say what it runs on")?;
    let mut command = cargo("build");
    command.args(["--package", PLUGIN, "--bins", "--target", host]);
    command.env("RUSTFLAGS", "-C target-feature=+crt-static");
    if release {
        command.arg("--release");
    }
    run(&mut command)?;
    let profile = if release { "release" } else { "debug" };
    Ok(Path::new("target").join(host).join(profile).join(PLUGIN))
}

fn describe() -> Result<String> {
    let mode = mode().context("no toolchain for eBPF: run `cargo xtask doctor`")?;
    let linker = output("bpf-linker", &["--version"])
        .context("bpf-linker is missing: run `cargo xtask doctor`")?;
    let (how, sysroot) = match &mode {
        Mode::Core(sysroot) => ("with the ready `core` of", sysroot),
        Mode::Source(sysroot) => ("with `core` built from rust-src of", sysroot),
    };
    Ok(format!("kernel programs: {how} {sysroot}, linked by {}", linker.trim()))
}

pub fn mode() -> Option<Mode> {
    let active = sysroot("rustc");
    let candidates = [active.clone(), sysroot("/usr/bin/rustc")];
    choose(&candidates, active, |path| Path::new(path).is_dir())
}

fn choose(
    candidates: &[Option<String>],
    active: Option<String>,
    is_directory: impl Fn(&str) -> bool,
) -> Option<Mode> {
    let ready = |root: &&String| is_directory(&format!("{root}/lib/rustlib/bpfel-unknown-none"));
    let with_source =
        |root: &String| is_directory(&format!("{root}/lib/rustlib/src/rust/library/core"));
    let core = candidates.iter().flatten().find(ready).cloned().map(Mode::Core);
    core.or_else(|| active.filter(with_source).map(Mode::Source))
}

fn sysroot(rustc: &str) -> Option<String> {
    find(rustc)?;
    Some(output(rustc, &["--print", "sysroot"])?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CORE: &str = "/usr/lib/rustlib/bpfel-unknown-none";
    const SOURCE: &str = "/rustup/lib/rustlib/src/rust/library/core";

    fn chosen(directories: &[&str]) -> Option<Mode> {
        let active = Some("/rustup".to_owned());
        choose(&[active.clone(), Some("/usr".to_owned())], active, |path| {
            directories.contains(&path)
        })
    }

    #[test]
    fn a_ready_core_comes_before_sources() {
        assert_eq!(chosen(&[CORE, SOURCE]), Some(Mode::Core("/usr".to_owned())));
        assert_eq!(chosen(&[SOURCE]), Some(Mode::Source("/rustup".to_owned())));
    }

    #[test]
    fn a_toolchain_without_either_is_none() {
        assert_eq!(chosen(&[]), None);
    }
}
