//! Which endpoints a service leads to, for whom, and by which numbers.

use std::time::Duration;

use martlet_model::Near;

use super::*;

fn only(world: &World) -> Arc<Service> {
    world.picture().services.values().next().unwrap().clone()
}

#[test]
fn callers_of_a_node_are_sent_to_its_own_endpoints_where_the_service_says_so() {
    let mut world = shop();
    let mut local = service("shop/web", "10.96.0.1");
    local.addresses.push("192.0.2.1".parse().unwrap());
    local.own_node_only = vec!["10.96.0.1".parse().unwrap()];
    local.affinity = Some(Duration::from_secs(60));
    world.set_service(local);
    let mut both =
        slice("shop/web-1", "shop/web", &["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]);
    both.endpoints[1].node = Some(label("two"));
    // The last one of its node, and on its way out; the other is nowhere.
    (both.endpoints[2].is_ready, both.endpoints[2].is_leaving) = (false, true);
    both.endpoints[2].node = Some(label("three"));
    both.endpoints[3].node = None;
    world.set_slice(both);
    let services: Vec<_> = world.picture().services.values().cloned().collect();
    let to = |service: &Service, node: &str| -> Vec<String> {
        service.endpoints_for(&label(node)).iter().map(|at| at.ip().to_string()).collect()
    };
    let [of_cluster, external] = &services[..] else { panic!("{services:?}") };
    assert_eq!(to(of_cluster, "one"), ["10.0.0.1"]);
    assert_eq!(to(of_cluster, "two"), ["10.0.0.2"]);
    assert_eq!(to(of_cluster, "three"), ["10.0.0.3"], "it still serves");
    assert_eq!(to(of_cluster, "four"), [] as [&str; 0]);
    assert_eq!(to(external, "four"), ["10.0.0.1", "10.0.0.2", "10.0.0.4"]);
    assert_eq!(of_cluster.choice.affinity, Some(Duration::from_secs(60)));
    assert_eq!(external.choice.affinity, Some(Duration::from_secs(60)));
}

#[test]
fn each_port_of_a_service_leads_to_its_own_number_of_each_slice() {
    let mut world = shop();
    let mut two = service("shop/web", "10.96.0.1");
    two.ports.push(seen::ServicePort { name: "admin".to_owned(), port: 81 });
    world.set_service(two);
    // A name of a container's port can mean another number in other pods: they are in other slices.
    let mut old = slice("shop/web-1", "shop/web", &["10.0.0.1"]);
    old.ports = vec![("http".to_owned(), 8080), ("admin".to_owned(), 9000)];
    let mut new = slice("shop/web-2", "shop/web", &["10.0.0.2"]);
    new.ports = vec![("http".to_owned(), 8081)];
    world.set_slice(old);
    world.set_slice(new);
    let expected = "10.96.0.1:80 -> 10.0.0.1:8080 10.0.0.2:8081, 10.96.0.1:81 -> 10.0.0.1:9000";
    assert_eq!(endpoints(&world), expected);
}

/// What is near whom, of a service whose endpoints have these hints.
fn near(zones: &[&[&str]], nodes: &[&[&str]], change: impl FnOnce(&mut seen::Slice)) -> String {
    let mut world = shop();
    world.set_service(service("shop/web", "10.96.0.1"));
    let mut hinted = slice("shop/web-1", "shop/web", &["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    for (endpoint, zones) in hinted.endpoints.iter_mut().zip(zones) {
        endpoint.zones = zones.iter().map(|zone| zone.parse().unwrap()).collect();
    }
    for (endpoint, nodes) in hinted.endpoints.iter_mut().zip(nodes) {
        endpoint.nodes = nodes.iter().map(|node| label(node)).collect();
    }
    change(&mut hinted);
    world.set_slice(hinted);
    let services: Vec<_> = world.picture().services.values().cloned().collect();
    let last = |at: &std::net::SocketAddr| at.ip().to_string().split_off(7);
    let list = |all: &[std::net::SocketAddr]| all.iter().map(last).collect::<Vec<_>>().join("+");
    let Near { of_node, of_zone } = &services[0].choice.near;
    let of_node = of_node.iter().map(|(node, near)| format!("{node}: {}", list(near)));
    let of_zone = of_zone.iter().map(|(zone, near)| format!("{zone}: {}", list(near)));
    of_node.chain(of_zone).collect::<Vec<_>>().join(", ")
}

#[test]
fn hints_say_which_endpoints_are_near_a_zone_and_a_node() {
    assert_eq!(near(&[&["a"], &["b"], &["a", "b"]], &[], |_| {}), "a: 1+3, b: 2+3");
    let nodes: [&[&str]; 3] = [&["one"], &["two"], &["two"]];
    assert_eq!(near(&[&["a"], &["a"], &["b"]], &nodes, |_| {}), "one: 1, two: 2+3, a: 1+2, b: 3");
    assert_eq!(near(&[&["a"], &["a"], &["a"]], &[], |_| {}), "", "all are as near");
}

#[test]
fn hints_that_not_all_ready_endpoints_have_do_not_count() {
    let zones: [&[&str]; 3] = [&["a"], &["b"], &[]];
    assert_eq!(near(&zones, &[], |_| {}), "");
    // One that is not ready counts neither way.
    let not_ready = |slice: &mut seen::Slice| slice.endpoints[2].is_ready = false;
    assert_eq!(near(&zones, &[], not_ready), "a: 1, b: 2");
    let nodes: [&[&str]; 3] = [&["one"], &[], &["two"]];
    let zones: [&[&str]; 3] = [&["a"], &["b"], &["b"]];
    assert_eq!(near(&zones, &nodes, |_| {}), "a: 1, b: 2+3", "those of zones are all there");
}

#[test]
fn where_no_endpoint_is_ready_none_is_near() {
    let leaving = |slice: &mut seen::Slice| {
        for endpoint in &mut slice.endpoints {
            (endpoint.is_ready, endpoint.is_leaving) = (false, true);
        }
    };
    assert_eq!(near(&[&["a"], &["b"], &["a"]], &[], leaving), "");
}

#[test]
fn hints_do_not_count_where_only_the_own_node_does() {
    let mut world = shop();
    let mut local = service("shop/web", "10.96.0.1");
    local.own_node_only = local.addresses.clone();
    world.set_service(local);
    let mut hinted = slice("shop/web-1", "shop/web", &["10.0.0.1", "10.0.0.2"]);
    hinted.endpoints[0].zones = vec!["a".parse().unwrap()];
    hinted.endpoints[1].zones = vec!["b".parse().unwrap()];
    world.set_slice(hinted);
    assert_eq!(only(&world).choice.near, Near::default());
}

#[test]
fn a_node_is_where_it_says_until_it_says_otherwise_and_no_service_is_other_by_it() {
    let mut world = shop();
    world.set_service(service("shop/web", "10.96.0.1"));
    world.set_slice(slice("shop/web-1", "shop/web", &["10.0.0.1"]));
    let before = world.picture().services;
    let node = |zone: Option<&str>| {
        let zone = zone.map(|zone| zone.parse().unwrap());
        seen::Node { name: label("one"), zone }
    };
    assert!(world.set_node(node(Some("a"))));
    assert!(!world.set_node(node(Some("a"))), "nothing is other");
    assert_eq!(world.picture().zones[&label("one")].as_str(), "a");
    assert!(before.ptr_eq(&world.picture().services));
    assert!(world.set_node(node(None)) && !world.set_node(node(None)));
    assert!(world.set_node(node(Some("b"))) && world.remove_node(&label("one")));
    assert!(world.picture().zones.is_empty());
}

#[test]
fn what_is_near_has_room_in_what_agents_take_of_a_service() {
    let mut world = shop();
    world.set_service(service("shop/web", "10.96.0.1"));
    let mut hinted = slice("shop/web-1", "shop/web", &["10.0.0.1"]);
    let one = hinted.endpoints[0].clone();
    let many = (0..limits::NEAR_NODES + 1).map(|number| {
        let address = format!("10.1.{}.{}", number / 250, number % 250).parse().unwrap();
        let zone = if number % 2 == 0 { "a" } else { "b" };
        let (zones, nodes) = (vec![zone.parse().unwrap()], vec![label(&format!("n{number}"))]);
        seen::Endpoint { address, zones, nodes, ..one.clone() }
    });
    hinted.endpoints = many.collect();
    hinted.endpoints[0].address = one.address;
    world.set_slice(hinted);
    let near = only(&world).choice.near.clone();
    assert_eq!((near.of_node.len(), near.of_zone.len()), (0, 2));
}
