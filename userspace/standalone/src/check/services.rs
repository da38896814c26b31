//! Services: virtual addresses that are nobody's own, with endpoints of the same family.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use martlet_model::{Choice, Service, WorkloadName};

use super::{Findings, Seen, text};
use crate::{
    file,
    mark::{At, Mark},
    problem::Fault,
};

type Endpoints = Vec<(SocketAddr, Option<Mark>)>;

pub(super) fn services(
    entries: &[file::Service],
    owners: &HashMap<IpAddr, WorkloadName>,
    found: &mut Findings,
) -> Vec<Arc<Service>> {
    let mut services = Vec::new();
    let mut all_endpoints = Endpoints::new();
    let mut virtual_addresses = HashSet::new();
    let mut ports_seen = Seen::new();
    for entry in entries {
        let namespace = text::label(&entry.namespace, found);
        let name = text::label(&entry.name, found);
        let address = address(&entry.address, owners, found);
        virtual_addresses.extend(address);
        found.refuse_empty("ports", &entry.ports, "a service without ports cannot be called");
        for port_entry in &entry.ports.value {
            let port = text::port(&port_entry.port, found);
            let endpoints = endpoints(&port_entry.endpoints, address, found);
            all_endpoints.extend(&endpoints);
            let (Some(ip), Some(port)) = (address, port) else { continue };
            let address = SocketAddr::new(ip, port);
            let what = || format!("the service at {address}");
            ports_seen.once(address, what, port_entry.port.mark, found);
            if let (Some(namespace), Some(name)) = (namespace.clone(), name.clone()) {
                let endpoints = endpoints.into_iter().map(|(endpoint, _)| endpoint).collect();
                let choice = Choice::default();
                services.push(Arc::new(Service { namespace, name, address, endpoints, choice }));
            }
        }
    }
    for (endpoint, mark) in all_endpoints {
        if virtual_addresses.contains(&endpoint.ip()) {
            found.note(mark, Fault::EndpointIsService { endpoint });
        }
    }
    services
}

fn address(
    entry: &At<String>,
    owners: &HashMap<IpAddr, WorkloadName>,
    found: &mut Findings,
) -> Option<IpAddr> {
    let address = text::address(entry, found)?;
    match owners.get(&address) {
        None => Some(address),
        Some(owner) => {
            found.note(entry.mark, Fault::ServiceOnWorkload { address, owner: owner.clone() });
            None
        }
    }
}

/// There may be none: a service whose endpoints are all gone refuses its callers.
fn endpoints(entries: &[At<String>], service: Option<IpAddr>, found: &mut Findings) -> Endpoints {
    let mut endpoints = Endpoints::new();
    let mut seen = Seen::new();
    for entry in entries {
        let Some(endpoint) = text::endpoint(entry, found) else { continue };
        seen.once(endpoint, || format!("endpoint {endpoint}"), entry.mark, found);
        if let Some(address) = service
            && address.is_ipv4() != endpoint.is_ipv4()
        {
            found.note(entry.mark, Fault::EndpointFamily { endpoint, address });
        }
        endpoints.push((endpoint, entry.mark));
    }
    endpoints
}
