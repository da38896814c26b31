//! The directory: an immutable snapshot of all workloads and services that an agent knows.

use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use imbl::HashMap;
use thiserror::Error;

use crate::{Label, Mode, Workload, WorkloadName, Zone};

/// A virtual address and port, and the endpoints behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub namespace: Label,
    pub name: Label,
    pub address: SocketAddr,
    pub endpoints: Vec<SocketAddr>,
    pub choice: Choice,
}

/// By what an endpoint is chosen for a caller; by default each is as good as another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// A caller stays with an endpoint for so long after it used it last.
    pub affinity: Option<Duration>,
    /// Of the endpoints, those that callers of each node are sent to; whoever is on another one is
    /// sent nowhere. `None`: all are sent to all.
    pub of_node: Option<BTreeMap<Label, Vec<SocketAddr>>>,
    /// Of the endpoints that a caller is sent to, those that come before all others.
    pub near: Near,
}

/// Which endpoints are near whom. Of both, those of the node count; where neither names any, each
/// endpoint is as good as another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Near {
    pub of_node: BTreeMap<Label, Vec<SocketAddr>>,
    pub of_zone: BTreeMap<Zone, Vec<SocketAddr>>,
}

impl Near {
    fn to(&self, node: &Label, zone: Option<&Zone>) -> Option<&[SocketAddr]> {
        let of_zone = || self.of_zone.get(zone?);
        let of_node = self.of_node.get(node).filter(|endpoints| !endpoints.is_empty());
        of_node.or_else(of_zone).map(Vec::as_slice)
    }
}

impl Service {
    /// Those that come before all others for callers of a node; `None`: each is as good as another.
    pub fn near(&self, node: &Label, zone: Option<&Zone>) -> Option<&[SocketAddr]> {
        self.choice.near.to(node, zone).filter(|endpoints| !endpoints.is_empty())
    }

    /// Where callers of a node are sent.
    pub fn endpoints_for(&self, node: &Label) -> &[SocketAddr] {
        match &self.choice.of_node {
            None => &self.endpoints,
            Some(of_node) => of_node.get(node).map(Vec::as_slice).unwrap_or_default(),
        }
    }
}

/// What stands behind an address.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    Workload(&'a Arc<Workload>),
    Service(&'a Arc<Service>),
    /// The address is a service's, the port is none of its ports.
    UnknownPort,
    Unknown,
}

/// All workloads by address and all services by virtual address. Replaced as a whole: a copy shares
/// what it holds, so that the next one costs what is other in it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Directory {
    workloads: HashMap<IpAddr, Arc<Workload>>,
    services: HashMap<SocketAddr, Arc<Service>>,
    virtual_addresses: HashMap<IpAddr, usize>,
    /// In which the node is whose agent has this directory.
    zone: Option<Zone>,
}

/// Why workloads and services do not make a directory.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DirectoryError {
    #[error("address {address} belongs to both {first} and {second}")]
    AddressTwice { address: IpAddr, first: WorkloadName, second: WorkloadName },
    #[error("service {namespace}/{name}: {address} is already another service's")]
    ServiceTwice { address: SocketAddr, namespace: Label, name: Label },
    #[error("service {namespace}/{name}: {address} is the address of workload {workload}")]
    ServiceOnWorkload { address: IpAddr, namespace: Label, name: Label, workload: WorkloadName },
    #[error("workload {0} is listed twice")]
    WorkloadTwice(WorkloadName),
}

impl Directory {
    pub fn new(
        workloads: impl IntoIterator<Item = Arc<Workload>>,
        services: impl IntoIterator<Item = Arc<Service>>,
    ) -> Result<Self, DirectoryError> {
        let mut directory = Self::default();
        let mut names = HashSet::new();
        for workload in workloads {
            if !names.insert(workload.name.clone()) {
                return Err(DirectoryError::WorkloadTwice(workload.name.clone()));
            }
            directory.add_workload(workload)?;
        }
        for service in services {
            directory.add_service(service)?;
        }
        Ok(directory)
    }

    /// As a node of this zone has it.
    #[must_use]
    pub fn in_zone(self, zone: Option<Zone>) -> Self {
        Self { zone, ..self }
    }

    pub fn zone(&self) -> Option<&Zone> {
        self.zone.as_ref()
    }

    /// Nothing else may have its name; after an error, this is no directory any more.
    pub fn add_workload(&mut self, workload: Arc<Workload>) -> Result<(), DirectoryError> {
        for address in &workload.addresses {
            let address = address.to_canonical();
            if let Some(first) = self.workloads.insert(address, workload.clone()) {
                return Err(DirectoryError::AddressTwice {
                    address,
                    first: first.name.clone(),
                    second: workload.name.clone(),
                });
            }
            if self.virtual_addresses.contains_key(&address) {
                let at_it = |one: &&Arc<Service>| one.address.ip().to_canonical() == address;
                if let Some(service) = self.services.values().find(at_it) {
                    return Err(service_on(service, address, &workload));
                }
            }
        }
        Ok(())
    }

    /// One that was added.
    pub fn remove_workload(&mut self, workload: &Workload) {
        for address in &workload.addresses {
            self.workloads.remove(&address.to_canonical());
        }
    }

    /// After an error, this is no directory any more.
    pub fn add_service(&mut self, service: Arc<Service>) -> Result<(), DirectoryError> {
        let address = canonical(service.address);
        if let Some(workload) = self.workloads.get(&address.ip()) {
            return Err(service_on(&service, address.ip(), workload));
        }
        let (namespace, name) = (service.namespace.clone(), service.name.clone());
        if self.services.insert(address, service).is_some() {
            return Err(DirectoryError::ServiceTwice { address, namespace, name });
        }
        *self.virtual_addresses.entry(address.ip()).or_default() += 1;
        Ok(())
    }

