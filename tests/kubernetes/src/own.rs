//! A cluster that tests make for themselves, by the same task that people use.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result, ensure};
use martlet_lab::Netns;

use crate::kubectl::Kubectl;

/// Goes down, with its files, when it is dropped.
#[derive(Debug)]
pub struct Own {
    name: String,
    directory: PathBuf,
}

impl Own {
    /// Under a name that nobody else has on this machine.
    pub fn up(options: &[&str]) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("t{}x{count}", std::process::id());
        // Before anything is made, so that what half of it was made goes away, too.
        let mut own = Self { name, directory: PathBuf::new() };
        let said = own.task(&[&["up"], options].concat())?;
        let kubeconfig = said.lines().find_map(|line| line.strip_prefix("export KUBECONFIG="));
        let kubeconfig = Path::new(kubeconfig.context("`up` names no kubeconfig")?);
        own.directory = kubeconfig.parent().context("a kubeconfig is in a directory")?.to_owned();
        Ok(own)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn kubectl(&self) -> Kubectl {
        let program = self.directory.join("programs/kubectl");
        Kubectl::new(&program, &self.directory.join("kubeconfig"))
    }

    /// Where the bridge is that all traffic between nodes crosses.
    pub fn wire(&self) -> Result<Netns> {
        Netns::open(&format!("cluster-{}", self.name))
    }

    /// Brings the product's image to all nodes: the archive that `MARTLET_IMAGE` names, or one of
    /// release builds, which is made now.
    pub fn load_martlet(&self) -> Result<()> {
        let archive = match env::var_os("MARTLET_IMAGE") {
            Some(path) => PathBuf::from(path),
            None => {
                let path = self.directory.join("martlet.tar");
                let output = xtask().args(["image", "--output"]).arg(&path).output();
                let output = output.context("starting xtask")?;
                let complaint = String::from_utf8_lossy(&output.stderr);
                ensure!(output.status.success(), "making the image:\n{complaint}");
                path
            }
        };
        self.task(&["load", archive.to_str().context("the path of the image is text")?]).map(drop)
    }

    /// `martlet …` against this cluster: the program that `MARTLET_CLI` names, or the one that was built
    /// with this test.
    pub fn martlet(&self, arguments: &[&str]) -> Result<Output> {
        let program = match env::var_os("MARTLET_CLI") {
            Some(path) => PathBuf::from(path),
            None => {
                let test = env::current_exe().context("finding this test")?;
                let built = test.ancestors().nth(2).context("a test is in deps")?;
                built.join("martlet")
            }
        };
        let mut command = Command::new(&program);
        command.env("KUBECONFIG", self.directory.join("kubeconfig")).args(arguments);
        command.output().with_context(|| format!("starting {}", program.display()))
    }

    /// `cargo xtask cluster …` for this cluster: what it prints, if it succeeds.
    pub fn task(&self, arguments: &[&str]) -> Result<String> {
        let Output { status, stdout, stderr } = self.try_task(arguments)?;
        let said = String::from_utf8_lossy(&stdout).into_owned();
        let complaint = String::from_utf8_lossy(&stderr);
        ensure!(status.success(), "cluster {}:\n{said}{complaint}", arguments.join(" "));
        Ok(said)
    }

    pub fn try_task(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = xtask();
        command.args(["cluster", "--name", &self.name]).args(arguments);
        command.output().context("starting xtask")
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Err(error) = self.task(&["down", "--purge"]) {
            eprintln!("{error:#}");
        }
    }
}

/// The task runner that runs these tests, or else the one that cargo builds.
pub fn xtask() -> Command {
    if let Some(path) = env::var_os("MARTLET_XTASK") {
        return Command::new(path);
    }
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["run", "--quiet", "--package", "xtask", "--"]);
    command
}
