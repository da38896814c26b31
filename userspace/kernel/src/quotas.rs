//! What each pod has for itself in the kernel's maps: the numbers that its quotas are kept by, and
//! the guard's memory of its plaintext connections.

use std::{collections::HashSet, io, os::fd::AsFd as _, path::Path};

use aya::maps::{HashMap, Map, MapData, MapError};
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_LRU_HASH;
use martlet_ebpf_shared::{
    Address, Begun, Connection, Plain, Used,
    limits::{PLAIN, PODS},
};

use crate::{
    KernelError, bpf,
    kept::gone,
    maps::{Maps, lock},
};

/// Memory is used by entries, not by capacity.
const BPF_F_NO_PREALLOC: u32 = 1;
/// `BPF_NOEXIST`: fails where there is an entry.
pub(crate) const IF_MISSING: u64 = 1;

/// Makes the map of the pods' memories, unless it is there.
///
/// The loader would give it types, and with them what the maps in it must be like; those that are
/// made while the agent runs have none, and before Linux 6.2 the two count as different.
pub fn prepare_plain(pin: &Path) -> Result<(), KernelError> {
    let failed = |source| KernelError::Pin { path: pin.to_owned(), source };
    match bpf::open(pin) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        there => return there.map(drop).map_err(failed),
    }
    let inner = plain_of_one().map_err(KernelError::map("PLAIN"))?;
    let made = bpf::map_of_maps(inner.fd().as_fd(), PODS as u32, BPF_F_NO_PREALLOC, "PLAIN");
    made.and_then(|map| bpf::pin(map.as_fd(), pin)).map_err(failed)
}

/// One pod's memory.
fn plain_of_one() -> Result<MapData, MapError> {
    let (key, value) = (size_of::<Connection>() as u32, size_of::<Begun>() as u32);
    let kind = BPF_MAP_TYPE_LRU_HASH as u32;
    let wanted = aya_obj::Map::new_from_params(kind, key, value, PLAIN as u32, 0);
    MapData::create(wanted, "PLAIN_OF_ONE", None)
}

impl Maps {
    /// A workload's numbers begin at zero, unless it has some.
    pub fn open_quota(&self, netns: u64) -> Result<(), KernelError> {
        let made = lock(&self.used).insert(netns, Used::default(), IF_MISSING);
        existing(made).map_err(KernelError::map("USED"))
    }

    /// Forgets the numbers of a workload that is steered no more, and what they count.
    pub fn close_quota(&self, netns: u64, addresses: &[Address]) -> Result<(), KernelError> {
        self.clear_ports(netns)?;
        self.clear_published(addresses)?;
        gone(lock(&self.plain).remove(&netns)).map_err(KernelError::map("PLAIN"))?;
        gone(lock(&self.used).remove(&netns)).map_err(KernelError::map("USED"))
    }

    /// What a workload uses; `None` if it is not one.
    pub fn used(&self, netns: u64) -> Result<Option<Used>, KernelError> {
        match lock(&self.used).get(&netns, 0) {
            Ok(used) => Ok(Some(used)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(KernelError::map("USED")(error)),
        }
    }

    fn clear_published(&self, addresses: &[Address]) -> Result<(), KernelError> {
        let addresses: HashSet<_> = addresses.iter().collect();
        let failed = KernelError::map("PUBLISHED");
        let mut map = lock(&self.published);
        let flows: Result<Vec<_>, _> = map.keys().collect();
        let mut flows = flows.map_err(&failed)?.into_iter();
        flows.try_for_each(|flow| match addresses.contains(&flow.address) {
            true => gone(map.remove(&flow)).map_err(&failed),
            false => Ok(()),
        })
    }

    /// A guarded pod's memory; it keeps what is there.
    pub fn open_plain(&self, netns: u64) -> Result<(), KernelError> {
        let failed = KernelError::map("PLAIN");
        let mut plain = lock(&self.plain);
        if plain.keys().any(|key| matches!(key, Ok(key) if key == netns)) {
            return Ok(());
        }
        let made = plain_of_one().map_err(&failed)?;
        let made: HashMap<_, Connection, Begun> =
            Map::LruHashMap(made).try_into().map_err(&failed)?;
        existing(plain.insert(netns, &made, IF_MISSING)).map_err(&failed)
    }

    /// Whether a pod has such a memory.
    pub fn has_plain(&self, netns: u64) -> Result<bool, KernelError> {
        match lock(&self.plain).get(&netns, 0) {
            Ok(_) => Ok(true),
            Err(MapError::KeyNotFound) => Ok(false),
            Err(error) => Err(KernelError::map("PLAIN")(error)),
        }
    }

    /// Notes a connection of a pod that is older than its guard.
    pub fn add_plain(&self, connection: &Connection, began: Plain) -> Result<(), KernelError> {
        let failed = KernelError::map("PLAIN");
        let mut map = lock(&self.plain).get(&connection.netns, 0).map_err(&failed)?;
        let begun = Begun { kind: began as u32, sequence: 0 };
        map.insert(connection, begun, 0).map_err(failed)
    }

    /// How a connection began, if it was plaintext that was allowed and is not forgotten.
    pub fn began(&self, connection: &Connection) -> Result<Option<Plain>, KernelError> {
        let read = || lock(&self.plain).get(&connection.netns, 0)?.get(connection, 0);
        match read() {
            Ok(begun) => Ok(Plain::from_value(begun.kind)),
            // Without a guard a pod has no memory either.
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(KernelError::map("PLAIN")(error)),
        }
    }
}

/// An entry that is there already is as good as made.
pub(crate) fn existing(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::EEXIST) =>
        {
            Ok(())
        }
        other => other,
    }
}
