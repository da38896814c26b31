//! What is declared: by a controller about all nodes, and to one node about itself.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use imbl::OrdMap;
use martlet_identity::Svid;
use martlet_model::{
    Directory, Failure, Label, LocalWorkload, Mode, NetnsSource, Outsider, Service, Skew, Trust,
    Workload, WorkloadName, Zone,
};
use martlet_policy::{Policy, PolicySet};

use crate::Inconsistent;

/// All that a node is told, complete and consistent.
#[derive(Debug, Clone)]
pub struct Declared {
    /// Grows with every change; what is acknowledged.
    pub version: u64,
    pub directory: Arc<Directory>,
    pub policies: Arc<PolicySet>,
    /// This node's workloads.
    pub local: Vec<LocalWorkload>,
    /// What of this node is outside the mesh by decision.
    pub outside: Vec<NetnsSource>,
    pub trust: Arc<Trust>,
    /// Of this node, whatever it says itself; `None`: as it says.
    pub failure: Option<Failure>,
}

/// All that a controller declares, for all nodes, by name. A copy shares what it holds, and what is
/// other in the next one is found without looking at what they share.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    pub workloads: OrdMap<WorkloadName, Arc<Workload>>,
    /// A service has an entry for each address and port.
    pub services: OrdMap<SocketAddr, Arc<Service>>,
    /// By namespace and name.
    pub policies: OrdMap<(Label, Label), Arc<Policy>>,
    /// Each is a workload's above, and is told to the agent of that workload's node only.
    pub local: OrdMap<WorkloadName, Arc<LocalWorkload>>,
    /// What is outside the mesh by decision; each is told to its node's agent only.
    pub outside: OrdMap<WorkloadName, Arc<Outsider>>,
    pub trust: Arc<Trust>,
    /// Of all nodes, whatever they say themselves; `None`: as each says.
    pub failure: Option<Failure>,
    /// Where nodes are; each is told to its own agent only.
    pub zones: OrdMap<Label, Zone>,
}

/// The same, as somebody has written it.
#[derive(Debug, Clone, Default)]
pub struct Declaration {
    pub workloads: Vec<Arc<Workload>>,
    pub services: Vec<Arc<Service>>,
    pub policies: Vec<Arc<Policy>>,
    pub local: Vec<LocalWorkload>,
    pub outside: Vec<Outsider>,
    pub trust: Arc<Trust>,
    pub failure: Option<Failure>,
    pub zones: BTreeMap<Label, Zone>,
}

impl Declaration {
    /// What is there twice is found here, since a map has room for one.
    pub fn inventory(self) -> Result<Inventory, Inconsistent> {
        let Self { workloads, services, policies, local, outside, trust, failure, zones } = self;
        Directory::new(workloads.iter().cloned(), services.iter().cloned())?;
        let mut inventory = Inventory {
            workloads: workloads.into_iter().map(|one| (one.name.clone(), one)).collect(),
            services: services.into_iter().map(|one| (one.address, one)).collect(),
            trust,
            failure,
            zones: zones.into_iter().collect(),
            ..Inventory::default()
        };
        for policy in policies {
            let name = (policy.namespace.clone(), policy.name.clone());
            if inventory.policies.insert(name.clone(), policy).is_some() {
                return Err(Inconsistent::PolicyTwice(name.0, name.1));
            }
        }
        for local in local {
            let name = local.workload.name.clone();
            if inventory.local.insert(name.clone(), Arc::new(local)).is_some() {
                return Err(Inconsistent::LocalTwice(name));
            }
        }
        for one in outside {
            let name = one.name.clone();
            if inventory.outside.insert(name.clone(), Arc::new(one)).is_some() {
                return Err(Inconsistent::LocalTwice(name));
            }
        }
        Ok(inventory)
    }
}

/// What an agent has in use now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Certificates by the fingerprint of their issuer's certificate.
    pub leaves: BTreeMap<String, u64>,
    /// Live connections by the digest of the key of the root that vouches for the peer
    /// (`RootKey::digest`).
    pub connections: BTreeMap<String, u64>,
    /// Seconds since 1970; of all certificates in use the one that expires first. 0 without any.
    pub oldest_expiry: u64,
    /// How far the node's clock is from the controller's; `None` before it was measured.
    pub clock: Option<Skew>,
    /// Certificates by the quarter of their life that they are in.
    pub quarters: [u64; 4],
    /// Seconds since 1970; when the next certificate is to be renewed. 0 without any.
    pub next_renewal: u64,
}

impl Usage {
    /// Counts a certificate by its age.
    pub fn ages(&mut self, svid: &Svid, now: SystemTime) {
        self.quarters[svid.quarter(now)] += 1;
        let renewal = svid.renews_at(0.0).duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.next_renewal = match self.next_renewal {
            0 => renewal,
            next => next.min(renewal),
        };
    }
}

/// How it stands with a workload of an agent's node, as the agent says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The UID of the pod that it is; empty if it is none.
    pub pod: Arc<str>,
    pub stands: Stands,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stands {
    /// Its connections go over lanes, and what comes to it is let in as the mode says.
    Enrolled(Mode),
    /// It is not so yet, or not in all, for this reason.
    Pending(String),
    /// The controller refuses it a certificate.
    Refused(String),
}

/// A pod of an agent's node whose network has just been made, as the agent was told there. Without
/// addresses, nothing is said of it any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    pub name: WorkloadName,
    /// The pod's UID.
    pub pod: Arc<str>,
    pub addresses: Vec<IpAddr>,
}

/// What an agent has put into effect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acknowledgement {
    pub version: u64,
    pub trust_version: u64,
    /// Of the roots in effect: `bundle_digest`.
    pub bundle: String,
    /// Why the version could not be put into effect.
    pub error: Option<String>,
}
