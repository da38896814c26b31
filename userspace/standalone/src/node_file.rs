//! What a valid node file says.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use martlet_model::{
    Collector, Directory, Failure, Label, LocalWorkload, NetnsSource, Ratio, TrustDomain,
    WorkloadName,
};
use martlet_policy::PolicySet;
use serde_json::Value;

use crate::{
    check,
    file::File,
    limits,
    problem::{Fault, NodeFileError},
    yaml,
};

#[derive(Debug, Clone)]
pub struct NodeFile {
    pub trust_domain: TrustDomain,
    pub source: Source,
    pub settings: Settings,
    /// The workloads of this node, in the file's order; the directory holds them too.
    pub local: Vec<LocalWorkload>,
    /// The network namespaces of this node that are outside the mesh by decision.
    pub outside: Outside,
    pub directory: Arc<Directory>,
    pub policies: Arc<PolicySet>,
}

/// Where certificates come from, and what is the same on all nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// An authority in the agent itself, by the directory that holds root and issuer; the rest is in
    /// the file.
    Authority(PathBuf),
    Controller(Controller),
}

/// Where the controller is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Controller {
    /// A name or an address, and a port.
    pub address: String,
    pub joins: Joins,
}

/// By which files a node joins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joins {
    /// The one with the token that is good once.
    Token(PathBuf),
    /// Those of a pod of Kubernetes.
    ServiceAccount { token: PathBuf, roots: PathBuf },
    /// Those of a host that has a certificate.
    Host { certificate: PathBuf, key: PathBuf, roots: PathBuf },
}

/// Network namespaces that are outside the mesh by decision. What is neither among them nor a
/// workload's is undecided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outside {
    These(Vec<NetnsSource>),
    /// All that are no workload's; none is undecided.
    AllOthers,
}

/// How this node's agent runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub name: Label,
    /// `None`: the root of the mounted cgroup v2.
    pub cgroup: Option<PathBuf>,
    /// `None`: the agent's own.
    pub host_netns: Option<PathBuf>,
    /// Who may probe strict workloads in plaintext; `None`: nobody may.
    pub prober: Option<ProberIs>,
    pub pin: PathBuf,
    pub state: PathBuf,
    pub socket: PathBuf,
    /// `None`: off.
    pub metrics: Option<SocketAddr>,
    pub access_log: AccessLog,
    /// `None`: no connection is traced.
    pub traces: Option<Traces>,
    pub failure: Failure,
}

/// Who is told of connections, and of how many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traces {
    pub collector: Collector,
    /// The file with what the collector's certificate leads to; with TLS it is there, and only then.
    pub authorities: Option<PathBuf>,
    pub ratio: Ratio,
}

/// How the prober's cgroup is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProberIs {
    Cgroup(PathBuf),
    /// The one that a process of this name is in.
    Process(String),
}

/// Where an agent keeps what outlives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    pub pin: PathBuf,
    pub state: PathBuf,
    pub socket: PathBuf,
    /// The network namespace with the host's ends of the pods' interfaces; `None`: one's own.
    pub host_netns: Option<PathBuf>,
}

impl Default for Places {
    /// Where bpffs is mounted on every system that mounts it; what the unit's `StateDirectory`
    /// makes; in what its `RuntimeDirectory` makes.
    fn default() -> Self {
        Self {
            pin: "/sys/fs/bpf/martlet".into(),
            state: "/var/lib/martlet".into(),
            socket: "/run/martlet/agent.sock".into(),
            host_netns: None,
        }
    }
}

impl Settings {
    /// Where a workload of this node is offered the Workload API; an error if the kernel has no room
    /// for the path.
    pub fn workload_socket(&self, workload: &WorkloadName) -> Result<PathBuf, Fault> {
        let WorkloadName { namespace, name } = workload;
        let directory = self.places().workload_sockets();
        let path = directory.join(namespace.as_str()).join(format!("{name}.sock"));
        match path.as_os_str().len() {
            length if length > limits::MAX_SOCKET_PATH_BYTES => {
                Err(Fault::LongWorkloadSocket { workload: workload.clone(), path, length })
            }
            _ => Ok(path),
        }
    }

    pub fn places(&self) -> Places {
        let Settings { pin, state, socket, host_netns, .. } = self.clone();
        Places { pin, state, socket, host_netns }
    }
}

impl Places {
    /// Below it are the sockets of the Workload API: beside the agent's own, where it may write.
    pub fn workload_sockets(&self) -> PathBuf {
        self.socket.with_file_name("workloads")
    }

    /// Where an agent is asked to give its place to another one.
    pub fn takeover_socket(&self) -> PathBuf {
        self.socket.with_file_name("takeover.sock")
    }
}

/// Where access records go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLog {
    Stdout,
    Off,
    File(PathBuf),
}

/// `name` stands before each problem, as compilers do it.
pub fn parse(text: &str, name: &str) -> Result<NodeFile, NodeFileError> {
    parse_of(text, name, None)
}

/// As [`parse`], of the node that is given instead of the file's `node.name`.
pub fn parse_of(text: &str, name: &str, node: Option<&Label>) -> Result<NodeFile, NodeFileError> {
    let file = yaml::read(text).map_err(|problem| NodeFileError::one(name, problem))?;
    check::file(&file, node).map_err(|findings| NodeFileError::all(name, findings))
}

/// The file's JSON schema, for editors and for generators of node files.
pub fn schema() -> Value {
    schemars::schema_for!(File).to_value()
}

impl Source {
    fn key(&self) -> &'static str {
        match self {
            Self::Authority(_) => "authority",
            Self::Controller(_) => "controller",
        }
    }
}

impl NodeFile {
    /// The first key whose change only a restart brings into effect.
    pub fn needs_restart(&self, new: &NodeFile) -> Option<&'static str> {
        let (old, settings) = (&self.settings, &new.settings);
        let changes = [
            ("trustDomain", self.trust_domain != new.trust_domain),
            (self.source.key(), self.source != new.source),
            ("node.name", old.name != settings.name),
            ("node.cgroup", old.cgroup != settings.cgroup),
            ("node.hostNetns", old.host_netns != settings.host_netns),
            ("node.prober", old.prober != settings.prober),
            ("node.pin", old.pin != settings.pin),
            ("node.state", old.state != settings.state),
            ("node.socket", old.socket != settings.socket),
            ("node.metrics", old.metrics != settings.metrics),
            ("node.accessLog", old.access_log != settings.access_log),
            ("node.traces", old.traces != settings.traces),
        ];
        changes.into_iter().find_map(|(key, changed)| changed.then_some(key))
    }
}
