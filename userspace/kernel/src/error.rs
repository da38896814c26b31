//! What can fail between the agent and the kernel, by whose fault it is.

use std::{io, net::IpAddr, path::PathBuf};

use thiserror::Error;

use crate::Netns;

#[derive(Debug, Error)]
pub enum KernelError {
    #[error("this binary was built without kernel programs; build it with `cargo xtask build`")]
    NoObject,
    #[error("loading the kernel programs")]
    Load(#[source] Box<aya::EbpfError>),
    #[error("loading the kernel program {name}")]
    Program {
        name: &'static str,
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
    #[error("the object has no {0}")]
    Absent(&'static str),
    #[error("writing the map {map}")]
    Map {
        map: &'static str,
        #[source]
        source: Box<aya::maps::MapError>,
    },
    #[error("reading the map {map}")]
    ReadMap { map: &'static str, source: io::Error },
    #[error("opening the cgroup {path}")]
    Cgroup { path: PathBuf, source: io::Error },
    #[error("{path} is no cgroup v2, or the root of all; the prober needs one of its own")]
    NoProber { path: PathBuf },
    #[error("the agent is not below the cgroup {path}; its own sockets must pass the hooks there")]
    AgentOutside { path: PathBuf },
    #[error("using the pin directory {path}")]
    Pin { path: PathBuf, source: io::Error },
    #[error("the pin directory {path} is in use by another agent")]
    PinInUse { path: PathBuf },
    #[error("updating the pinned link {path}")]
    LinkUpdate { path: PathBuf, source: io::Error },
    #[error("opening the network namespace {path}")]
    Netns { path: PathBuf, source: io::Error },
    #[error(
        "{path} leads to the node's own network namespace, which all its processes share; a workload \
         needs one of its own: a systemd service has one by `PrivateNetwork=` or \
         `NetworkNamespacePath=`, a container unless it uses the host's network"
    )]
    OwnNetns { path: PathBuf },
    #[error("reading the processes of the cgroup {path}")]
    CgroupProcesses { path: PathBuf, source: io::Error },
    #[error("the cgroup {path} has no processes, so it has no network namespace")]
    CgroupEmpty { path: PathBuf },
    #[error("no process of root's is called {name} outside of all pods")]
    NoSuchProcess { name: String },
    #[error("looking for the pods' cgroups")]
    Pods { source: io::Error },
    #[error("no cgroup of the pod with UID {uid} is there: it has ended, or has not begun")]
    PodAbsent { uid: String },
    #[error("the processes of the cgroup {path} are in more than one network namespace")]
    CgroupMixed { path: PathBuf },
    #[error("using the notes on sysctls in {path}")]
    Notes { path: PathBuf, source: io::Error },
    #[error("reading the kernel programs' log")]
    Log(#[source] io::Error),
    #[error("in the network namespace {path}: {what}")]
    InNetns { path: PathBuf, what: &'static str, source: io::Error },
    #[error("{0} is not an address of the network namespace, or the family is off there")]
    AddressAbsent(IpAddr),
    #[error("its interface {interface} can't be guarded: {why}")]
    NotGuarded { interface: String, why: &'static str },
    #[error("it can't listen again; the pod must be enrolled again")]
    ListenerClosed,
    #[error("copying what a successor is to have")]
    Estate { source: io::Error },
    #[error("confining the agent: {what}")]
    Confine { what: &'static str, source: io::Error },
    #[error("{what} in the kernel's keyring: {source:?}")]
    Keyring { what: &'static str, source: linux_keyutils::KeyError },
    #[error("a workload needs an address")]
    NoAddress,
}

impl KernelError {
    pub(crate) fn map(map: &'static str) -> impl Fn(aya::maps::MapError) -> Self {
        move |source| Self::Map { map, source: Box::new(source) }
    }

    pub(crate) fn keyring(what: &'static str) -> impl Fn(linux_keyutils::KeyError) -> Self {
        move |source| Self::Keyring { what, source }
    }

    pub(crate) fn in_netns(netns: &Netns, what: &'static str) -> impl Fn(io::Error) -> Self {
        let path = netns.path().to_owned();
        move |source| Self::InNetns { path: path.clone(), what, source }
    }

    pub(crate) fn program<E: Into<aya::programs::ProgramError>>(
        name: &'static str,
    ) -> impl Fn(E) -> Self {
        move |source| Self::Program { name, source: Box::new(source.into()) }
    }
}
