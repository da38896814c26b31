//! What is declared, by name: a controller tells changes of it, and an agent applies them to its own.
//!
//! A copy of a table shares what it holds, and two tables that share most of it are compared by what
//! they do not: what a change costs is as large as the change.

mod apply;
mod delta;

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use imbl::{OrdMap, ordmap::DiffItem};
use martlet_model::{
    Directory, DirectoryError, Failure, Label, LocalWorkload, Outsider, Part, Service, Trust,
    Workload, WorkloadName, Zone,
};
use martlet_policy::{Policy, PolicyError, PolicySet};
use thiserror::Error;

#[cfg(test)]
use crate::Declaration;
use crate::{
    Declared, Inventory, limits,
    message::{
        Local, Malformed, PolicyName, local_from, local_to, outside_from, outside_to, policy_from,
        policy_to, service_from, service_to, trust_from, trust_to, workload_from, workload_to,
    },
};

pub use apply::{Received, Receiving, Refused};
pub use delta::{Scope, Whole, messages};

#[derive(Debug, Clone, Default)]
pub struct Table {
    workloads: OrdMap<WorkloadName, Arc<Workload>>,
    /// A service has an entry for each address and port.
    services: OrdMap<SocketAddr, Arc<Service>>,
    policies: OrdMap<PolicyName, Arc<Policy>>,
    /// A controller has those of all nodes, an agent those of its own.
    locals: OrdMap<WorkloadName, Arc<Local>>,
    outside: OrdMap<WorkloadName, Arc<Outsider>>,
    trust: Option<Arc<Trust>>,
    failure: Option<Failure>,
    /// A controller has those of all nodes, an agent that of its own.
    zones: OrdMap<Label, Zone>,
    /// What `locals` were made of: a controller's.
    given_locals: OrdMap<WorkloadName, Arc<LocalWorkload>>,
    /// What follows from workloads and services, and from policies.
    directory: Directory,
    set: Arc<PolicySet>,
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
    #[error("policy {0}/{1} is defined twice")]
    PolicyTwice(Label, Label),
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
        Self::after(&Self::default(), declaration.inventory()?)
    }

    /// All nodes', where `before` was declared last: what both share is not looked at again.
    pub fn after(before: &Self, inventory: Inventory) -> Result<Self, Inconsistent> {
        let Inventory { workloads, services, policies, local, outside, trust, failure, zones } =
            inventory;
        let trust = Some(trust);
        let (locals, given_locals) = (before.locals.clone(), local);
        let (directory, set) = (before.directory.clone(), before.set.clone());
        let mut table = Self {
            workloads,
            services,
            policies,
            locals,
            outside,
            trust,
            failure,
            zones,
            given_locals,
            directory,
            set,
        };
        for Differing { key, new, .. } in differing(&before.given_locals, &table.given_locals) {
            match new {
                Some(whole) => {
                    let local = shared(before.locals.get(key), Local::from(&**whole));
                    table.locals.insert(key.clone(), local);
                }
                None => drop(table.locals.remove(key)),
            }
        }
        table.settle(before)?;
        table.check_places(before)?;
        table.is_sayable(before)?;
        Ok(table)
    }

    /// Whoever is local is a workload, and nobody is inside and outside.
    fn check_places(&self, before: &Self) -> Result<(), Inconsistent> {
        let locals = differing(&before.locals, &self.locals).map(|one| one.key);
        let workloads = differing(&before.workloads, &self.workloads).map(|one| one.key);
        let outside = differing(&before.outside, &self.outside).map(|one| one.key);
        for name in locals.chain(workloads).chain(outside) {
            if !self.locals.contains_key(name) {
                continue;
            }
            if !self.workloads.contains_key(name) {
                return Err(Inconsistent::NoWorkload(name.clone()));
            }
            if self.outside.contains_key(name) {
                return Err(Inconsistent::InsideAndOutside(name.clone()));
            }
        }
        Ok(())
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
        let trust = self.trust.as_ref().filter(|_| self.trust != before.trust);
        trust.map_or(Ok(()), |trust| trust_from(trust_to(trust)).map(drop))
    }

    /// What every agent works with, made of what it was before. Finds everything that any node would
    /// find wrong, whatever its name.
    fn settle(&mut self, before: &Self) -> Result<(), Inconsistent> {
        let mut directory = before.directory.clone();
        let workloads: Vec<_> = differing(&before.workloads, &self.workloads).collect();
        let services: Vec<_> = differing(&before.services, &self.services).collect();
        // What goes makes room for what comes.
        let gone = workloads.iter().filter_map(|one| one.old);
        gone.for_each(|workload| directory.remove_workload(workload));
        let gone = services.iter().filter_map(|one| one.old);
        gone.for_each(|service| directory.remove_service(service));
        for workload in workloads.iter().filter_map(|one| one.new) {
            if Part::is_reserved(&workload.identity) {
                return Err(Inconsistent::Reserved(workload.name.clone()));
            }
            directory.add_workload(workload.clone())?;
        }
        for service in services.iter().filter_map(|one| one.new) {
            directory.add_service(service.clone())?;
        }
        self.directory = directory;
        self.set = match differing(&before.policies, &self.policies).next() {
            None => before.set.clone(),
            Some(_) => {
                let all = self.policies.values().map(|policy| (**policy).clone());
                Arc::new(PolicySet::new(all.collect())?)
            }
        };
        self.trust.as_ref().map(drop).ok_or(Inconsistent::NoTrust)
    }

    /// What an agent of `node` works with.
    pub fn declared(&self, node: &Label, version: u64) -> Result<Declared, Inconsistent> {
        let trust = self.trust.clone().ok_or(Inconsistent::NoTrust)?;
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
        let directory = self.directory.clone().in_zone(self.zones.get(node).cloned());
        let (directory, policies) = (Arc::new(directory), self.set.clone());
        Ok(Declared { version, directory, policies, local, outside, trust, failure })
    }

    pub fn trust(&self) -> Option<&Arc<Trust>> {
        self.trust.as_ref()
    }

    /// From `self` to `new`.
    pub fn changed(&self, new: &Self) -> Changed {
        Changed {
            workloads: keys(&self.workloads, &new.workloads),
            services: keys(&self.services, &new.services),
            policies: keys(&self.policies, &new.policies),
            locals: self.changed_locals(new),
            outside: self.changed_outside(new),
            trust: self.trust != new.trust,
            settings: self.failure != new.failure,
            zones: keys(&self.zones, &new.zones),
        }
    }

    /// One that moves from a node to another is told to both.
    fn changed_locals(&self, new: &Self) -> BTreeSet<(Label, WorkloadName)> {
        let mut names = keys(&self.locals, &new.locals);
        let moved = differing(&self.workloads, &new.workloads).filter(|one| {
            let node = |workload: Option<&Arc<Workload>>| workload.map(|one| one.node.clone());
            node(one.old) != node(one.new) && self.locals.contains_key(one.key)
        });
        names.extend(moved.map(|one| one.key.clone()));
        let nodes = |name: WorkloadName| {
            let nodes = [self.node_of(&name), new.node_of(&name)];
            nodes.into_iter().flatten().cloned().map(move |node| (node, name.clone()))
        };
        let nodes = |name| nodes(name).collect::<Vec<_>>();
        names.into_iter().flat_map(nodes).collect()
    }

    fn changed_outside(&self, new: &Self) -> BTreeSet<(Label, WorkloadName)> {
        let names = keys(&self.outside, &new.outside);
        let nodes = |name: WorkloadName| {
            let both = [self.outside.get(&name), new.outside.get(&name)];
            let nodes = both.into_iter().flatten().map(|one| one.node.clone());
            nodes.map(|node| (node, name.clone())).collect::<Vec<_>>()
        };
        names.into_iter().flat_map(nodes).collect()
    }

    fn node_of(&self, name: &WorkloadName) -> Option<&Label> {
        self.workloads.get(name).map(|workload| &workload.node)
    }
}

