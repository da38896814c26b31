//! A workload of this node: what its agent has to know beyond what everybody knows.

use std::{path::PathBuf, sync::Arc};

use crate::{Label, Udp, Workload, WorkloadName};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalWorkload {
    pub workload: Arc<Workload>,
    pub netns: NetnsSource,
    pub udp: Udp,
    /// At which ports it may be probed in plaintext.
    pub probes: Vec<u16>,
    /// Whether it is offered the SPIFFE Workload API.
    pub workload_api: bool,
}

/// What runs on a node and is no workload, by decision: unlike what nothing is known about, it may
/// call the mesh in plaintext where that is permitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outsider {
    pub name: WorkloadName,
    pub node: Label,
    pub netns: NetnsSource,
}

/// How a network namespace is found.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum NetnsSource {
    Path(PathBuf),
    Pid(u32),
    Cgroup(PathBuf),
    /// That of the pod with this UID, wherever its container runtime has put it.
    Pod(Arc<str>),
}
