//! Which network namespaces are outside the mesh by decision. A process in any other one that is no
//! workload's cannot reach the mesh: nothing is decided about it yet.

use std::{collections::HashSet, sync::Mutex};

use aya::maps::{HashMap, MapData};
use martlet_ebpf_shared::ALL_OUTSIDE;

use crate::{
    KernelError, Node,
    maps::{gone, lock},
};

/// The map of them.
pub struct Outside {
    map: Mutex<HashMap<MapData, u64, u32>>,
}

impl Outside {
    pub fn new(map: HashMap<MapData, u64, u32>) -> Self {
        Self { map: Mutex::new(map) }
    }

    pub fn add(&self, cookie: u64) -> Result<(), KernelError> {
        lock(&self.map).insert(cookie, 1, 0).map_err(KernelError::map("OUTSIDE"))
    }

    fn set(&self, cookies: &HashSet<u64>) -> Result<(), KernelError> {
        let mut map = lock(&self.map);
        let failed = KernelError::map("OUTSIDE");
        let old: HashSet<u64> = map.keys().collect::<Result<_, _>>().map_err(&failed)?;
        for cookie in cookies.difference(&old) {
            map.insert(cookie, 1, 0).map_err(&failed)?;
        }
        old.difference(cookies).try_for_each(|cookie| gone(map.remove(cookie)).map_err(&failed))
    }
}

impl Node {
    /// Makes the network namespaces that are outside the mesh exactly these, by their cookies, and
    /// the node's own. Until this is called they are what an earlier agent has made them, or none.
    pub fn set_outside(
        &self,
        namespaces: impl IntoIterator<Item = u64>,
    ) -> Result<(), KernelError> {
        let mut cookies: HashSet<u64> = namespaces.into_iter().collect();
        cookies.insert(self.shared.host.cookie());
        self.shared.maps.outside.set(&cookies)
    }

    /// Makes every network namespace outside the mesh that is no workload's: none is undecided.
    pub fn set_all_outside(&self) -> Result<(), KernelError> {
        self.set_outside([ALL_OUTSIDE])
    }
}
