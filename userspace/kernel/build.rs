//! Builds the kernel programs; the only place that knows which toolchains can.
//!
//! - `MARTLET_BPF_OBJECT=path`: takes a ready object.
//! - A rustc whose sysroot has `core` for bpfel-unknown-none (Debian: `rustc-web` and
//!   `libstd-rust-web-dev-bpf`).
//! - A stable rustup toolchain with `rust-src`: `core` is built along.
//!
//! Both unlock what they need of the compiler for these programs only, never for user space.
//! Without any of them the object is empty, and loading says so, unless `MARTLET_REQUIRE_BPF=1`.

// Setting variables for the inner build is `unsafe` since the 2024 edition.
#![allow(unsafe_code)]

use std::{env, fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};
use aya_build::{Package, Toolchain};

const TARGET: &str = "bpfel-unknown-none";
/// The crates that may use unstable features: aya's, and the programs themselves.
const UNLOCKED: &str = "aya_ebpf,martlet";

fn main() -> Result<()> {
    for variable in ["MARTLET_BPF_OBJECT", "MARTLET_REQUIRE_BPF", "PATH"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    let object = PathBuf::from(env::var("OUT_DIR").context("OUT_DIR")?).join("martlet");
    if let Some(ready) = env::var_os("MARTLET_BPF_OBJECT") {
        fs::copy(&ready, &object).with_context(|| format!("copying {}", ready.display()))?;
        return Ok(());
    }
    match (toolchain(), linker_is_there()) {
        (Some((sysroot, unlocked)), true) => build(&sysroot, unlocked),
        (found, linker) => {
            let missing = match (found.is_some(), linker) {
                (false, _) => {
                    "no toolchain for eBPF: install rustc-web and libstd-rust-web-dev-bpf (Debian), or `rustup component add rust-src`"
                }
                (true, _) => "bpf-linker is missing: run `cargo xtask doctor`",
            };
            if env::var("MARTLET_REQUIRE_BPF").is_ok_and(|value| value == "1") {
                bail!("{missing}");
            }
            println!("cargo:warning=building without kernel programs: {missing}");
            fs::write(&object, []).context("writing an empty object")
        }
    }
}

fn build(sysroot: &str, unlocked: &str) -> Result<()> {
    // SAFETY: build scripts are single-threaded up to here.
    unsafe {
        env::set_var("RUSTC_BOOTSTRAP", unlocked);
        // The profile of user space must not reach the programs.
        env::set_var("CARGO_PROFILE_RELEASE_LTO", "off");
        env::set_var("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1");
        env::set_var("CARGO_PROFILE_RELEASE_DEBUG", "2");
        env::remove_var("RUSTUP_TOOLCHAIN");
    }
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../ebpf");
    let package = Package { name: "martlet-ebpf", root_dir: root, ..Package::default() };
    aya_build::build_ebpf([package], Toolchain::Custom(sysroot))
}

/// A sysroot that can build for the kernel, and what to unlock in it.
fn toolchain() -> Option<(String, &'static str)> {
    let active = sysroot("rustc");
    let ready =
        |root: &String| PathBuf::from(root).join("lib/rustlib").join(TARGET).join("lib").is_dir();
    let with_source =
        |root: &String| PathBuf::from(root).join("lib/rustlib/src/rust/library/core").is_dir();
    [active.clone(), sysroot("/usr/bin/rustc")]
        .into_iter()
        .flatten()
        .find(ready)
        .map(|root| (root, UNLOCKED))
        .or_else(|| active.filter(with_source).map(|root| (root, "1")))
}

fn sysroot(rustc: &str) -> Option<String> {
    let output = Command::new(rustc).args(["--print", "sysroot"]).output().ok()?;
    let root = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| root.trim().to_owned())
}

fn linker_is_there() -> bool {
    Command::new("bpf-linker").arg("--version").output().is_ok_and(|output| output.status.success())
}
