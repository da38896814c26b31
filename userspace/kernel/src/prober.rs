//! Who may probe strict pods in plaintext: the processes of a cgroup.

use std::{
    collections::HashMap, fs::File, net::SocketAddr, os::unix::fs::MetadataExt as _, path::Path,
};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};

use crate::{KernelError, Node, maps, process};

/// The number of a cgroup, which the kernel gives to no other while the machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prober(pub(crate) u64);

impl Prober {
    /// The cgroup that is at a path now. The root is refused: everything is below it.
    pub fn find(path: &Path) -> Result<Self, KernelError> {
        let failed = |source| KernelError::Cgroup { path: path.to_owned(), source };
        let directory = File::open(path).map_err(failed)?;
        let kind = fstatfs(&directory).map_err(|error| failed(error.into()))?.filesystem_type();
        let root = process::cgroup_root().and_then(|root| root.metadata()).map_err(failed)?;
        // The number of a cgroup is that of its directory (cgroup_id() of the kernel, 64 bits).
        let number = directory.metadata().map_err(failed)?.ino();
        match kind == CGROUP2_SUPER_MAGIC && number != root.ino() {
            true => Ok(Self(number)),
            false => Err(KernelError::NoProber { path: path.to_owned() }),
        }
    }
}

impl Node {
    /// Makes the ports at which the prober may probe strict pods in plaintext exactly these. Without
    /// a prober nobody may.
    pub fn set_probes(
        &self,
        ports: impl Iterator<Item = SocketAddr>,
        prober: Option<Prober>,
    ) -> Result<(), KernelError> {
        // No cgroup has the number 0.
        let cgroup = prober.map_or(0, |Prober(cgroup)| cgroup);
        let ports = ports.map(|port| (maps::endpoint(port), cgroup));
        self.shared.maps.probes.replace(ports.collect::<HashMap<_, _>>())
    }
}
