//! What is declared, by name: a controller tells changes of it, and an agent applies them to its own.
//!
//! Values are shared, so that a copy of a table costs no more than its names.

mod apply;
mod delta;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use martlet_model::{
    Directory, DirectoryError, Failure, Label, LocalWorkload, Outsider, Part, Service, Trust,
    Workload, WorkloadName, Zone,
};
use martlet_policy::{Policy, PolicyError, PolicySet};
use thiserror::Error;

use crate::{
    Declaration, Declared, limits,
    message::{
        Local, Malformed, PolicyName, local_from, local_to, outside_from, outside_to, policy_from,
        policy_to, service_from, service_to, trust_from, trust_to, workload_from, workload_to,
    },
};

pub use apply::{Received, Receiving, Refused};
pub use delta::{Scope, messages};

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Table {
    workloads: BTreeMap<WorkloadName, Arc<Workload>>,
    /// A service has an entry for each address and port.
    services: BTreeMap<SocketAddr, Arc<Service>>,
    policies: BTreeMap<PolicyName, Arc<Policy>>,
    /// A controller has those of all nodes, an agent those of its own.
    locals: BTreeMap<WorkloadName, Arc<Local>>,
    outside: BTreeMap<WorkloadName, Arc<Outsider>>,
    trust: Option<Arc<Trust>>,
    failure: Option<Failure>,
    /// A controller has those of all nodes, an agent that of its own.
    zones: BTreeMap<Label, Zone>,
}

/// The parts of what every agent works with.
struct Checked {
    directory: Directory,
    policies: Arc<PolicySet>,
    trust: Arc<Trust>,
}

/// The names of what is there, is other, or is there no more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    workloads: BTreeSet<WorkloadName>,
    services: BTreeSet<SocketAddr>,
    policies: BTreeSet<PolicyName>,
    /// With the nodes that it was on and is on.
    locals: BTreeSet<(Label, WorkloadName)>,
    outside: BTreeSet<(Label, WorkloadName)>,
    trust: bool,
    settings: bool,
    /// The nodes that are elsewhere.
    zones: BTreeSet<Label>,
}

