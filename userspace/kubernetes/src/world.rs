//! From all objects of the cluster to a picture: the workloads, services and policies that agents
//! are told, and what is wrong with objects. Pure: no IO, no clock.
//!
//! Each object that changes changes what rests on it, and no more:
//!
//! ```text
//!   namespace ─┐
//!   pod ───────┼─▶ workload, local ──┐ (by address)
//!   policy ────┘                     ▼
//!   service, slice ──────────────▶ services
//! ```
//!
//! Objects contradict each other, by accident or because a node lies about its own pods. An address
//! belongs to the pod that had it first, and a service's virtual address to no pod; whoever claims
//! it too is left out with a problem, and nothing of anybody else's changes.

mod agents;
mod arrivals;
mod concerns;
mod facts;
mod mesh;
mod pods;
mod policies;
mod services;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use imbl::OrdMap;
use martlet_model::{
    Label, LocalWorkload, Outsider, Service, TrustDomain, Udp, Workload, WorkloadName, Zone,
};
use martlet_policy::Policy;

use crate::{
    kept::Mesh,
    seen::{self, Problem, ServiceKey},
};

pub use concerns::Concern;
pub use facts::{Facts, Wish};
pub use mesh::Set;

/// What a cluster's administrator has chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub trust_domain: TrustDomain,
    /// Where Martlet itself runs: nothing there is enrolled, since it could not begin then.
    pub system_namespace: Label,
    /// Of the agents' pods there.
    pub agent_service_account: Label,
    pub udp: Udp,
}

/// An object of the cluster, as problems name it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Object {
    pub kind: Kind,
    /// Empty for what is in none.
    pub namespace: String,
    pub name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Namespace,
    Pod,
    Service,
    EndpointSlice,
    AuthorizationPolicy,
    TrustBundle,
    MeshConfig,
}

/// What is wrong with an object, and which life of its name has that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    pub uid: Arc<str>,
    pub problems: Vec<Problem>,
}

/// Everything that agents are told about a cluster, trust aside. A later one shares with this one what
/// is the same in both.
#[derive(Debug, Clone, Default)]
pub struct Picture {
    pub workloads: OrdMap<WorkloadName, Arc<Workload>>,
    pub services: OrdMap<SocketAddr, Arc<Service>>,
    /// By namespace and name.
    pub policies: OrdMap<(Label, Label), Arc<Policy>>,
    pub local: OrdMap<WorkloadName, Arc<LocalWorkload>>,
    /// The pods of which nobody wants that they are enrolled.
    pub outside: OrdMap<WorkloadName, Arc<Outsider>>,
    /// The nodes that have an agent, and since when, in seconds since 1970.
    pub agents: OrdMap<Label, u64>,
    /// What is set for all of it.
    pub mesh: Arc<Mesh>,
    /// Where nodes are, as far as they say it.
    pub zones: OrdMap<Label, Zone>,
}

/// All objects, and what follows from them.
#[derive(Debug)]
pub struct World {
    settings: Settings,
    mesh: Arc<Mesh>,
    /// Of pods that no label is about.
    default: Option<seen::Wanted>,
    zones: OrdMap<Label, Zone>,
    namespaces: HashMap<Label, seen::Namespace>,
    pods: HashMap<WorkloadName, Arc<seen::Pod>>,
    pods_in: HashMap<Label, BTreeSet<WorkloadName>>,
    services: HashMap<ServiceKey, seen::Service>,
    slices: HashMap<(Label, Label), seen::Slice>,
    slices_of: HashMap<ServiceKey, BTreeSet<(Label, Label)>>,
    policies: BTreeMap<(Label, Label), policies::Held>,

    /// Whose each address is: of all who claim it, the first.
    claims: HashMap<IpAddr, Vec<WorkloadName>>,
    /// Which services each virtual address belongs to; more than one is a contradiction, too.
    virtual_addresses: HashMap<IpAddr, BTreeSet<ServiceKey>>,
    /// The services with an endpoint at an address.
    behind: HashMap<IpAddr, BTreeSet<ServiceKey>>,

    enrolled: OrdMap<WorkloadName, Arc<LocalWorkload>>,
    workloads: OrdMap<WorkloadName, Arc<Workload>>,
    outside: OrdMap<WorkloadName, Arc<Outsider>>,
    /// The addresses and ports of each service that is told, and all of these.
    listed: HashMap<ServiceKey, Vec<SocketAddr>>,
    told_services: OrdMap<SocketAddr, Arc<Service>>,
    told_policies: OrdMap<(Label, Label), Arc<Policy>>,
    /// The pods of each node's agents, the oldest first; and since when there is one.
    agent_pods: HashMap<Label, BTreeSet<(u64, WorkloadName)>>,
    agents: OrdMap<Label, u64>,
    problems: Arc<HashMap<Object, Noted>>,

    /// What nodes say of their own pods before the API server does.
    arrivals: HashMap<WorkloadName, arrivals::Arrival>,
    unseen: HashMap<Label, VecDeque<arrivals::Unseen>>,

    facts: HashMap<WorkloadName, Arc<Facts>>,
    touched: BTreeSet<WorkloadName>,

    concerns: BTreeMap<(Label, Label), Arc<Concern>>,
    /// The namespaces whose policies may concern other nodes than before.
    unsettled: BTreeSet<Label>,
}

