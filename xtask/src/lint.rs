//! Formatting and clippy.

use anyhow::Result;

use crate::{
    build::ALL_BUT_EBPF,
    command::{cargo, run},
};

pub fn format(check: bool) -> Result<()> {
    let mut command = cargo("fmt");
    command.arg("--all");
    if check {
        command.arg("--check");
    }
    run(&mut command)
}

pub fn clippy() -> Result<()> {
    run(cargo("clippy").args(ALL_BUT_EBPF).args(["--all-targets", "--", "-D", "warnings"]))
}