    /// One that was added.
    pub fn remove_service(&mut self, service: &Service) {
        let address = canonical(service.address);
        if self.services.remove(&address).is_none() {
            return;
        }
        match self.virtual_addresses.get_mut(&address.ip()) {
            Some(ports) if *ports > 1 => *ports -= 1,
            _ => drop(self.virtual_addresses.remove(&address.ip())),
        }
    }

    /// What stands behind `address`; v4-mapped IPv6 addresses are taken as IPv4.
    pub fn place(&self, address: SocketAddr) -> Place<'_> {
        let address = canonical(address);
        if let Some(workload) = self.workloads.get(&address.ip()) {
            return Place::Workload(workload);
        }
        if let Some(service) = self.services.get(&address) {
            return Place::Service(service);
        }
        match self.virtual_addresses.contains_key(&address.ip()) {
            true => Place::UnknownPort,
            false => Place::Unknown,
        }
    }

    pub fn workload_at(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        self.workloads.get(&address.to_canonical())
    }

    /// Every workload's every address.
    pub fn workload_addresses(&self) -> impl Iterator<Item = (IpAddr, &Arc<Workload>)> {
        self.workloads.iter().map(|(address, workload)| (*address, workload))
    }

    /// The virtual addresses of all services, each once.
    pub fn virtual_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.virtual_addresses.keys().copied()
    }

    /// The virtual addresses behind any of whose ports there is a strict workload.
    pub fn strict_virtual_addresses(&self) -> HashSet<IpAddr> {
        let is_strict = |endpoint: &SocketAddr| {
            self.workload_at(endpoint.ip()).is_some_and(|workload| workload.mode == Mode::Strict)
        };
        let strict = self.services.iter().filter(|(_, s)| s.endpoints.iter().any(is_strict));
        strict.map(|(address, _)| address.ip()).collect()
    }

    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }
}

fn service_on(service: &Service, address: IpAddr, workload: &Workload) -> DirectoryError {
    let (namespace, name) = (service.namespace.clone(), service.name.clone());
    DirectoryError::ServiceOnWorkload { address, namespace, name, workload: workload.name.clone() }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SpiffeId;

    fn workload(name: &str, address: &str) -> Arc<Workload> {
        Arc::new(Workload {
            name: WorkloadName { namespace: "shop".parse().unwrap(), name: name.parse().unwrap() },
            service_account: name.parse().unwrap(),
            identity: SpiffeId::for_workload(&"a.org".parse().unwrap(), "shop", name).unwrap(),
            addresses: vec![address.parse().unwrap()],
            node: "one".parse().unwrap(),
            mode: Mode::Strict,
            policies: vec![],
        })
    }

    fn service(address: &str) -> Arc<Service> {
        Arc::new(Service {
            namespace: "shop".parse().unwrap(),
            name: "web".parse().unwrap(),
            address: address.parse().unwrap(),
            endpoints: vec![],
            choice: Choice::default(),
        })
    }

    #[test]
    fn a_virtual_address_is_strict_if_a_strict_workload_is_behind_one_of_its_ports() {
        let permissive =
            Workload { mode: Mode::Permissive, ..(*workload("cart", "10.0.0.2")).clone() };
        let leads = |address: &str, to: &str| {
            let endpoints = vec![to.parse().unwrap()];
            Arc::new(Service { endpoints, ..(*service(address)).clone() })
        };
        let services = [
            leads("10.9.0.1:80", "10.0.0.2:8080"),
            leads("10.9.0.1:81", "10.0.0.1:8080"),
            leads("10.9.0.2:80", "10.0.0.2:8080"),
            leads("10.9.0.3:80", "192.0.2.1:80"),
            service("10.9.0.4:80"),
        ];
        let workloads = [workload("web", "10.0.0.1"), Arc::new(permissive)];
        let directory = Directory::new(workloads, services).unwrap();
        assert_eq!(directory.strict_virtual_addresses(), ["10.9.0.1".parse().unwrap()].into());
    }

    #[test]
    fn an_address_leads_to_its_workload_or_service() {
        let directory =
            Directory::new([workload("web", "10.0.0.1")], [service("10.9.0.1:80")]).unwrap();
        let place = |text: &str| directory.place(text.parse().unwrap());
        assert!(matches!(place("10.0.0.1:9"), Place::Workload(w) if w.name.name.as_str() == "web"));
        assert!(matches!(place("[::ffff:10.0.0.1]:9"), Place::Workload(_)));
        assert!(matches!(place("10.9.0.1:80"), Place::Service(_)));
        assert!(matches!(place("10.9.0.1:81"), Place::UnknownPort));
        assert!(matches!(place("10.0.0.2:9"), Place::Unknown));
    }

    #[test]
    fn an_address_with_two_owners_is_refused() {
        let twice = [workload("web", "10.0.0.1"), workload("cart", "::ffff:10.0.0.1")];
        assert!(matches!(Directory::new(twice, []), Err(DirectoryError::AddressTwice { .. })));
        let both = Directory::new([workload("web", "10.0.0.1")], [service("10.0.0.1:80")]);
        assert!(matches!(both, Err(DirectoryError::ServiceOnWorkload { .. })));
        let services = Directory::new([], [service("10.9.0.1:80"), service("10.9.0.1:80")]);
        assert!(matches!(services, Err(DirectoryError::ServiceTwice { .. })));
    }
}
