//! Why a node file is refused: what, where, and what to do about it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use ipnet::IpNet;
use martlet_model::{
    CollectorError, DirectoryError, Label, LabelError, RatioError, SpiffeIdError, TrustDomain,
    WorkloadName,
};
use martlet_policy::PolicyError;
use thiserror::Error;

use crate::{check::Findings, limits, mark::Mark};

/// Everything that is wrong with one file, in the file's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFileError {
    pub(crate) name: String,
    pub(crate) problems: Vec<Problem>,
    pub(crate) unlisted: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `None`: the file as a whole.
    pub mark: Option<Mark>,
    pub fault: Fault,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Fault {
    #[error("the file has {0} bytes, and at most {max} are read", max = limits::MAX_FILE_BYTES)]
    TooLarge(usize),
    #[error("unknown key `{key}`, expected {expected}")]
    UnknownKey { key: String, expected: String },
    #[error("unknown value `{value}`, expected {expected}")]
    UnknownValue { value: String, expected: String },
    #[error("the key `{0}` is missing")]
    MissingKey(&'static str),
    #[error("the key `{0}` is given twice")]
    KeyTwice(String),
    #[error("a value is missing here (a key without a value does not mean its default)")]
    NoValue,
    #[error("the file is empty or ends too early")]
    EndOfFile,
    #[error("a second document begins here; a node file is one document")]
    SecondDocument,
    #[error("exactly one of path, pid and cgroup is wanted")]
    OneKeyOnly,
    #[error("expected {0} here (a key without a value does not mean its default)")]
    Form(&'static str),
    #[error("the file is larger, deeper or has more aliases than a node file may: {0}")]
    Limit(String),
    #[error("{0}")]
    Yaml(String),

    #[error(transparent)]
    Name(#[from] LabelError),
    #[error("{text:?} is not a trust domain: {reason}")]
    TrustDomain { text: String, reason: SpiffeIdError },
    #[error("{text:?} is not an identity: {reason}")]
    Identity { text: String, reason: SpiffeIdError },
    #[error("{0:?} is not an absolute path; begin it with /")]
    RelativePath(String),
    #[error("the path {0:?} contains `..`; write where it leads")]
    ParentInPath(String),
    #[error("the path has {length} bytes, and at most {max} are possible here")]
    LongPath { length: usize, max: usize },
    #[error("a path cannot contain a zero byte")]
    ZeroInPath,
    #[error("{0:?} is not a process number; use 1 to 2147483647")]
    Pid(String),

    #[error("{0:?} is not an IP address")]
    Address(String),
    #[error("{address} is {kind}, by which nothing in the mesh can be reached")]
    UnreachableAddress { address: IpAddr, kind: &'static str },
    #[error("{address} is an IPv4 address in IPv6's form; write {plain}")]
    MappedAddress { address: IpAddr, plain: IpAddr },
    #[error("{0:?} is not an address and port like 10.1.0.2:8080 or [fd00::1]:8080")]
    AddressAndPort(String),
    #[error("{0:?} is neither `off` nor an address and port like 127.0.0.1:15020")]
    Metrics(String),
    #[error("{text:?} {reason}")]
    Collector { text: String, reason: CollectorError },
    #[error("{text:?} {reason}; without `traces` no connection is traced")]
    Ratio { text: String, reason: RatioError },
    #[error(
        "with https `authorities` are needed: the path of a file with those that the collector's \
         certificate leads to, such as /etc/ssl/certs/ca-certificates.crt"
    )]
    NoAuthorities,
    #[error("`authorities` belong to https, and the endpoint begins with http; change one of them")]
    AuthoritiesInTheClear,
    #[error("{0:?} is neither an address nor a network like 10.0.0.0/8")]
    Network(String),
    #[error("{given} is an address within a network; write {network} for the network")]
    HostBits { given: IpNet, network: IpNet },
    #[error("{0:?} is not a port; use 1 to 65535")]
    Port(String),
    #[error("{0:?} is not a range of ports like 9000-9100, from 1 to 65535, lower end first")]
    PortRange(String),
    #[error("port 0 cannot be connected to; use 1 to 65535")]
    PortZero,

    #[error(
        "neither `authority` nor `controller` says where certificates come from; give one of them"
    )]
    NoSource,
    #[error("`authority` is given too, and only one can say where certificates come from")]
    TwoSources,
    #[error(
        "a controller knows what there is either by `directory` or by `kubernetes`; give one of them"
    )]
    NotOneKnowledge,
    #[error(
        "the prober is known either by its `cgroup` or by the name of its `process`, of at most \
         15 bytes; give one of them"
    )]
    NotOneProber,
    #[error(
        "a node joins its controller by one of `token`, `serviceAccount` and `hostCertificate`; give \
         just one"
    )]
    NotOneJoining,
    #[error("nodes of a cluster join by their agents' service account; leave `hosts` out")]
    HostsOfCluster,
    #[error("`node.name` is missing, and the agent was not told its node's name (--node-name)")]
    NoNodeName,
    #[error("`{key}` come from the controller; write them into its directory file")]
    SaidByController { key: &'static str },
    #[error("{0:?} is not a host and port like controller.example.org:15012 or [fd00::1]:15012")]
    HostAndPort(String),
    #[error("`{key}` is empty; {instead}")]
    Empty { key: &'static str, instead: &'static str },
    #[error("{what} is already listed at {first}")]
    Twice { what: String, first: Mark },
    #[error("{address} is already the address of workload {owner}")]
    AddressTwice { address: IpAddr, owner: WorkloadName },
    #[error(
        "a workload has at most one {family} address, and this one has {first}; \
         only the first would be steered to"
    )]
    SecondOfFamily { family: &'static str, first: IpAddr },
    #[error("a workload has at most {max} probe ports, and this one has {0}", max = limits::MAX_PROBES)]
    ManyProbes(usize),
    #[error("`probes` of {workload} need `node.prober`, which says who may probe")]
    ProberMissing { workload: WorkloadName },
    #[error("{workload} runs on this node, so it needs `netns`: one of path, pid and cgroup")]
    NetnsMissing { workload: WorkloadName },
    #[error(
        "{workload} runs on node {node}, whose agent alone needs its `netns`; leave it out here"
    )]
    NetnsElsewhere { workload: WorkloadName, node: Label },

    #[error(
        "{workload} runs on node {node}, whose agent alone is to be told of its `workloadApi`; \
         leave it out here"
    )]
    WorkloadApiElsewhere { workload: WorkloadName, node: Label },
    #[error(
        "{workload} is of the trust domain {domain}, whose own agents offer it the Workload API; \
         leave `workloadApi` out"
    )]
    WorkloadApiForeign { workload: WorkloadName, domain: TrustDomain },
    #[error(
        "the Workload API's socket of {workload} would be {path}, which has {length} bytes, and at \
         most {max} are possible; shorten the workload's name or the path of `node.socket`",
        path = path.display(), max = limits::MAX_SOCKET_PATH_BYTES
    )]
    LongWorkloadSocket { workload: WorkloadName, path: PathBuf, length: usize },
    #[error(
        "{workload} is of the trust domain {domain}, so it can't run on this node; name its `node`"
    )]
    ForeignHere { workload: WorkloadName, domain: TrustDomain },
    #[error("{workload} needs `node`: the name of the node that it runs on")]
    NodeMissing { workload: WorkloadName },
    #[error(
        "{workload} needs `netns`, by which the agent of its node finds it: one of path, pid and \
         cgroup"
    )]
    NetnsMissingThere { workload: WorkloadName },
    #[error(
        "{workload} is of the trust domain {domain}, so no node of this controller has its \
         `netns`; leave it out"
    )]
    NetnsForeign { workload: WorkloadName, domain: TrustDomain },
    #[error("{address} is the address of workload {owner}; a service needs an address of its own")]
    ServiceOnWorkload { address: IpAddr, owner: WorkloadName },
    #[error("{endpoint} is not of the family of the service's address {address}")]
    EndpointFamily { endpoint: SocketAddr, address: IpAddr },
    #[error("{endpoint} is at a service's address; name the endpoints behind that service")]
    EndpointIsService { endpoint: SocketAddr },

    #[error(
        "{0:?} is not a rule's name; use 1 to {max} bytes without control characters",
        max = limits::MAX_RULE_NAME_BYTES
    )]
    RuleName(String),
    #[error("{0:?} is not a lifetime from 10m to 24h")]
    Lifetime(String),
    #[error("{0:?} is not an address and port like 0.0.0.0:15012 or [::]:15012")]
    Listen(String),
    #[error("a controller listens at {max} addresses at most, and here are {0}", max = limits::MAX_LISTENERS)]
    ManyListeners(usize),

    #[error("{0:?} is not the URL of a bundle endpoint like https://b.example.org:15013/bundle")]
    Url(String),
    #[error("{0:?} is not the path of a URL like /bundle")]
    UrlPath(String),
    #[error("{0} is the controller's own trust domain: nobody else publishes its roots")]
    OwnFederated(TrustDomain),
    #[error("the profile {profile} needs `{key}`")]
    ProfileWants { key: &'static str, profile: &'static str },
    #[error("`{key}` belongs to the profile {profile}; leave it out, or change `profile`")]
    OtherProfile { key: &'static str, profile: &'static str },
    #[error("a controller follows {max} endpoints at most, and here are {0}", max = limits::MAX_FEDERATED)]
    ManyFederated(usize),

    #[error(transparent)]
    Policies(#[from] PolicyError),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
}

impl NodeFileError {
    pub(crate) fn one(name: &str, problem: Problem) -> Self {
        Self { name: name.to_owned(), problems: vec![problem], unlisted: 0 }
    }

    pub(crate) fn all(name: &str, findings: Findings) -> Self {
        let (problems, unlisted) = findings.into_list();
        Self { name: name.to_owned(), problems, unlisted }
    }

    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl std::error::Error for NodeFileError {}

impl fmt::Display for NodeFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        for (index, Problem { mark, fault }) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            match mark {
                Some(mark) => write!(f, "{name}:{mark}: {fault}")?,
                None => write!(f, "{name}: {fault}")?,
            }
        }
        match self.unlisted {
            0 => Ok(()),
            more => write!(f, "\n{name}: and {more} more"),
        }
    }
}
