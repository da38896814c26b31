//! The kernels, from Debian's packages, unpacked below `target` and not installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{Program, image};
use crate::{
    command::{output, run},
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
            Some(suite) => Apt::of_suite(&root, suite)?,
            None => Apt::default(),
        };
        let package = self.image_package(&apt)?;
        let directory = root.join(&package);
        if !directory.exists() {
            unpack(&apt, &package, &directory)?;
        }
        Unpacked::open(directory)
    }

    fn image_package(&self, apt: &Apt) -> Result<String> {
        let mut ask = apt.command("apt-cache");
        if let Some(suite) = self.suite {
            ask.args(["-o", &format!("APT::Default-Release={suite}")]);
        }
        ask.args(["depends", self.package]);
        let mut depends = || {
            let output = ask.output().ok()?;
            image_of(&String::from_utf8_lossy(&output.stdout))
        };
        if let Some(package) = depends() {
            return Ok(package);
        }
        run(apt.command("apt-get").arg("update"))?;
        depends().with_context(|| format!("no package source has {}", self.package))
    }
}

/// How apt is asked: as the machine does it, or with another suite of the same mirror and lists of
/// its own, so that nothing of the machine changes.
#[derive(Default)]
struct Apt {
    options: Vec<String>,
}

impl Apt {
    fn of_suite(root: &Path, suite: &str) -> Result<Self> {
        let targets = output("apt-get", &["indextargets", "--format", "$(REPO_URI) $(COMPONENT)"]);
        let targets = targets.context("asking apt for its mirror")?;
        // Debian's, but not that of security updates, which has other suites.
        let mut mirrors = targets.lines().filter_map(|line| line.strip_suffix(" main"));
        let mirror = mirrors.find(|uri| !uri.contains("security"));
        let mirror = mirror.context("apt has no source of main")?;
        let own = root.join("apt");
        for name in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(own.join(name)).context("making directories for apt")?;
        }
        let sources = own.join("sources.list");
        fs::write(&sources, format!("deb {mirror} {suite} main\n")).context("writing a source")?;
        let path = own.display();
        let options = vec![
            format!("Dir::Etc::sourcelist={}", sources.display()),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            format!("Dir::State::lists={path}/lists"),
            format!("Dir::Cache={path}/cache"),
        ];
        Ok(Self { options })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(["-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3"]);
        for option in &self.options {
            command.args(["-o", option]);
        }
        command
    }
}

/// The image in what `apt-cache depends` says.
fn image_of(depends: &str) -> Option<String> {
    let mut names = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    names.find(|name| name.starts_with("linux-image-")).map(str::to_owned)
}

/// Complete, or not there at all.
fn unpack(apt: &Apt, package: &str, directory: &Path) -> Result<()> {
    let partial = directory.with_extension("partial");
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial).with_context(|| partial.display().to_string())?;
    run(apt.command("apt-get").args(["download", package]).current_dir(&partial))?;
    let unpack = "dpkg-deb -x *.deb . && rm *.deb && depmod -b . $(ls lib/modules)";
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
    pub fn image(&self, programs: &[Program]) -> Result<PathBuf> {
        image::make(&self.directory, &self.modules, programs)
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
    }

    #[test]
    fn a_kernel_that_nobody_knows_is_refused() {
        assert_eq!(named(Some("6.1")).unwrap().len(), 1);
        assert_eq!(named(None).unwrap().len(), 2);
        assert_eq!(named(Some("newest")).unwrap().len(), 1);
        assert!(named(Some("2.4")).is_err());
    }
}
