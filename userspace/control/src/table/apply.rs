//! From messages to a table: an agent's side.
//!
//! ```text
//!   what is in effect ── first message of a version ──▶ being received ── complete, consistent ──▶
//!        ▲                                                   │             what is in effect
//!        └── anything wrong: nothing of that version is taken ◀
//! ```

use std::{net::SocketAddr, sync::Arc};

use imbl::OrdMap;
use martlet_identity::TrustBundle;
use martlet_model::{Label, Trust, TrustDomain};
use thiserror::Error;

use super::{Inconsistent, Table};
use crate::{
    Declared, limits,
    message::{
        Malformed, PolicyName, here_from, local_from, name_from, outside_from, parsed, policy_from,
        policy_name_from, service_from, settings_from, trust_from, workload_from,
    },
    proto,
};

/// What an agent has, and what it is being told.
#[derive(Debug)]
pub struct Receiving {
    trust_domain: TrustDomain,
    node: Label,
    table: Arc<Table>,
    instance: u64,
    version: u64,
    /// Of the version that is being received.
    next: Option<(u64, Table)>,
}

#[derive(Debug)]
pub enum Received {
    /// A sign of life, or a part of what will be whole.
    Nothing,
    Whole(Box<Declared>),
}

/// Why nothing of a version is taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refused {
    #[error("a message is malformed: {0}")]
    Malformed(#[from] Malformed),
    #[error("it contradicts itself: {0}")]
    Inconsistent(#[from] Inconsistent),
    #[error("version {version} was said, but {known} is in effect already")]
    GoesBack { version: u64, known: u64 },
    #[error("changes of version {base} were said, but {known} is in effect")]
    Base { base: u64, known: u64 },
    #[error("parts of the versions {first} and {second} were mixed")]
    Mixed { first: u64, second: u64 },
    #[error("version {version} of trust was said, but {known} is in effect already")]
    TrustGoesBack { version: u64, known: u64 },
    #[error("version {0} of trust was said before, with something else in it")]
    TrustDiffers(u64),
    #[error("the roots cannot be used: {0}")]
    Roots(String),
    #[error("there is no root of {0}, to which this node belongs")]
    NoOwnRoot(TrustDomain),
    #[error("it has more {0} than a mesh can have")]
    TooMany(&'static str),
}

impl Receiving {
    pub fn new(trust_domain: TrustDomain, node: Label) -> Self {
        let table = Arc::default();
        Self { trust_domain, node, table, instance: 0, version: 0, next: None }
    }

    pub fn instance(&self) -> u64 {
        self.instance
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    #[cfg(test)]
    pub fn node(&self) -> &Label {
        &self.node
    }

    pub fn into_names(self) -> (TrustDomain, Label) {
        (self.trust_domain, self.node)
    }

    /// After an error, what was in effect is still in effect, and the next version has to begin
    /// with it again.
    pub fn receive(&mut self, message: proto::ToAgent) -> Result<Received, Refused> {
        let received = self.try_receive(message);
        if received.is_err() {
            self.next = None;
        }
        received
    }

    /// A connection was lost: what was not said to the end is not taken.
    pub fn begin_again(&mut self) {
        self.next = None;
    }

    fn try_receive(&mut self, message: proto::ToAgent) -> Result<Received, Refused> {
        if message.version == 0 {
            return Ok(Received::Nothing);
        }
        let (version, instance) = (message.version, message.instance);
        let (complete, full) = (message.complete, message.full);
        let mut next = match self.next.take() {
            Some((first, next)) if first == version => next,
            Some((first, _)) => return Err(Refused::Mixed { first, second: version }),
            None => self.begin(&message)?,
        };
        next.apply(message, &self.node)?;
        if !complete {
            self.next = Some((version, next));
            return Ok(Received::Nothing);
        }
        if !full && instance != self.instance {
            return Err(Refused::Base { base: 0, known: self.version });
        }
        next.settle(&self.table)?;
        let declared = next.declared(&self.node, version)?;
        self.check_trust(&declared.trust)?;
        self.table = Arc::new(next);
        (self.instance, self.version) = (instance, version);
        Ok(Received::Whole(Box::new(declared)))
    }

    fn begin(&self, message: &proto::ToAgent) -> Result<Table, Refused> {
        let known = self.version;
        if message.version <= known {
            return Err(Refused::GoesBack { version: message.version, known });
        }
        if message.full {
            return Ok(Table::default());
        }
        match message.base == known && message.instance == self.instance {
            true => Ok((*self.table).clone()),
            false => Err(Refused::Base { base: message.base, known }),
        }
    }

    fn check_trust(&self, new: &Arc<Trust>) -> Result<(), Refused> {
        if let Some(old) = self.table.trust() {
            let (version, known) = (new.version, old.version);
            if version < known {
                return Err(Refused::TrustGoesBack { version, known });
            }
            if version == known && old != new {
                return Err(Refused::TrustDiffers(version));
            }
            if old == new {
                return Ok(());
            }
        }
        TrustBundle::of(new).map_err(|error| Refused::Roots(error.to_string()))?;
        match new.roots.contains_key(&self.trust_domain) {
            true => Ok(()),
            false => Err(Refused::NoOwnRoot(self.trust_domain.clone())),
        }
    }
}

impl Table {
    fn apply(&mut self, message: proto::ToAgent, node: &Label) -> Result<(), Refused> {
        for removed in message.workloads_removed {
            self.workloads.remove(&name_from(Some(removed))?);
        }
        for removed in message.services_removed {
            let removed: SocketAddr = parsed("services_removed", &removed)?;
            self.services.remove(&removed);
        }
        for removed in message.policies_removed {
            let name: PolicyName = policy_name_from(Some(removed))?;
            self.policies.remove(&name);
        }
        for removed in message.locals_removed {
            self.locals.remove(&name_from(Some(removed))?);
        }
        for removed in message.outside_removed {
            self.outside.remove(&name_from(Some(removed))?);
        }
        for workload in message.workloads {
            let workload = workload_from(workload)?;
            self.workloads.insert(workload.name.clone(), Arc::new(workload));
        }
        for service in message.services {
            let service = service_from(service)?;
            self.services.insert(service.address, Arc::new(service));
        }
        for policy in message.policies {
            let policy = policy_from(policy)?;
            let name = (policy.namespace.clone(), policy.name.clone());
            self.policies.insert(name, Arc::new(policy));
        }
        for local in message.locals {
            let local = local_from(local)?;
            self.locals.insert(local.name.clone(), Arc::new(local));
        }
        for one in message.outside {
            let one = outside_from(one, node)?;
            self.outside.insert(one.name.clone(), Arc::new(one));
        }
        if let Some(trust) = message.trust {
            self.trust = Some(Arc::new(trust_from(trust)?));
        }
        if let Some(settings) = message.settings {
            self.failure = settings_from(&settings)?;
        }
        if let Some(here) = message.here {
            match here_from(&here)? {
                Some(zone) => drop(self.zones.insert(node.clone(), zone)),
                None => drop(self.zones.remove(node)),
            }
        }
        fits("workloads", &self.workloads, limits::WORKLOADS)?;
        fits("services", &self.services, limits::SERVICES)?;
        fits("policies", &self.policies, limits::POLICIES)?;
        fits("others of one node", &self.outside, limits::LOCALS)?;
        fits("workloads of one node", &self.locals, limits::LOCALS)
    }
}

fn fits<K: Ord, V>(what: &'static str, map: &OrdMap<K, V>, most: usize) -> Result<(), Refused> {
    if map.len() <= most { Ok(()) } else { Err(Refused::TooMany(what)) }
}
