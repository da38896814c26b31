//! A workload of this node: what its agent has to know beyond what everybody knows.

use std::{path::PathBuf, sync::Arc};

use crate::{Udp, Workload};

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

/// How a network namespace is found.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum NetnsSource {
    Path(PathBuf),
    Pid(u32),
    Cgroup(PathBuf),
}
