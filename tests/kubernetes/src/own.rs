//! A cluster that tests make for themselves, by the same task that people use.

use std::{
    env, fs,
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

    /// Where a node's ends of its pods' interfaces are.
    pub fn node(&self, name: &str) -> Result<Netns> {
        Netns::open(&format!("cluster-{}-{name}", self.name))
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

    /// What of Martlet's could be on a node: pins, state, and filters on interfaces.
    pub fn traces(&self, node: &str) -> Result<String> {
        let script = "find /sys/fs/bpf -mindepth 1 | sort; ls -d /var/lib/martlet /run/martlet 2>&1; \
            for n in /sys/class/net/*; do n=${n##*/}; tc qdisc show dev $n | grep -w clsact; \
            for d in ingress egress; do tc filter show dev $n $d; done; done; true";
        self.task(&["exec", node, "bash", "-c", script])
    }

    /// `martlet …` against this cluster, not started yet: the program that `MARTLET_CLI` names, or the one that was built
    /// with this test.
    pub fn martlet_command(&self, arguments: &[&str]) -> Result<Command> {
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
        Ok(command)
    }

    /// The same, run to its end.
    pub fn martlet(&self, arguments: &[&str]) -> Result<Output> {
        self.martlet_command(arguments)?.output().context("starting martlet")
    }

    /// The number of a process of the control plane, such as `kube-apiserver`.
    pub fn control_process(&self, name: &str) -> Result<u32> {
        self.process("control", name)
    }

    /// Where a node has its pins, seen from here.
    pub fn pins(&self, node: &str) -> Result<PathBuf> {
        let number = self.process(&format!("{node}/system.slice/kubelet.service"), "kubelet")?;
        Ok(PathBuf::from(format!("/proc/{number}/root/sys/fs/bpf/martlet")))
    }

    /// The number, as this machine counts, of a process in one of the cluster's groups.
    fn process(&self, group: &str, name: &str) -> Result<u32> {
        let mounts = fs::read_to_string("/proc/mounts").context("reading the mounts")?;
        let unified = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let unified = unified.filter(|fields| fields.get(2) == Some(&"cgroup2"));
        let group = |fields: Vec<&str>| {
            Path::new(fields[1]).join(format!("cluster-{}/{group}/cgroup.procs", self.name))
        };
        let group = unified.map(group).find(|path| path.exists()).context("there is no cluster")?;
        let numbers = fs::read_to_string(group).context("reading a group's processes")?;
        let is_it = |number: &&str| {
            let path = fs::read_link(format!("/proc/{number}/exe"));
            path.is_ok_and(|path| path.ends_with(name))
        };
        let number = numbers.lines().find(is_it).with_context(|| format!("no {name} runs"))?;
        number.parse().context("a process has a number")
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
