//! Maps that only the agent writes: what they should hold is remembered beside them, so that what
//! others change is seen and put back.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    hash::Hash,
    os::fd::{AsFd as _, OwnedFd},
    sync::{Mutex, MutexGuard, PoisonError},
};

use aya::{
    Ebpf, Pod,
    maps::{Map, MapData, MapError},
};
use martlet_model::report::RepairKind;

use crate::{KernelError, bpf, repair::Finding};

/// A map with what the agent has written to it.
pub struct Kept<K, V> {
    name: &'static str,
    fd: OwnedFd,
    inner: Mutex<Inner<K, V>>,
}

struct Inner<K, V> {
    map: aya::maps::HashMap<MapData, K, V>,
    wanted: HashMap<K, V>,
}

impl<K, V> Kept<K, V>
where
    K: Pod + Default + Eq + Hash + fmt::Debug,
    V: Pod + Default + PartialEq,
{
    /// What an earlier agent has written is wanted until somebody says otherwise: of a pod that is
    /// not enrolled again yet, it is what keeps it closed.
    pub fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Self, KernelError> {
        let map = ebpf.take_map(name).ok_or(KernelError::Absent(name))?;
        let Map::HashMap(data) = &map else { return Err(KernelError::Absent(name)) };
        let fd = data.fd().as_fd().try_clone_to_owned();
        let fd = fd.map_err(|source| KernelError::ReadMap { map: name, source })?;
        let map = map.try_into().map_err(KernelError::map(name))?;
        let inner = Mutex::new(Inner { map, wanted: HashMap::new() });
        let kept = Self { name, fd, inner };
        kept.lock().wanted = kept.read()?.into_iter().collect();
        Ok(kept)
    }

    pub fn set(&self, key: K, value: V) -> Result<(), KernelError> {
        let mut inner = self.lock();
        inner.wanted.insert(key, value);
        inner.map.insert(key, value, 0).map_err(KernelError::map(self.name))
    }

    pub fn remove(&self, key: &K) -> Result<(), KernelError> {
        let mut inner = self.lock();
        inner.wanted.remove(key);
        gone(inner.map.remove(key)).map_err(KernelError::map(self.name))
    }

    pub fn wanted(&self, key: &K) -> Option<V> {
        self.lock().wanted.get(key).copied()
    }

    /// The wanted entries that `is_asked` picks.
    pub fn filtered(&self, mut is_asked: impl FnMut(&K, &V) -> bool) -> Vec<(K, V)> {
        let entries = self.lock();
        let entries = entries.wanted.iter().map(|(key, value)| (*key, *value));
        entries.filter(|(key, value)| is_asked(key, value)).collect()
    }

    /// Makes the wanted entries exactly these. New ones are added before old ones are removed.
    pub fn replace(&self, wanted: HashMap<K, V>) -> Result<(), KernelError> {
        let mut inner = self.lock();
        let old = std::mem::replace(&mut inner.wanted, wanted);
        let failed = KernelError::map(self.name);
        let Inner { map, wanted } = &mut *inner;
        for (key, value) in wanted.iter().filter(|(key, value)| old.get(key) != Some(value)) {
            map.insert(key, value, 0).map_err(&failed)?;
        }
        let mut rest = old.keys().filter(|key| !wanted.contains_key(key));
        rest.try_for_each(|key| gone(map.remove(key)).map_err(&failed))
    }

    /// Puts back what somebody else has removed or altered, and removes what somebody has added.
    pub fn repair(&self) -> Result<Vec<Finding>, KernelError> {
        let mut inner = self.lock();
        let found = self.read()?;
        let Inner { map, wanted } = &mut *inner;
        let mut findings = Vec::new();
        let mut say = |what: &str, key: &K, repaired: Result<(), MapError>| {
            let what = format!("{}: the entry {key:?} was {what}", self.name);
            let repaired = repaired.map_err(KernelError::map(self.name));
            findings.push(Finding::new(RepairKind::Entry, what, repaired));
        };
        for (key, value) in &found {
            match wanted.get(key) {
                Some(wanted) if wanted == value => {}
                Some(wanted) => say("altered", key, map.insert(key, wanted, 0)),
                None => say("added", key, gone(map.remove(key))),
            }
        }
        let is_whole = found.len() == wanted.len() && findings.is_empty();
        if !is_whole {
            let there: HashSet<&K> = found.iter().map(|(key, _)| key).collect();
            for (key, value) in wanted.iter().filter(|(key, _)| !there.contains(key)) {
                let repaired = map.insert(key, value, 0);
                let what = format!("{}: the entry {key:?} was removed", self.name);
                let repaired = repaired.map_err(KernelError::map(self.name));
                findings.push(Finding::new(RepairKind::Entry, what, repaired));
            }
        }
        Ok(findings)
    }

    fn read(&self) -> Result<Vec<(K, V)>, KernelError> {
        let failed = |source| KernelError::ReadMap { map: self.name, source };
        bpf::entries(self.fd.as_fd()).map_err(failed)
    }

    fn lock(&self) -> MutexGuard<'_, Inner<K, V>> {
        // What is wanted is said before it is written, so a panic leaves nothing that the next
        // repair does not mend.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An entry that is not there is as good as removed.
pub fn gone(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        other => other,
    }
}
