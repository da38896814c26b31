//! The kernels, from Debian's packages, unpacked below `target` and not installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{Program, image};
use crate::{
    command::run,
    debian::{Apt, Kind},
    doctor::is_debian,
};

pub struct Kernel {
    pub name: &'static str,
    /// Depends on the newest image of this series.
    package: &'static str,
    /// Of another release of Debian than the machine's.
    suite: Option<&'static str>,
}

/// Those of the machine's own release run unless one is named.
const KERNELS: &[Kernel] = &[
    Kernel { name: "6.1", package: "linux-image-amd64", suite: None },
    Kernel { name: "6.12", package: "linux-image-6.12-amd64", suite: None },
    Kernel { name: "newest", package: "linux-image-amd64", suite: Some("trixie-backports") },
];

/// An unpacked kernel.
pub struct Unpacked {
    pub kernel: PathBuf,
    directory: PathBuf,
    modules: PathBuf,
}

pub fn named(name: Option<&str>) -> Result<Vec<&'static Kernel>> {
    let is_wanted = |kernel: &&Kernel| match name {
        Some(name) => name == kernel.name,
        None => kernel.suite.is_none(),
    };
    let wanted: Vec<_> = KERNELS.iter().filter(is_wanted).collect();
    if wanted.is_empty() {
        let known: Vec<_> = KERNELS.iter().map(|kernel| kernel.name).collect();
        bail!("there is no such kernel; known are {}", known.join(", "));
    }
    Ok(wanted)
}

impl Kernel {
    /// Downloads and unpacks it, unless it is there.
    pub fn fetch(&self) -> Result<Unpacked> {
        ensure!(is_debian(), "kernels for virtual machines come from Debian's packages");
        fs::create_dir_all("target/vm").context("target/vm")?;
        let root = fs::canonicalize("target/vm")?;
        let apt = match self.suite {
            Some(suite) => Apt::of_suite(&root.join("apt"), suite, Kind::Packages)?,
            None => Apt::default(),
        };
        let package = self.image_package(&apt)?;
        let directory = root.join(&package);
        if !directory.exists() {
            let parts = parts_of(&apt.depends(&package));
            unpack(&apt, [vec![package], parts].concat(), &directory)?;
        }
        Unpacked::open(directory)
    }

    fn image_package(&self, apt: &Apt) -> Result<String> {
        if let Some(package) = image_of(&apt.depends(self.package)) {
            return Ok(package);
        }
        run(apt.command("apt-get").arg("update"))?;
        image_of(&apt.depends(self.package))
            .with_context(|| format!("no package source has {}", self.package))
    }
}

/// The names of what a package needs, in what `apt-cache depends` says.
fn needed(depends: &str) -> impl Iterator<Item = &str> {
    depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "))
}

fn image_of(depends: &str) -> Option<String> {
    needed(depends).find(|name| name.starts_with("linux-image-")).map(str::to_owned)
}

/// Newer images have kernel and modules in packages of their own.
fn parts_of(depends: &str) -> Vec<String> {
    const PARTS: [&str; 3] = ["linux-base-", "linux-binary-", "linux-modules-"];
    let is_part = |name: &&str| PARTS.iter().any(|part| name.starts_with(part));
    needed(depends).filter(is_part).map(str::to_owned).collect()
}

/// Complete, or not there at all.
fn unpack(apt: &Apt, packages: Vec<String>, directory: &Path) -> Result<()> {
    let mut partial = directory.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial).with_context(|| partial.display().to_string())?;
    run(apt.command("apt-get").arg("download").args(packages).current_dir(&partial))?;
    // Newer packages have their files below /usr.
    let unpack = "set -e; for deb in *.deb; do dpkg-deb -x \"$deb\" .; rm \"$deb\"; done
        [ -e lib ] || ln -s usr/lib lib
        [ -e boot ] || { mkdir boot; ln lib/modules/*/vmlinuz boot/vmlinuz-$(ls lib/modules); }
        depmod -b . $(ls lib/modules)";
    run(Command::new("sh").args(["-c", unpack]).current_dir(&partial))?;
    fs::rename(&partial, directory).context("moving the unpacked kernel")
}

impl Unpacked {
    fn open(directory: PathBuf) -> Result<Self> {
        let one = |inside: &str, beginning: &str| {
            let inside = directory.join(inside);
            let entries = fs::read_dir(&inside).with_context(|| inside.display().to_string())?;
            let mut paths = entries.flatten().map(|entry| entry.path());
            let found = paths.find(|path| {
                path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(beginning))
            });
            found.with_context(|| format!("{} has no {beginning}", inside.display()))
        };
        let (kernel, modules) = (one("boot", "vmlinuz-")?, one("lib/modules", "")?);
        Ok(Self { kernel, modules, directory })
    }

    /// The first file system of a machine that runs these programs.
    pub fn image(&self, programs: &[Program], variables: &[(String, PathBuf)]) -> Result<PathBuf> {
        image::make(&self.directory, &self.modules, programs, variables)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_what_the_newest_of_a_series_depends_on() {
        let depends = "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n";
        assert_eq!(image_of(depends).as_deref(), Some("linux-image-6.1.0-56-amd64"));
        assert_eq!(image_of(""), None);
        let newer = "linux-image-7\n  Depends: linux-base-7\n  Depends: linux-modules-7\n";
        assert_eq!(parts_of(newer), ["linux-base-7", "linux-modules-7"]);
    }

    #[test]
    fn a_kernel_that_nobody_knows_is_refused() {
        assert_eq!(named(Some("6.1")).unwrap().len(), 1);
        assert_eq!(named(None).unwrap().len(), 2);
        assert_eq!(named(Some("newest")).unwrap().len(), 1);
        assert!(named(Some("2.4")).is_err());
    }
}
