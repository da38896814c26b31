//! Which network namespaces are outside the mesh by decision. A process in any other one that is no
//! workload's cannot reach the mesh: nothing is decided about it yet.

use std::collections::HashMap;

use martlet_ebpf_shared::ALL_OUTSIDE;

use crate::{KernelError, Node};

impl Node {
    /// Makes the network namespaces that are outside the mesh exactly these, by their cookies, and
    /// the node's own. Until this is called they are what an earlier agent has made them, or none.
    pub fn set_outside(
        &self,
        namespaces: impl IntoIterator<Item = u64>,
    ) -> Result<(), KernelError> {
        let own = self.shared.host.cookie();
        let all = namespaces.into_iter().chain([own]).map(|cookie| (cookie, 1));
        self.shared.maps.outside.replace(all.collect::<HashMap<_, _>>())
    }

    /// Makes every network namespace outside the mesh that is no workload's: none is undecided.
    pub fn set_all_outside(&self) -> Result<(), KernelError> {
        self.set_outside([ALL_OUTSIDE])
    }
}
