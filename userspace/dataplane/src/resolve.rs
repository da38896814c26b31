//! From an origin to a route: which endpoint, and who must answer there.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

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

/// The caller stays with the endpoint that it reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stay {
    pub service: SocketAddr,
    pub lasts: Duration,
}

/// The routes to try, in order; at least one.
///
/// `used`: the endpoint of a service that the caller has to stay with.
pub fn resolve(
    directory: &Directory,
    caller: &Workload,
    origin: SocketAddr,
    used: impl FnOnce(SocketAddr) -> Option<SocketAddr>,
) -> Result<(Vec<Route>, Option<Stay>), Closed> {
    match directory.place(origin) {
        Place::Workload(workload) => Ok((vec![to_workload(caller, workload, origin)], None)),
        Place::Service(service) => {
            let mut endpoints = service.endpoints_for(&caller.node).to_vec();
            let stay = service.choice.affinity;
            let stay = stay.map(|lasts| Stay { service: service.address, lasts });
            match stay {
                None => endpoints.shuffle(&mut rand::rng()),
                Some(Stay { service, .. }) => {
                    prefer(&mut endpoints, caller, service, used(service))
                }
            }
            endpoints.truncate(ENDPOINTS_TRIED);
            if endpoints.is_empty() {
                return Err(Closed::NoEndpoint);
            }
            let route = |address: SocketAddr| match directory.workload_at(address.ip()) {
                Some(workload) => to_workload(caller, workload, address),
                None => Route::Outside { address },
            };
            Ok((endpoints.into_iter().map(route).collect(), stay))
        }
        Place::UnknownPort | Place::Unknown => Err(Closed::NoRoute),
    }
}

/// The one that is used already comes first. Without it all agents would choose the same order for
/// the caller, before they were started anew and after; and where an endpoint comes or goes, few
/// callers change theirs.
fn prefer(
    endpoints: &mut [SocketAddr],
    caller: &Workload,
    service: SocketAddr,
    used: Option<SocketAddr>,
) {
    endpoints.sort_by_cached_key(|endpoint| {
        let mut hasher = DefaultHasher::new();
        (&caller.name, service, endpoint).hash(&mut hasher);
        (Some(*endpoint) != used, hasher.finish())
    });
}

fn to_workload(caller: &Workload, workload: &Arc<Workload>, address: SocketAddr) -> Route {
    match caller.name == workload.name {
        true => Route::Own { address },
        false => Route::Mesh { address, workload: workload.clone() },
    }
}

#[cfg(test)]
mod tests {
    use martlet_model::{Choice, Mode, Service, WorkloadName};

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
        chosen(endpoints, origin, Choice::default(), None).map(|(routes, _)| routes)
    }

    fn chosen(
        endpoints: &[&str],
        origin: &str,
        choice: Choice,
        used: Option<&str>,
    ) -> Result<(Vec<Route>, Option<Stay>), Closed> {
        let (cart, web) = (workload("cart", "10.0.0.1"), workload("web", "10.0.0.2"));
        let service = Service {
            choice,
            namespace: "shop".parse().unwrap(),
            name: "web".parse().unwrap(),
            address: "10.9.0.1:80".parse().unwrap(),
            endpoints: endpoints.iter().map(|text| text.parse().unwrap()).collect(),
        };
        let directory = Directory::new([cart.clone(), web], [Arc::new(service)]).unwrap();
        let used = used.map(|text| text.parse().unwrap());
        resolve(&directory, &cart, origin.parse().unwrap(), |_| used)
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
    fn a_caller_stays_with_its_endpoint_while_it_is_one() {
        let many = ["10.0.0.2:1", "10.0.0.2:2", "10.0.0.2:3", "10.0.0.2:4", "10.0.0.2:5"];
        let lasts = Duration::from_secs(60);
        let choice = || Choice { affinity: Some(lasts), of_node: None };
        let first = |endpoints: &[&str], used| {
            let (routes, stay) = chosen(endpoints, "10.9.0.1:80", choice(), used).unwrap();
            assert_eq!(stay, Some(Stay { service: "10.9.0.1:80".parse().unwrap(), lasts }));
            routes[0].address().to_string()
        };
        for used in many {
            assert_eq!(first(&many, Some(used)), used);
        }
        // An agent that knows of none chooses as it would have before it was started anew.
        let chosen = first(&many, None);
        assert_eq!(first(&many, None), chosen);
        assert_eq!(first(&many, Some("10.0.0.2:9")), chosen, "it is gone");
        let without: Vec<_> = many.into_iter().filter(|one| *one != chosen).collect();
        assert_ne!(first(&without, Some(&chosen)), chosen);
    }

    #[test]
    fn a_caller_is_sent_to_its_own_nodes_endpoints_where_the_service_says_so() {
        let of_node = |node: &str| {
            let endpoints = vec!["10.0.0.2:2".parse().unwrap()];
            Choice { affinity: None, of_node: Some([(node.parse().unwrap(), endpoints)].into()) }
        };
        let all = ["10.0.0.2:1", "10.0.0.2:2"];
        let (routes, stay) = chosen(&all, "10.9.0.1:80", of_node("one"), None).unwrap();
        assert_eq!((routes.len(), routes[0].address().port(), stay), (1, 2, None));
        let elsewhere = chosen(&all, "10.9.0.1:80", of_node("two"), None).unwrap_err();
        assert_eq!(elsewhere, Closed::NoEndpoint);
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
