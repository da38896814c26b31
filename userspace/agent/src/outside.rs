//! The network namespaces that the node file decides to be outside the mesh. They come and go, so
//! they are looked up again with every look at the workloads; one that is not found is undecided,
//! and closed.

use std::{collections::HashSet, io};

use martlet_kernel::{KernelError, Netns, Node};
use martlet_model::NetnsSource;
use martlet_standalone::Outside;
use tracing::warn;

use crate::{arrivals::Arrivals, workloads::chain};

/// What the file says, and what was not found last time.
pub struct Decided {
    outside: Outside,
    problem: Option<String>,
}

impl Decided {
    /// Nothing yet.
    pub fn new() -> Self {
        Self { outside: Outside::These(Vec::new()), problem: None }
    }

    pub fn become_like(&mut self, outside: &Outside) {
        self.outside = outside.clone();
    }

    /// Whether this pod is one of them.
    pub fn has_pod(&self, uid: &str) -> bool {
        match &self.outside {
            Outside::These(sources) => {
                sources.iter().any(|source| matches!(source, NetnsSource::Pod(of) if **of == *uid))
            }
            Outside::AllOthers => true,
        }
    }

    /// Tells the kernel what is there now.
    pub fn tell(&mut self, node: &Node, arrivals: &Arrivals) -> Result<(), KernelError> {
        let Outside::These(sources) = &self.outside else { return node.set_all_outside() };
        let (mut cookies, mut problem) = (HashSet::new(), None);
        for source in sources {
            match look_up(source, arrivals) {
                Ok(found) => cookies.extend(found),
                Err(error) if is_absent(&error) => {}
                Err(error) => problem = Some(chain(&error)),
            }
        }
        if let Some(error) = problem.as_ref().filter(|_| problem != self.problem) {
            warn!(error, "not known to be outside, and so undecided");
        }
        self.problem = problem;
        node.set_outside(cookies)
    }
}

fn look_up(source: &NetnsSource, arrivals: &Arrivals) -> Result<HashSet<u64>, KernelError> {
    match source {
        NetnsSource::Cgroup(path) => Netns::cookies_of_cgroup(path),
        one => Ok(HashSet::from([arrivals.find(one)?.cookie()])),
    }
}

/// Not there yet, or no more.
fn is_absent(error: &KernelError) -> bool {
    match error {
        KernelError::Netns { source, .. } | KernelError::CgroupProcesses { source, .. } => {
            source.kind() == io::ErrorKind::NotFound
        }
        KernelError::PodAbsent { .. } | KernelError::CgroupEmpty { .. } => true,
        _ => false,
    }
}
