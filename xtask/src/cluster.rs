//! A Kubernetes cluster of several nodes on this machine, from Debian's packages alone.
//!
//! Everything of a cluster is in its namespaces, its control groups and its directory, so that
//! `down` finds all of it, whoever has made it and whenever.

mod bookshop;
mod cache;
mod certificates;
mod control;
mod groups;
mod images;
mod kubectl;
mod kubernetes;
mod launch;
mod network;
mod node;
mod place;
mod root;
mod wait;

use std::{
    fs::{self, File},
    os::unix::{fs::symlink, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use self::{
    groups::Groups,
    node::Parts,
    place::{MOST_NODES, Node, Place},
};
use crate::{
    command::output,
    doctor::{self, Group},
};

#[derive(clap::Args)]
pub struct Args {
    /// Several clusters can be up at once, each with a name of its own.
    #[arg(long, default_value = "martlet", env = "MARTLET_CLUSTER")]
    name: String,
    #[command(subcommand)]
    task: Task,
}

#[derive(clap::Subcommand)]
enum Task {
    /// Make the cluster, or say that it is up. What was in it before `down` is there again.
    Up(Up),
    /// End the cluster, and leave nothing of it on the machine but its files.
    Down {
        /// Its files, too.
        #[arg(long)]
        purge: bool,
    },
    /// Put an image, as a tar archive of OCI's or docker's, into every node.
    Load { archive: PathBuf },
    /// Put the image of the demo application into every node; it is made once, from Debian's packages.
    LoadBookshop,
    /// Run a program in a node, such as `exec node1 bash`.
    Exec {
        node: String,
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Run kubectl against the cluster.
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

#[derive(clap::Args)]
struct Up {
    /// 2 by default.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_NODES)))]
    nodes: Option<u32>,
    /// How kube-proxy makes services reachable. iptables by default.
    #[arg(long, value_enum)]
    proxy: Option<Proxy>,
    /// How pods are connected to their node. bridge by default.
    #[arg(long, value_enum)]
    cni: Option<Cni>,
    /// Only name what is missing, instead of installing it first.
    #[arg(long)]
    no_install: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Proxy {
    Iptables,
    Ipvs,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Cni {
    Bridge,
    Ptp,
}

/// What a cluster was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    nodes: u32,
    proxy: Proxy,
    cni: Cni,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let place = Place::named(&args.name)?;
    match &args.task {
        Task::Up(wanted) => up(&place, wanted)?,
        Task::Down { purge } => down(&place, *purge)?,
        Task::Load { archive } => load(&place, archive)?,
        Task::LoadBookshop => {
            running(&place)?;
            load(&place, &bookshop::archive()?)?;
        }
        Task::Exec { node, command } => return Err(exec(&place, node, command)?.exec().into()),
        Task::Kubectl { arguments } => {
            existing(&place)?;
            return Err(kubectl::command(&place).args(arguments).exec().into());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn up(place: &Place, wanted: &Up) -> Result<()> {
    let _lock = lock(place)?;
    let groups = Groups::of(place)?;
    if groups::is_populated(&groups.control()) {
        let shape = Shape::read(place)?;
        ensure!(
            wanted.fits(shape),
            "cluster {} is up with {}; take it down first to change that",
            place.name,
            shape.describe()
        );
        if place.nodes().iter().all(|node| groups::is_populated(&groups.node(*node))) {
            println!("cluster {} is up with {}", place.name, shape.describe());
            println!("export KUBECONFIG={}", place.kubeconfig().display());
            return Ok(());
        }
        bail!("a node of cluster {} has ended; take it down first", place.name);
    }
    doctor::run(&[Group::Cluster], !wanted.no_install)?;
    let shape = wanted.shape();
    ensure!(
        shape.proxy != Proxy::Ipvs || Path::new("/proc/net/ip_vs").exists() || load_ip_vs(),
        "this kernel has no IP virtual server, which kube-proxy's mode ipvs needs"
    );
    let (programs, files) = (kubernetes::programs()?, root::file_system()?);
    let images = images::archives(&programs)?;
    let began = Instant::now();
    clear(place, &groups)?;
    shape.write(place)?;
    let link = place.path("programs");
    let _ = fs::remove_file(&link);
    symlink(&programs, &link).context("naming the cluster's programs")?;
    let authority = control::up(place, &groups, &programs)?;
    println!("control plane [{:.1} s]", began.elapsed().as_secs_f32());
    let nodes: Vec<_> = (1..=shape.nodes).map(Node).collect();
    let since = output("date", &["--utc", "+%Y-%m-%dT%H:%M:%SZ"]).context("asking for the time")?;
    let parts = Parts {
        place,
        groups: &groups,
        programs: &programs,
        files: &files,
        images: &images,
        proxy: shape.proxy,
        cni: shape.cni,
    };
    let mut started = Vec::new();
    for node in &nodes {
        started.push((*node, parts.start(*node, &authority)?));
    }
    network::route(place, &nodes)?;
    node::wait_ready(place, &mut started, since.trim())?;
    // Without it no pod is taken.
    wait::until("the first service account", 30, &place.log("kube-controller-manager"), || {
        Ok(kubectl::output(place, &["get", "serviceaccount", "default"]).is_ok())
    })?;
    println!(
        "cluster {} [{:.1} s]: {}",
        place.name,
        began.elapsed().as_secs_f32(),
        shape.describe()
    );
    println!("export KUBECONFIG={}", place.kubeconfig().display());
    Ok(())
}

fn down(place: &Place, purge: bool) -> Result<()> {
    let _lock = lock(place)?;
    clear(place, &Groups::of(place)?)?;
    if purge {
        fs::remove_dir_all(&place.directory)
            .with_context(|| format!("removing {}", place.directory.display()))?;
    }
    Ok(())
}

/// Ends what is left of a cluster, whether it was whole or not.
fn clear(place: &Place, groups: &Groups) -> Result<()> {
    for node in (1..=MOST_NODES).map(Node) {
        groups.end(&groups.node(node))?;
        groups.remove(&node.name())?;
    }
    groups.end(&groups.control())?;
    groups.remove("")?;
    for node in (1..=MOST_NODES).map(Node) {
        network::remove(&place.node_netns(node))?;
    }
    network::remove(&place.netns())
}

fn load(place: &Place, archive: &Path) -> Result<()> {
    let is_up = running(place)?;
    for node in is_up {
        let file = File::open(archive).with_context(|| archive.display().to_string())?;
        let import = ["ctr", "--namespace", "k8s.io", "images", "import", "-"];
        let mut command = exec(place, &node.name(), &import.map(str::to_owned))?;
        let status = command.stdin(Stdio::from(file)).status().context("starting nsenter")?;
        ensure!(status.success(), "{} did not take {}", node.name(), archive.display());
    }
    Ok(())
}

/// Enters the node's control groups, too: what is run there ends with the node.
fn exec(place: &Place, node: &str, command: &[String]) -> Result<Command> {
    const ENTER: &str = r#"
for group in $1; do echo $$ > "$group/cgroup.procs"; done
exec nsenter --target "$2" --mount --pid --net --uts --ipc --cgroup env \
    PATH=/opt/kubernetes:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "${@:3}"
"#;
    let nodes = running(place)?;
    let names: Vec<_> = nodes.iter().map(|node| node.name()).collect();
    let node = nodes.into_iter().find(|known| known.name() == node);
    let node = node.with_context(|| format!("the cluster's nodes are {}", names.join(", ")))?;
    let groups = Groups::of(place)?;
    let first = groups::first_process(&groups.node(node));
    let first = first.with_context(|| format!("{} has no first process", node.name()))?;
    let of_node: Vec<_> = groups.all_of_node(node).iter().map(|group| scope(group)).collect();
    let mut enter = Command::new("bash");
    enter.args(["-c", ENTER, "enter", &of_node.join(" "), &first]).args(command);
    Ok(enter)
}

/// Of the second version only leaves have processes.
fn scope(group: &Path) -> String {
    let scope = group.join("init.scope");
    if scope.exists() { scope } else { group.to_owned() }.display().to_string()
}

/// The nodes of a cluster that is up.
fn running(place: &Place) -> Result<Vec<Node>> {
    let shape = existing(place)?;
    Ok((1..=shape.nodes).map(Node).collect())
}

fn existing(place: &Place) -> Result<Shape> {
    let groups = Groups::of(place)?;
    ensure!(
        groups::is_populated(&groups.control()),
        "cluster {} is not up: `cargo xtask cluster up`",
        place.name
    );
    Shape::read(place)
}

/// Only one at a time makes or ends a cluster.
fn lock(place: &Place) -> Result<File> {
    let above = place.directory.parent().context("a cluster's directory is below another")?;
    fs::create_dir_all(above).with_context(|| above.display().to_string())?;
    let path = above.join(format!("{}.lock", place.name));
    let lock = File::create(&path).with_context(|| path.display().to_string())?;
    lock.lock().with_context(|| format!("locking {}", path.display()))?;
    Ok(lock)
}

/// A kernel may have it as a module.
fn load_ip_vs() -> bool {
    let loaded = Command::new("modprobe").args(["--quiet", "ip_vs"]).status();
    loaded.is_ok_and(|status| status.success())
}

impl Up {
    fn shape(&self) -> Shape {
        Shape {
            nodes: self.nodes.unwrap_or(2),
            proxy: self.proxy.unwrap_or(Proxy::Iptables),
            cni: self.cni.unwrap_or(Cni::Bridge),
        }
    }

    /// Whether nothing else is asked for.
    fn fits(&self, shape: Shape) -> bool {
        self.nodes.is_none_or(|nodes| nodes == shape.nodes)
            && self.proxy.is_none_or(|proxy| proxy == shape.proxy)
            && self.cni.is_none_or(|cni| cni == shape.cni)
    }
}

impl Proxy {
    fn name(self) -> &'static str {
        match self {
            Proxy::Iptables => "iptables",
            Proxy::Ipvs => "ipvs",
            Proxy::None => "none",
        }
    }
}

impl Cni {
    fn name(self) -> &'static str {
        match self {
            Cni::Bridge => "bridge",
            Cni::Ptp => "ptp",
        }
    }
}

impl Shape {
    const FILE: &str = "shape.json";

    fn describe(self) -> String {
        let nodes =
            if self.nodes == 1 { "1 node".to_owned() } else { format!("{} nodes", self.nodes) };
        format!("{nodes}, kube-proxy {}, CNI {}", self.proxy.name(), self.cni.name())
    }

    fn write(self, place: &Place) -> Result<()> {
        let shape = json!({
            "nodes": self.nodes, "proxy": self.proxy.name(), "cni": self.cni.name(),
        });
        place.write(Self::FILE, &shape.to_string()).map(drop)
    }

    fn read(place: &Place) -> Result<Self> {
        let path = place.path(Self::FILE);
        let text = fs::read(&path).with_context(|| path.display().to_string())?;
        let shape: Value = serde_json::from_slice(&text).context("reading a cluster's shape")?;
        let proxies = [Proxy::Iptables, Proxy::Ipvs, Proxy::None];
        let cnis = [Cni::Bridge, Cni::Ptp];
        let found = (
            shape["nodes"].as_u64().and_then(|nodes| u32::try_from(nodes).ok()),
            proxies.into_iter().find(|proxy| shape["proxy"] == proxy.name()),
            cnis.into_iter().find(|cni| shape["cni"] == cni.name()),
        );
        match found {
            (Some(nodes), Some(proxy), Some(cni)) => Ok(Self { nodes, proxy, cni }),
            _ => bail!("{} is not what `up` has written", path.display()),
        }
    }
}
