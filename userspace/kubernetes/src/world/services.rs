//! Services with an enrolled workload behind them become services of the mesh.
//!
//! Others are not listed: connections to them are none of ours, and cost nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use martlet_model::{Choice, Label, Near, Service};

use super::{Kind, Object, World};
use crate::{
    limits,
    seen::{self, Endpoint, Problem, ServiceKey, ServicePort},
};

impl World {
    pub fn set_service(&mut self, service: seen::Service) {
        let key = service.key.clone();
        let addresses = service.addresses.clone();
        let before = self.services.insert(key.clone(), service);
        let had = before.map(|before| before.addresses).unwrap_or_default();
        self.move_virtual_addresses(&key, &had, &addresses);
    }

    pub fn remove_service(&mut self, key: &ServiceKey) {
        let Some(service) = self.services.remove(key) else { return };
        self.move_virtual_addresses(key, &service.addresses, &[]);
    }

    pub fn set_slice(&mut self, slice: seen::Slice) {
        let name = (slice.namespace.clone(), slice.name.clone());
        self.is_well(&Object::new(Kind::EndpointSlice, name.0.as_str(), name.1.as_str()));
        let before = self.detach_slice(&name);
        let after = slice.service.clone();
        if let Some(service) = &after {
            self.slices_of.entry(service.clone()).or_default().insert(name.clone());
            for endpoint in &slice.endpoints {
                self.behind.entry(endpoint.address).or_default().insert(service.clone());
            }
            self.slices.insert(name, slice);
        }
        let both: BTreeSet<_> = before.into_iter().chain(after).collect();
        both.iter().for_each(|service| self.decide_service(service));
    }

    pub fn remove_slice(&mut self, name: &(Label, Label)) {
        self.is_well(&Object::new(Kind::EndpointSlice, name.0.as_str(), name.1.as_str()));
        if let Some(service) = self.detach_slice(name) {
            self.decide_service(&service);
        }
    }

    /// Whose it was.
    fn detach_slice(&mut self, name: &(Label, Label)) -> Option<ServiceKey> {
        let slice = self.slices.remove(name)?;
        let service = slice.service?;
        if let Some(slices) = self.slices_of.get_mut(&service) {
            slices.remove(name);
            if slices.is_empty() {
                self.slices_of.remove(&service);
            }
        }
        // Another slice of the service may have the same endpoint.
        let slices = self.slices_of.get(&service).into_iter().flatten();
        let slices = slices.filter_map(|name| self.slices.get(name));
        let still: BTreeSet<IpAddr> =
            slices.flat_map(|slice| &slice.endpoints).map(|one| one.address).collect();
        for endpoint in slice.endpoints.iter().filter(|one| !still.contains(&one.address)) {
            if let Some(services) = self.behind.get_mut(&endpoint.address) {
                services.remove(&service);
                if services.is_empty() {
                    self.behind.remove(&endpoint.address);
                }
            }
        }
        Some(service)
    }

    /// Who shares an address with the service has other ports to itself, whether or not the address
    /// stays.
    fn move_virtual_addresses(&mut self, key: &ServiceKey, had: &[IpAddr], has: &[IpAddr]) {
        for address in had.iter().filter(|address| !has.contains(address)) {
            if let Some(services) = self.virtual_addresses.get_mut(address) {
                services.remove(key);
                if services.is_empty() {
                    self.virtual_addresses.remove(address);
                }
            }
            self.decide_claimants(*address);
        }
        for address in has.iter().filter(|address| !had.contains(address)) {
            let services = self.virtual_addresses.entry(*address).or_default();
            services.insert(key.clone());
            self.decide_claimants(*address);
        }
        let all = had.iter().chain(has).filter_map(|address| self.virtual_addresses.get(address));
        let mut touched: BTreeSet<_> = all.flatten().cloned().collect();
        touched.insert(key.clone());
        touched.iter().for_each(|other| self.decide_service(other));
    }

    fn decide_claimants(&mut self, address: IpAddr) {
        for claimant in self.claims.get(&address).cloned().unwrap_or_default() {
            self.decide_pod(&claimant);
        }
    }

    pub(super) fn decide_service(&mut self, key: &ServiceKey) {
        let object = Object::new(Kind::Service, key.namespace.as_str(), key.name.as_str());
        let services = match self.services.get(key) {
            Some(service) => {
                let (uid, (services, problems)) = (service.uid.clone(), self.services_of(service));
                self.note(object, &uid, problems);
                services
            }
            None => {
                self.is_well(&object);
                vec![]
            }
        };
        let is_own = |told: &Service| told.namespace == key.namespace && told.name == key.name;
        let now: Vec<_> = services.iter().map(|service| service.address).collect();
        for address in self.listed.remove(key).unwrap_or_default() {
            // Whoever has it since has said so.
            let told = self.told_services.get(&address);
            if !now.contains(&address) && told.is_some_and(|told| is_own(told)) {
                self.told_services.remove(&address);
            }
        }
        for service in services {
            if self.told_services.get(&service.address).is_none_or(|told| **told != service) {
                self.told_services.insert(service.address, Arc::new(service));
            }
        }
        if !now.is_empty() {
            self.listed.insert(key.clone(), now);
        }
    }

