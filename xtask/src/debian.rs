//! Debian's packages without installing them: those of this machine's release, or of another one.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::command::{output, run};

/// Signs all releases, older and newer ones as well.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// How apt is asked: as the machine does it, or with another suite of the same mirror and lists of
/// its own, so that nothing of the machine changes.
#[derive(Default)]
pub struct Apt {
    options: Vec<String>,
}

/// What a suite is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Packages,
    PackagesAndSources,
}

impl Apt {
    pub fn of_suite(own: &Path, suite: &str, kind: Kind) -> Result<Self> {
        for name in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(own.join(name)).context("making directories for apt")?;
        }
        let signed =
            if Path::new(KEYS).exists() { format!("[signed-by={KEYS}] ") } else { "".into() };
        let line = format!("{signed}{} {suite} main\n", mirror()?);
        let mut lines = format!("deb {line}");
        if kind == Kind::PackagesAndSources {
            lines += &format!("deb-src {line}");
        }
        let sources = own.join("sources.list");
        fs::write(&sources, lines).context("writing a source")?;
        let path = own.display();
        let options = vec![
            format!("Dir::Etc::sourcelist={}", sources.display()),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            "Dir::Etc::preferencesparts=/dev/null".to_owned(),
            format!("Dir::State::lists={path}/lists"),
            format!("Dir::Cache={path}/cache"),
        ];
        Ok(Self { options })
    }

    /// Nothing about a package that it does not know.
    pub fn depends(&self, package: &str) -> String {
        let output = self.command("apt-cache").args(["depends", package]).output();
        output.map_or(String::new(), |output| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(self.options());
        command
    }

    /// For programs that are started by others.
    pub fn options(&self) -> impl Iterator<Item = String> {
        let always = ["APT::Sandbox::User=root", "Acquire::Retries=3"].map(str::to_owned);
        let all = always.into_iter().chain(self.options.clone());
        all.flat_map(|option| ["-o".to_owned(), option])
    }
}

/// Where this machine has Debian from; not the mirror of security updates, which has other suites.
pub fn mirror() -> Result<String> {
    let targets = output("apt-get", &["indextargets", "--format", "$(REPO_URI) $(COMPONENT)"]);
    let targets = targets.context("asking apt for its mirror")?;
    let mut mirrors = targets.lines().filter_map(|line| line.strip_suffix(" main"));
    // Others have a component of that name, too.
    let mirror = mirrors.find(|uri| uri.trim_end_matches('/').ends_with("/debian"));
    Ok(mirror.context("apt has no source of Debian's main")?.to_owned())
}

/// Unpacks all packages in a directory there, and removes them.
pub fn unpack_all(directory: &Path) -> Result<()> {
    let mut found = false;
    for package in packages(directory)? {
        run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(directory))?;
        fs::remove_file(&package).with_context(|| package.display().to_string())?;
        found = true;
    }
    ensure!(found, "{} has no packages", directory.display());
    Ok(())
}

fn packages(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let paths = entries.flatten().map(|entry| entry.path());
    Ok(paths.filter(|path| path.extension().is_some_and(|end| end == "deb")).collect())
}

/// The one file or directory of a directory whose name begins and ends so.
pub fn only_one(directory: &Path, beginning: &str, end: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let is_meant = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(beginning) && name.ends_with(end)
    };
    let found: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(is_meant).collect();
    match <[PathBuf; 1]>::try_from(found) {
        Ok([path]) => Ok(path),
        Err(paths) => bail!(
            "{} has {} files called {beginning}…{end}, not one",
            directory.display(),
            paths.len()
        ),
    }
}
