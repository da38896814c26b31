//! Installs what is missing: Debian's packages at once, then bpf-linker.

use std::{path::Path, process::Command};

use anyhow::{Result, bail, ensure};

use super::{
    Need, Remedy,
    machine::{self, LLVM},
};
use crate::command::{cargo, find, run};

/// The version that the kernel programs are linked and tested with.
const LINKER: &[&str] = &[
    "install",
    "bpf-linker",
    "--version",
    "0.13.0",
    "--locked",
    "--no-default-features",
    "--features",
    "llvm-22",
];

/// Debian starts the services that it installs, and enables them. A helper that answers 101 forbids
/// the first (invoke-rc.d(8)), a preset the second (systemd.preset(5)). Both are taken away
/// afterwards, also after Ctrl-C; those that are there already stay.
const INSTALL: &str = r#"
policy=/usr/sbin/policy-rc.d
presets=/run/systemd/system-preset
preset=$presets/00-martlet.preset
[ -e "$policy" ] && policy=
trap 'rm -f $policy "$preset"; rmdir "$presets" 2>/dev/null || true' EXIT
trap 'exit 130' INT TERM HUP
mkdir -p "$presets"
echo 'disable *' > "$preset"
if [ -n "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
fi
# One unreachable source of many is no reason to stop: what is missing is seen below.
apt-get -o Acquire::Retries=3 update || echo 'apt-get update failed; going on' >&2
apt-get -o Acquire::Retries=3 install -y --no-install-recommends "$@"
"#;

pub fn all(missing: &[&Need]) -> Result<()> {
    for need in missing {
        if let Remedy::Machine(advice) = need.remedy {
            bail!("{} cannot be installed: {advice}", need.what);
        }
    }
    let packages = packages(missing);
    if !packages.is_empty() {
        ensure!(is_debian(), "only Debian's packages can be installed; see the names above");
        ensure!(machine::is_root(), "installing packages needs root");
        let mut shell = Command::new("sh");
        shell.args(["-c", INSTALL, "install"]).args(packages);
        run(shell.env("DEBIAN_FRONTEND", "noninteractive"))?;
    }
    if missing.iter().any(|need| matches!(need.remedy, Remedy::Linker)) {
        run(cargo(LINKER[0]).args(&LINKER[1..]).env("LLVM_PREFIX", LLVM))?;
    }
    Ok(())
}

fn packages(missing: &[&Need]) -> Vec<&'static str> {
    let mut packages: Vec<_> = missing
        .iter()
        .filter_map(|need| match need.remedy {
            Remedy::Packages(names) => Some(names),
            _ => None,
        })
        .flatten()
        .copied()
        .collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

pub fn is_debian() -> bool {
    Path::new("/etc/debian_version").exists() && find("apt-get").is_some()
}

pub fn linker_command() -> String {
    format!("LLVM_PREFIX={LLVM} cargo {}", LINKER.join(" "))
}
