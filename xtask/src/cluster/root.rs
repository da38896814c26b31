//! The file system that every node begins with: Debian with containerd, runc and CNI plugins.
//!
//! This file is the recipe: what it makes is kept under the hash of its text.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use super::cache::{self, Workshop};
use crate::{command::find, debian::mirror};

/// Has a containerd that speaks both the old interface of our kubelet and NRI.
const SUITE: &str = "trixie";

const PACKAGES: &[&str] = &[
    "ca-certificates",
    "conntrack",
    "containerd",
    "containernetworking-plugins",
    "ethtool",
    "iproute2",
    "ipset",
    "iptables",
    "kmod",
    "mount",
    "nftables",
    "procps",
    "runc",
    "socat",
    "util-linux",
];

pub fn file_system() -> Result<PathBuf> {
    cache::once("node", &[include_str!("root.rs")], make)
}

fn make(workshop: &Workshop<'_>) -> Result<()> {
    let debootstrap = find("debootstrap").context("debootstrap is missing")?;
    workshop.say(&format!("unpacking Debian {SUITE}"));
    // In a mount namespace of its own: what it mounts goes away with it.
    let mut command = Command::new("unshare");
    command.arg("--mount").arg(debootstrap).arg("--variant=minbase");
    command.arg(format!("--include={}", PACKAGES.join(","))).arg(SUITE);
    command.arg(workshop.directory).arg(mirror()?);
    workshop.run(900, &command)?;
    let archives = workshop.directory.join("var/cache/apt/archives");
    fs::remove_dir_all(&archives).context("removing the packages that were unpacked")
}