    /// One for each address and port.
    fn services_of(&self, service: &seen::Service) -> (Vec<Service>, Vec<Problem>) {
        let slices = self.slices_of.get(&service.key).into_iter().flatten();
        let slices: Vec<_> = slices.filter_map(|name| self.slices.get(name)).collect();
        let mut all = slices.iter().flat_map(|slice| &slice.endpoints);
        if !all.any(|endpoint| self.is_enrolled(endpoint.address)) {
            return (vec![], vec![]);
        }
        let (mut services, mut problems) = (Vec::new(), Vec::new());
        for address in &service.addresses {
            for port in &service.ports {
                let owner = self.owner(*address, port.port);
                if let Some(owner) = owner.filter(|owner| **owner != service.key) {
                    let why = format!("{address} port {} is service {owner}'s, too", port.port);
                    problems.push(Problem::new("AddressConflict", why));
                    continue;
                }
                let (endpoints, choice) = chosen(&slices, service, *address, port);
                services.push(Service {
                    namespace: service.key.namespace.clone(),
                    name: service.key.name.clone(),
                    address: SocketAddr::new(*address, port.port),
                    endpoints,
                    choice,
                });
            }
        }
        (services, problems)
    }

    /// Whose a virtual address and port are: external ones may be shared, a port of them may not.
    fn owner(&self, address: IpAddr, port: u16) -> Option<&ServiceKey> {
        let services = self.virtual_addresses.get(&address)?;
        services.iter().find(|key| {
            let service = self.services.get(*key);
            service.is_some_and(|one| one.ports.iter().any(|other| other.port == port))
        })
    }

    fn is_enrolled(&self, address: IpAddr) -> bool {
        let holder = self.claims.get(&address).and_then(|claimants| claimants.first());
        holder.is_some_and(|holder| self.enrolled.contains_key(holder))
    }
}

/// Where connections to a port of one address go.
fn chosen(
    slices: &[&seen::Slice],
    service: &seen::Service,
    address: IpAddr,
    port: &ServicePort,
) -> (Vec<SocketAddr>, Choice) {
    let all = of_port(slices, address, port);
    let affinity = service.affinity;
    if !service.own_node_only.contains(&address) {
        return (usable(&all), Choice { affinity, of_node: None, near: near(&all) });
    }
    let mut by_node: BTreeMap<&Label, Vec<_>> = BTreeMap::new();
    for one in all {
        if let Some(node) = &one.1.node {
            by_node.entry(node).or_default().push(one);
        }
    }
    let of_node: BTreeMap<_, _> =
        by_node.into_iter().map(|(node, of)| (node.clone(), usable(&of))).collect();
    let mut endpoints: Vec<_> = of_node.values().flatten().copied().collect();
    endpoints.sort_unstable();
    (endpoints, Choice { affinity, of_node: Some(of_node), near: Near::default() })
}

/// By the hints of the ready ones: <https://kubernetes.io/docs/concepts/services-networking/topology-aware-routing/#safeguards>.
fn near(endpoints: &[(SocketAddr, &Endpoint)]) -> Near {
    let ready: Vec<_> = endpoints.iter().filter(|(_, one)| one.is_ready).copied().collect();
    let of_node = hinted(&ready, limits::NEAR_NODES, |endpoint| &endpoint.nodes);
    let of_zone = hinted(&ready, limits::ENDPOINTS, |endpoint| &endpoint.zones);
    Near { of_node, of_zone }
}

/// Where one has no hint, hints are on their way or going, and none of them counts.
fn hinted<K: Ord + Clone>(
    ready: &[(SocketAddr, &Endpoint)],
    most: usize,
    places: impl Fn(&Endpoint) -> &[K],
) -> BTreeMap<K, Vec<SocketAddr>> {
    let mut hinted: BTreeMap<K, Vec<SocketAddr>> = BTreeMap::new();
    for (at, endpoint) in ready {
        let places: BTreeSet<_> = places(endpoint).iter().cloned().collect();
        if places.is_empty() {
            return BTreeMap::new();
        }
        places.into_iter().for_each(|place| hinted.entry(place).or_default().push(*at));
    }
    // Whoever is near all of them is near none.
    hinted.retain(|_, near| near.len() < ready.len());
    match hinted.values().map(Vec::len).sum::<usize>() <= most {
        true => hinted,
        false => BTreeMap::new(),
    }
}

/// Each endpoint of a port once, with its number; of the address's family.
fn of_port<'a>(
    slices: &[&'a seen::Slice],
    address: IpAddr,
    port: &ServicePort,
) -> Vec<(SocketAddr, &'a Endpoint)> {
    let found = slices.iter().flat_map(|slice| {
        let number = slice.ports.iter().find(|(name, _)| *name == port.name);
        let number = number.map(|(_, number)| *number);
        let endpoints = slice.endpoints.iter();
        endpoints.filter_map(move |one| Some((SocketAddr::new(one.address, number?), one)))
    });
    let found = found.filter(|(endpoint, _)| endpoint.is_ipv4() == address.is_ipv4());
    // In two slices for a moment, it is in one of them as it is now: where it is more of use.
    let mut all: Vec<_> = found.collect();
    all.sort_by_key(|(endpoint, one)| (*endpoint, !one.is_ready, !one.is_leaving));
    all.dedup_by_key(|(endpoint, _)| *endpoint);
    all.truncate(limits::ENDPOINTS);
    all
}

/// The ready ones, and, where there is none, those that are leaving and still serve.
fn usable(endpoints: &[(SocketAddr, &Endpoint)]) -> Vec<SocketAddr> {
    let of = |wanted: fn(&Endpoint) -> bool| -> Vec<SocketAddr> {
        let found = endpoints.iter().filter(|(_, one)| wanted(one));
        found.map(|(endpoint, _)| *endpoint).collect()
    };
    let ready = of(|endpoint| endpoint.is_ready);
    match ready.is_empty() {
        true => of(|endpoint| endpoint.is_leaving),
        false => ready,
    }
}
