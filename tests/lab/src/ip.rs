//! `ip -batch`: many changes to interfaces, addresses and routes by one process.

use std::{
    io::Write,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

use crate::netns::Netns;

/// Runs the lines inside a namespace, or in our own; stops at the first that fails.
#[allow(unsafe_code)]
pub fn batch(inside: Option<&Netns>, lines: &str) -> Result<()> {
    let mut command = Command::new("ip");
    command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    if let Some(netns) = inside {
        let file = netns.file();
        // SAFETY: setns is one system call on an open file; it allocates nothing and takes no lock.
        // (`ip -n` would do as well, but remounts /sys each time.)
        unsafe {
            command.pre_exec(move || Ok(setns(&*file, CloneFlags::CLONE_NEWNET)?));
        }
    }
    let mut child = command.spawn().context("starting `ip` (Debian: iproute2)")?;
    let mut input = child.stdin.take().context("taking the input of `ip`")?;
    input.write_all(lines.as_bytes()).context("writing to `ip`")?;
    drop(input);
    let output = child.wait_with_output().context("waiting for `ip`")?;
    if !output.status.success() {
        bail!("`ip` failed: {}\n{lines}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
