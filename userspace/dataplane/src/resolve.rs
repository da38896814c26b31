//! From an origin to a route: which endpoint, and who must answer there.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use martlet_model::{Closed, Directory, Place, Service, Workload};
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
            let stay = service.choice.affinity;
            let stay = stay.map(|lasts| Stay { service: service.address, lasts });
            let used = stay.and_then(|stay| used(stay.service));
            let near = service.near(&caller.node, directory.zone());
            let endpoints = ordered(service, caller, near, used);
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

/// What is near comes before what is not, and what is used already before both.
fn ordered(
    service: &Service,
    caller: &Workload,
    near: Option<&[SocketAddr]>,
    used: Option<SocketAddr>,
) -> Vec<SocketAddr> {
    let order = |endpoints: &mut Vec<SocketAddr>| {
        match service.choice.affinity {
            None => endpoints.shuffle(&mut rand::rng()),
            Some(_) => prefer(endpoints, caller, service.address, used),
        }
        endpoints.truncate(ENDPOINTS_TRIED);
    };
    let all = service.endpoints_for(&caller.node);
    let mut endpoints = near.unwrap_or(all).to_vec();
    order(&mut endpoints);
    if near.is_none() {
        return endpoints;
    }
    if let Some(used) = used.filter(|used| !endpoints.contains(used) && all.contains(used)) {
        endpoints.insert(0, used);
    }
    if endpoints.len() < ENDPOINTS_TRIED {
        let others = all.iter().filter(|endpoint| !endpoints.contains(endpoint));
        let mut others = others.copied().collect();
        order(&mut others);
        endpoints.extend(others);
    }
    endpoints.truncate(ENDPOINTS_TRIED);
    endpoints
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
    use martlet_model::{Choice, Mode, Near, WorkloadName, Zone};

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

    fn zone(name: &str) -> Zone {
        name.parse().unwrap()
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
        let directory = directory.in_zone(Some(zone("a")));
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
        let choice = || Choice { affinity: Some(lasts), ..Choice::default() };
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
            let of_node = Some([(node.parse().unwrap(), endpoints)].into());
            Choice { of_node, ..Choice::default() }
        };
        let all = ["10.0.0.2:1", "10.0.0.2:2"];
        let (routes, stay) = chosen(&all, "10.9.0.1:80", of_node("one"), None).unwrap();
        assert_eq!((routes.len(), routes[0].address().port(), stay), (1, 2, None));
        let elsewhere = chosen(&all, "10.9.0.1:80", of_node("two"), None).unwrap_err();
        assert_eq!(elsewhere, Closed::NoEndpoint);
    }

    const MANY: [&str; 5] = ["10.0.0.2:1", "10.0.0.2:2", "10.0.0.2:3", "10.0.0.2:4", "10.0.0.2:5"];

    fn near(of_node: &[(&str, &[&str])], of_zone: &[(&str, &[&str])]) -> Choice {
        let parse = |endpoints: &[&str]| endpoints.iter().map(|at| at.parse().unwrap()).collect();
        let of_node = of_node.iter().map(|(node, of)| (node.parse().unwrap(), parse(of))).collect();
        let of_zone = of_zone.iter().map(|(name, of)| (zone(name), parse(of))).collect();
        Choice { near: Near { of_node, of_zone }, ..Choice::default() }
    }

    fn ports(choice: Choice, used: Option<&str>) -> Vec<u16> {
        let (routes, _) = chosen(&MANY, "10.9.0.1:80", choice, used).unwrap();
        routes.iter().map(|route| route.address().port()).collect()
    }

    #[test]
    fn what_is_near_is_tried_before_what_is_not() {
        let of_zone: [(&str, &[&str]); 2] = [("a", &[MANY[3]]), ("b", &[MANY[0]])];
        for _ in 0..20 {
            let tried = ports(near(&[], &of_zone), None);
            assert_eq!((tried[0], tried.len()), (4, ENDPOINTS_TRIED));
            assert!(!tried[1..].contains(&4), "each once: {tried:?}");
            let nearer = near(&[("one", &[MANY[1]])], &of_zone);
            assert_eq!(ports(nearer, None)[0], 2, "the node is nearer than the zone");
            let elsewhere = near(&[("two", &[MANY[1]])], &of_zone);
            assert_eq!(ports(elsewhere, None)[0], 4);
        }
    }

    #[test]
    fn where_nothing_is_near_each_is_as_good_as_another() {
        let nothing: [fn() -> Choice; 3] = [
            || near(&[], &[("b", &[MANY[0]])]),
            || near(&[("two", &[MANY[0]])], &[]),
            || near(&[("one", &[])], &[("a", &[])]),
        ];
        for choice in nothing {
            let first: std::collections::BTreeSet<_> =
                (0..200).map(|_| ports(choice(), None)[0]).collect();
            assert_eq!(first.len(), MANY.len());
        }
    }

    #[test]
    fn a_caller_that_stays_begins_near_and_stays_with_what_it_reached() {
        let choice = || Choice {
            affinity: Some(Duration::from_secs(60)),
            ..near(&[], &[("a", &[MANY[2], MANY[3], MANY[4]])])
        };
        let first = ports(choice(), None)[0];
        assert!((3..=5).contains(&first), "{first}");
        assert_eq!(ports(choice(), None)[0], first);
        assert_eq!(ports(choice(), Some(MANY[4]))[0], 5);
        assert_eq!(ports(choice(), Some(MANY[0]))[0], 1, "it was reached when others were not");
        assert_eq!(ports(choice(), Some("10.0.0.2:9"))[0], first, "it is gone");
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
