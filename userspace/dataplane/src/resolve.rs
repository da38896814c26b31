//! From an origin to a route: which endpoint, and who must answer there.

use std::{net::SocketAddr, sync::Arc};

use martlet_model::{Closed, Directory, Place, Workload};
use rand::seq::SliceRandom as _;

use crate::limits::ENDPOINTS_TRIED;

/// Where a connection goes.
#[derive(Debug, Clone)]
pub enum Route {
    /// Over a lane, to this workload.
    Mesh { address: SocketAddr, workload: Arc<Workload> },
    /// To the calling workload itself, inside its network namespace.
    Own { address: SocketAddr },
    /// To a service's endpoint that is no workload of the mesh, in plaintext.
    Outside { address: SocketAddr },
}

impl Route {
    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Mesh { address, .. } | Self::Own { address } | Self::Outside { address } => {
                *address
            }
        }
    }
}

/// The routes to try, in order; at least one.
pub fn resolve(
    directory: &Directory,
    caller: &Workload,
    origin: SocketAddr,
) -> Result<Vec<Route>, Closed> {
    match directory.place(origin) {
        Place::Workload(workload) => Ok(vec![to_workload(caller, workload, origin)]),
        Place::Service(service) => {
            let mut endpoints = service.endpoints.clone();
            endpoints.shuffle(&mut rand::rng());
            endpoints.truncate(ENDPOINTS_TRIED);
            if endpoints.is_empty() {
                return Err(Closed::NoEndpoint);
            }
            let route = |address: SocketAddr| match directory.workload_at(address.ip()) {
                Some(workload) => to_workload(caller, workload, address),
                None => Route::Outside { address },
            };
            Ok(endpoints.into_iter().map(route).collect())
        }
        Place::UnknownPort | Place::Unknown => Err(Closed::NoRoute),
    }
}

fn to_workload(caller: &Workload, workload: &Arc<Workload>, address: SocketAddr) -> Route {
    match caller.name == workload.name {
        true => Route::Own { address },
        false => Route::Mesh { address, workload: workload.clone() },
    }
}

#[cfg(test)]
mod tests {
    use martlet_model::{Mode, Service, WorkloadName};

    use super::*;

    fn workload(name: &str, address: &str) -> Arc<Workload> {
        Arc::new(Workload {
            name: WorkloadName { namespace: "shop".parse().unwrap(), name: name.parse().unwrap() },
            service_account: name.parse().unwrap(),
            identity: format!("spiffe://a.org/ns/shop/sa/{name}").parse().unwrap(),
            addresses: vec![address.parse().unwrap()],
            node: "one".parse().unwrap(),
            mode: Mode::Strict,
            policies: vec![],
        })
    }

    fn routes(endpoints: &[&str], origin: &str) -> Result<Vec<Route>, Closed> {
        let (cart, web) = (workload("cart", "10.0.0.1"), workload("web", "10.0.0.2"));
        let service = Service {
            namespace: "shop".parse().unwrap(),
            name: "web".parse().unwrap(),
            address: "10.9.0.1:80".parse().unwrap(),
            endpoints: endpoints.iter().map(|text| text.parse().unwrap()).collect(),
        };
        let directory = Directory::new([cart.clone(), web], [Arc::new(service)]).unwrap();
        resolve(&directory, &cart, origin.parse().unwrap())
    }

    #[test]
    fn a_service_leads_to_what_its_endpoint_is() {
        let one = |endpoint| routes(&[endpoint], "10.9.0.1:80").unwrap().remove(0);
        assert!(matches!(one("10.0.0.2:8080"), Route::Mesh { address, workload }
            if address.port() == 8080 && workload.name.name.as_str() == "web"));
        assert!(matches!(one("10.0.0.1:8080"), Route::Own { .. }));
        assert!(matches!(one("10.0.0.3:8080"), Route::Outside { .. }));
    }

    #[test]
    fn not_more_endpoints_are_tried_than_the_limit() {
        let many = ["10.0.0.2:1", "10.0.0.2:2", "10.0.0.2:3", "10.0.0.2:4", "10.0.0.2:5"];
        assert_eq!(routes(&many, "10.9.0.1:80").unwrap().len(), ENDPOINTS_TRIED);
    }

    #[test]
    fn what_the_directory_does_not_know_is_refused() {
        assert_eq!(routes(&[], "10.9.0.1:80").unwrap_err(), Closed::NoEndpoint);
        assert_eq!(routes(&["10.0.0.2:1"], "10.9.0.1:81").unwrap_err(), Closed::NoRoute);
        assert_eq!(routes(&[], "10.0.0.9:80").unwrap_err(), Closed::NoRoute);
    }
}
