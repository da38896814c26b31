//! Which endpoints a service leads to, for whom, and by which numbers.

use std::time::Duration;

use super::*;

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
    let mut services = world.picture().services;
    services.sort_by_key(|service| service.address);
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