impl Changed {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

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

/// A key that leads to something else than before.
struct Differing<'a, K, V> {
    key: &'a K,
    old: Option<&'a V>,
    new: Option<&'a V>,
}

/// Looks at what the maps do not share.
fn differing<'a, K: Ord, V: PartialEq>(
    old: &'a OrdMap<K, V>,
    new: &'a OrdMap<K, V>,
) -> impl Iterator<Item = Differing<'a, K, V>> {
    old.diff(new).map(|item| match item {
        DiffItem::Add(key, new) => Differing { key, old: None, new: Some(new) },
        DiffItem::Remove(key, old) => Differing { key, old: Some(old), new: None },
        DiffItem::Update { old: (_, old), new: (key, new) } => {
            Differing { key, old: Some(old), new: Some(new) }
        }
    })
}

fn keys<K: Ord + Clone, V: PartialEq>(old: &OrdMap<K, V>, new: &OrdMap<K, V>) -> BTreeSet<K> {
    differing(old, new).map(|one| one.key.clone()).collect()
}

fn news<'a, K: Ord, V: PartialEq>(
    old: &'a OrdMap<K, V>,
    new: &'a OrdMap<K, V>,
) -> impl Iterator<Item = &'a V> {
    differing(old, new).filter_map(|one| one.new)
}

#[cfg(test)]
mod tests;