impl World {
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            mesh: Arc::default(),
            default: None,
            zones: OrdMap::new(),
            namespaces: HashMap::new(),
            pods: HashMap::new(),
            pods_in: HashMap::new(),
            services: HashMap::new(),
            slices: HashMap::new(),
            slices_of: HashMap::new(),
            policies: BTreeMap::new(),
            claims: HashMap::new(),
            virtual_addresses: HashMap::new(),
            behind: HashMap::new(),
            enrolled: OrdMap::new(),
            workloads: OrdMap::new(),
            outside: OrdMap::new(),
            listed: HashMap::new(),
            told_services: OrdMap::new(),
            told_policies: OrdMap::new(),
            agent_pods: HashMap::new(),
            agents: OrdMap::new(),
            problems: Arc::default(),
            arrivals: HashMap::new(),
            unseen: HashMap::new(),
            facts: HashMap::new(),
            touched: BTreeSet::new(),
            concerns: BTreeMap::new(),
            unsettled: BTreeSet::new(),
        }
    }

    pub fn picture(&self) -> Picture {
        Picture {
            workloads: self.workloads.clone(),
            services: self.told_services.clone(),
            policies: self.told_policies.clone(),
            local: self.enrolled.clone(),
            outside: self.outside.clone(),
            agents: self.agents.clone(),
            mesh: self.mesh.clone(),
            zones: self.zones.clone(),
        }
    }

    /// What is wrong with which objects: the same value until something else is.
    pub fn problems(&self) -> &Arc<HashMap<Object, Noted>> {
        &self.problems
    }

    /// The workload of this name, if it is enrolled.
    pub fn workload(&self, name: &WorkloadName) -> Option<&Arc<LocalWorkload>> {
        self.enrolled.get(name)
    }

    /// Whether and how this pod is to be enrolled, whatever else is in the way of it.
    pub fn mode(&self, pod: &seen::Pod) -> Option<martlet_model::Mode> {
        if pod.name.namespace == self.settings.system_namespace {
            return None;
        }
        self.wanted(pod).and_then(seen::Wanted::mode)
    }

    /// Whether it is enrolled since no label says otherwise.
    pub fn is_default(&self, pod: &seen::Pod) -> bool {
        self.labelled(pod).is_none() && self.mode(pod).is_some()
    }

    /// Its own label wins over its namespace's, and that over what is set for the mesh.
    fn wanted<'a>(&'a self, pod: &'a seen::Pod) -> Option<&'a seen::Wanted> {
        self.labelled(pod).or_else(|| self.by_default(&pod.name.namespace))
    }

    /// What labels say about it.
    fn labelled<'a>(&'a self, pod: &'a seen::Pod) -> Option<&'a seen::Wanted> {
        let namespace = self.namespaces.get(&pod.name.namespace);
        pod.wanted.as_ref().or(namespace.and_then(|one| one.wanted.as_ref()))
    }

    /// Whether anything is other by it.
    pub fn set_node(&mut self, node: seen::Node) -> bool {
        let seen::Node { name, zone } = node;
        match zone {
            Some(zone) => self.zones.insert(name, zone.clone()) != Some(zone),
            None => self.remove_node(&name),
        }
    }

    /// Whether anything is other by it.
    pub fn remove_node(&mut self, name: &Label) -> bool {
        self.zones.remove(name).is_some()
    }

    pub fn set_namespace(&mut self, namespace: seen::Namespace) {
        let name = namespace.name.clone();
        let object = Object::new(Kind::Namespace, "", name.as_str());
        let problems = unknown_mode(namespace.wanted.as_ref()).into_iter().collect();
        self.note(object, &namespace.uid, problems);
        self.namespaces.insert(name.clone(), namespace);
        self.decide_pods_in(&name);
    }

    /// A namespace goes after everything in it has; what is still there is not enrolled any more.
    pub fn remove_namespace(&mut self, name: &Label) {
        self.namespaces.remove(name);
        self.is_well(&Object::new(Kind::Namespace, "", name.as_str()));
        self.decide_pods_in(name);
    }

    fn decide_pods_in(&mut self, namespace: &Label) {
        let names = self.pods_in.get(namespace).cloned().unwrap_or_default();
        for name in names {
            self.decide_pod(&name);
        }
    }

    /// An object cannot be read, so that what was known of it stays, until it can be or is gone.
    pub fn set_unreadable(&mut self, object: Object, uid: &Arc<str>, problem: Problem) {
        self.note(object, uid, vec![problem]);
    }

    /// Says what is wrong with an object now; nothing is wrong with an empty list.
    fn note(&mut self, object: Object, uid: &Arc<str>, problems: Vec<Problem>) {
        if problems.is_empty() {
            return self.is_well(&object);
        }
        let noted = Noted { uid: uid.clone(), problems };
        if self.problems.get(&object) != Some(&noted) {
            Arc::make_mut(&mut self.problems).insert(object, noted);
        }
    }

    fn is_well(&mut self, object: &Object) {
        if self.problems.contains_key(object) {
            Arc::make_mut(&mut self.problems).remove(object);
        }
    }
}

impl Object {
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.as_str();
        match self.namespace.is_empty() {
            true => write!(f, "{kind} {}", self.name),
            false => write!(f, "{kind} {}/{}", self.namespace, self.name),
        }
    }
}

impl Kind {
    pub fn api_version(self) -> &'static str {
        match self {
            Self::Namespace | Self::Pod | Self::Service => "v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
            Self::AuthorizationPolicy | Self::TrustBundle | Self::MeshConfig => {
                "martlet.dev/v1alpha1"
            }
        }
    }

    /// As the API has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::TrustBundle => "TrustBundle",
            Self::MeshConfig => "MeshConfig",
        }
    }
}

fn unknown_mode(wanted: Option<&seen::Wanted>) -> Option<Problem> {
    let Some(seen::Wanted::Unknown(value)) = wanted else { return None };
    let label = crate::MODE_LABEL;
    Some(Problem::new(
        "UnknownMode",
        format!("{label}: {value:?} is none of permissive, strict and off; it is taken as strict"),
    ))
}

#[cfg(test)]
mod tests;