/// Why a table is not what a node can work with.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Inconsistent {
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Policies(#[from] PolicyError),
    #[error("{0} is to run here, but there is no such workload")]
    NoWorkload(WorkloadName),
    #[error("{workload} is to run here, but belongs to node {node}")]
    Elsewhere { workload: WorkloadName, node: Label },
    #[error("{0} has an identity that belongs to a part of Martlet itself")]
    Reserved(WorkloadName),
    #[error("nothing is said about trust")]
    NoTrust,
    #[error("policy {0} is defined twice")]
    PolicyTwice(PolicyName),
    #[error("{0} is to run somewhere, twice")]
    LocalTwice(WorkloadName),
    #[error("{0} is both a workload and outside the mesh")]
    InsideAndOutside(WorkloadName),
    #[error(transparent)]
    Unsayable(#[from] Malformed),
}

impl Table {
    /// All nodes'.
    #[cfg(test)]
    pub fn of(declaration: Declaration) -> Result<Self, Inconsistent> {
        Self::after(&Self::default(), declaration)
    }

    /// All nodes', where `before` was declared last: what is the same value as before is shared with
    /// it and not looked at again.
    pub fn after(before: &Self, declaration: Declaration) -> Result<Self, Inconsistent> {
        let Declaration { workloads, services, policies, local, outside, trust, failure, zones } =
            declaration;
        let mut table = Self { trust: Some(trust), failure, zones, ..Self::default() };
        // What is there twice is found here, since a table has room for one.
        Directory::new(workloads.iter().cloned(), services.iter().cloned())?;
        table.workloads = workloads.into_iter().map(|one| (one.name.clone(), one)).collect();
        table.services = services.into_iter().map(|one| (one.address, one)).collect();
        for policy in policies {
            let name = PolicyName::of(&policy);
            if table.policies.insert(name.clone(), policy).is_some() {
                return Err(Inconsistent::PolicyTwice(name));
            }
        }
        for local in local {
            let (name, local) = (local.workload.name.clone(), Local::from(&local));
            if !table.workloads.contains_key(&name) {
                return Err(Inconsistent::NoWorkload(name));
            }
            let local = shared(before.locals.get(&name), local);
            if table.locals.insert(name.clone(), local).is_some() {
                return Err(Inconsistent::LocalTwice(name));
            }
        }
        for one in outside {
            let name = one.name.clone();
            if table.locals.contains_key(&name) {
                return Err(Inconsistent::InsideAndOutside(name));
            }
            let one = shared(before.outside.get(&name), one);
            if table.outside.insert(name.clone(), one).is_some() {
                return Err(Inconsistent::LocalTwice(name));
            }
        }
        table.check()?;
        table.is_sayable(before)?;
        Ok(table)
    }

    /// What an agent would not read is not said to any. What was said before was read.
    fn is_sayable(&self, before: &Self) -> Result<(), Malformed> {
        for workload in news(&before.workloads, &self.workloads) {
            workload_from(sized(workload_to(workload))?)?;
        }
        for service in news(&before.services, &self.services) {
            service_from(sized(service_to(service))?)?;
        }
        for policy in news(&before.policies, &self.policies) {
            policy_from(sized(policy_to(policy))?)?;
        }
        for local in news(&before.locals, &self.locals) {
            local_from(local_to(local)?)?;
        }
        for one in news(&before.outside, &self.outside) {
            outside_from(outside_to(one)?, &one.node)?;
        }
        self.trust.as_ref().map_or(Ok(()), |trust| trust_from(trust_to(trust)).map(drop))
    }

    /// Everything that any node would find wrong, whatever its name.
    fn check(&self) -> Result<Checked, Inconsistent> {
        let directory =
            Directory::new(self.workloads.values().cloned(), self.services.values().cloned())?;
        let policies = self.policies.values().map(|policy| (**policy).clone()).collect();
        let policies = PolicySet::new(policies)?;
        if let Some(bad) = self.workloads.values().find(|one| Part::is_reserved(&one.identity)) {
            return Err(Inconsistent::Reserved(bad.name.clone()));
        }
        let trust = self.trust.clone().ok_or(Inconsistent::NoTrust)?;
        let policies = Arc::new(policies);
        Ok(Checked { directory, policies, trust })
    }

    /// What an agent of `node` works with.
    pub fn declared(&self, node: &Label, version: u64) -> Result<Declared, Inconsistent> {
        let Checked { directory, policies, trust } = self.check()?;
        let local = self.locals.values().map(|local| {
            let name = local.name.clone();
            let workload = self.workloads.get(&name);
            let workload = workload.ok_or_else(|| Inconsistent::NoWorkload(name.clone()))?;
            if workload.node != *node {
                let node = workload.node.clone();
                return Err(Inconsistent::Elsewhere { workload: name, node });
            }
            let Local { netns, udp, probes, workload_api, .. } = (**local).clone();
            Ok(LocalWorkload { workload: workload.clone(), netns, udp, probes, workload_api })
        });
        let local = local.collect::<Result<_, _>>()?;
        let outside = self.outside.values().map(|one| one.netns.clone()).collect();
        let failure = self.failure;
        let directory = Arc::new(directory.in_zone(self.zones.get(node).cloned()));
        Ok(Declared { version, directory, policies, local, outside, trust, failure })
    }

    pub fn trust(&self) -> Option<&Arc<Trust>> {
        self.trust.as_ref()
    }

    /// From `self` to `new`.
    pub fn changed(&self, new: &Self) -> Changed {
        Changed {
            workloads: differing(&self.workloads, &new.workloads),
            services: differing(&self.services, &new.services),
            policies: differing(&self.policies, &new.policies),
            locals: self.changed_locals(new),
            outside: self.changed_outside(new),
            trust: self.trust != new.trust,
            settings: self.failure != new.failure,
            zones: self.changed_zones(new),
        }
    }

    /// One that moves from a node to another is told to both.
    fn changed_locals(&self, new: &Self) -> BTreeSet<(Label, WorkloadName)> {
        let mut names = differing(&self.locals, &new.locals);
        let moved = |name: &&WorkloadName| self.node_of(name) != new.node_of(name);
        names.extend(self.locals.keys().filter(moved).cloned());
        let nodes = |name: WorkloadName| {
            let nodes = [self.node_of(&name), new.node_of(&name)];
            nodes.into_iter().flatten().cloned().map(move |node| (node, name.clone()))
        };
        let nodes = |name| nodes(name).collect::<Vec<_>>();
        names.into_iter().flat_map(nodes).collect()
    }

    fn changed_outside(&self, new: &Self) -> BTreeSet<(Label, WorkloadName)> {
        let names = differing(&self.outside, &new.outside);
        let nodes = |name: WorkloadName| {
            let both = [self.outside.get(&name), new.outside.get(&name)];
            let nodes = both.into_iter().flatten().map(|one| one.node.clone());
            nodes.map(|node| (node, name.clone())).collect::<Vec<_>>()
        };
        names.into_iter().flat_map(nodes).collect()
    }

    fn changed_zones(&self, new: &Self) -> BTreeSet<Label> {
        let both = self.zones.keys().chain(new.zones.keys());
        both.filter(|node| self.zones.get(*node) != new.zones.get(*node)).cloned().collect()
    }

    fn node_of(&self, name: &WorkloadName) -> Option<&Label> {
        self.workloads.get(name).map(|workload| &workload.node)
    }
}

impl Changed {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.workloads.len()
            + self.services.len()
            + self.policies.len()
            + self.locals.len()
            + self.outside.len()
    }

    /// This, and then `later`.
    pub fn add(&mut self, later: &Self) {
        self.workloads.extend(later.workloads.iter().cloned());
        self.services.extend(later.services.iter().copied());
        self.policies.extend(later.policies.iter().cloned());
        self.locals.extend(later.locals.iter().cloned());
        self.outside.extend(later.outside.iter().cloned());
        self.trust |= later.trust;
        self.settings |= later.settings;
        self.zones.extend(later.zones.iter().cloned());
    }
}

fn sized<T: prost::Message>(item: T) -> Result<T, Malformed> {
    match item.encoded_len() {
        length if length <= limits::ITEM_BYTES => Ok(item),
        length => Err(Malformed::new("an item", format_args!("has {length} bytes"))),
    }
}

/// The value that was there before, if this one is no other.
fn shared<V: PartialEq>(before: Option<&Arc<V>>, now: V) -> Arc<V> {
    match before {
        Some(before) if **before == now => before.clone(),
        _ => Arc::new(now),
    }
}

/// The values that are not the very ones that were there before.
fn news<'a, K: Ord, V>(
    old: &'a BTreeMap<K, Arc<V>>,
    new: &'a BTreeMap<K, Arc<V>>,
) -> impl Iterator<Item = &'a Arc<V>> {
    let is_old = |key: &K, value: &Arc<V>| old.get(key).is_some_and(|old| Arc::ptr_eq(old, value));
    new.iter().filter(move |(key, value)| !is_old(key, value)).map(|(_, value)| value)
}

fn differing<K: Ord + Clone, V: PartialEq>(
    old: &BTreeMap<K, Arc<V>>,
    new: &BTreeMap<K, Arc<V>>,
) -> BTreeSet<K> {
    let gone = old.keys().filter(|key| !new.contains_key(*key));
    let other = new.iter().filter(|(key, value)| {
        old.get(*key).is_none_or(|before| !Arc::ptr_eq(before, value) && before != *value)
    });
    gone.chain(other.map(|(key, _)| key)).cloned().collect()
}

#[cfg(test)]
mod tests;
