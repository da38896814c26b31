//! What follows from the objects of a cluster.

mod any;
mod arrivals;
mod choice;
mod facts;
mod hostile;
mod mesh;

use std::collections::BTreeMap;

use kube::api::ObjectMeta;
use martlet_model::{Directory, Mode};
use martlet_policy::{PolicySet, Request};
use serde_json::{Value, json};

use super::*;
use crate::{api::PolicyObject, limits, seen::Wanted};

fn label(text: &str) -> Label {
    text.parse().unwrap()
}

fn world() -> World {
    World::new(Settings {
        trust_domain: "a.org".parse().unwrap(),
        system_namespace: label("martlet-system"),
        agent_service_account: label("martlet-agent"),
        udp: Udp::Pass,
    })
}

fn namespace(name: &str, mode: Option<Mode>) -> seen::Namespace {
    seen::Namespace { name: label(name), uid: "n".into(), wanted: mode.map(Wanted::Enrolled) }
}

fn name(text: &str) -> WorkloadName {
    let (namespace, name) = text.split_once('/').unwrap();
    WorkloadName { namespace: label(namespace), name: label(name) }
}

fn pod(text: &str, address: &str) -> seen::Pod {
    seen::Pod {
        name: name(text),
        uid: format!("uid-{text}").into(),
        node: label("one"),
        service_account: label("web"),
        addresses: vec![address.parse().unwrap()],
        wanted: None,
        is_on_host: false,
        is_over: false,
        is_ending: false,
        created: 1,
        labels: BTreeMap::new(),
        probes: vec![],
        said: None,
    }
}

fn key(text: &str) -> ServiceKey {
    let WorkloadName { namespace, name } = name(text);
    ServiceKey { namespace, name }
}

fn service(text: &str, address: &str) -> seen::Service {
    let ports = vec![seen::ServicePort { name: "http".to_owned(), port: 80 }];
    let addresses = vec![address.parse().unwrap()];
    seen::Service {
        key: key(text),
        uid: "s".into(),
        addresses,
        own_node_only: vec![],
        affinity: None,
        ports,
    }
}

fn slice(text: &str, of: &str, addresses: &[&str]) -> seen::Slice {
    let WorkloadName { namespace, name } = name(text);
    let endpoint = |address: &&str| seen::Endpoint {
        address: address.parse().unwrap(),
        node: Some(label("one")),
        is_ready: true,
        is_leaving: false,
        zones: vec![],
        nodes: vec![],
    };
    seen::Slice {
        namespace,
        name,
        service: Some(key(of)),
        endpoints: addresses.iter().map(endpoint).collect(),
        ports: vec![("http".to_owned(), 8080)],
    }
}

fn policy(text: &str, spec: Value) -> PolicyObject {
    let WorkloadName { namespace, name } = name(text);
    let metadata = ObjectMeta {
        namespace: Some(namespace.to_string()),
        name: Some(name.to_string()),
        ..ObjectMeta::default()
    };
    PolicyObject { metadata, spec, status: Value::Null }
}

/// A strict namespace with one pod.
fn shop() -> World {
    let mut world = world();
    world.set_namespace(namespace("shop", Some(Mode::Strict)));
    world.set_pod(pod("shop/web", "10.0.0.1"));
    world
}

fn modes(world: &World) -> String {
    let all = world.picture().workloads;
    let each = all.values().map(|workload| format!("{} {}", workload.name, workload.mode));
    each.collect::<Vec<_>>().join(", ")
}

fn reasons(world: &World) -> Vec<(String, &'static str)> {
    let mut reasons: Vec<_> = world
        .problems()
        .iter()
        .flat_map(|(object, all)| all.problems.iter().map(|one| (object.to_string(), one.reason)))
        .collect();
    reasons.sort();
    reasons
}

fn endpoints(world: &World) -> String {
    let all = world.picture().services;
    let each = all.values().map(|service| {
        let endpoints: Vec<_> = service.endpoints.iter().map(ToString::to_string).collect();
        format!("{} -> {}", service.address, endpoints.join(" "))
    });
    each.collect::<Vec<_>>().join(", ")
}

#[test]
fn a_pod_of_a_labelled_namespace_is_a_workload() {
    let world = shop();
    let local = world.workload(&name("shop/web")).unwrap();
    assert_eq!(local.workload.identity.as_str(), "spiffe://a.org/ns/shop/sa/web");
    assert_eq!(local.workload.mode, Mode::Strict);
    assert_eq!(local.netns, martlet_model::NetnsSource::Pod("uid-shop/web".into()));
}

#[test]
fn nobody_is_enrolled_without_being_asked_for() {
    let mut world = world();
    world.set_pod(pod("shop/web", "10.0.0.1"));
    assert_eq!(modes(&world), "");
    world.set_namespace(namespace("shop", None));
    assert_eq!(modes(&world), "");
}

#[test]
fn a_label_takes_effect_on_pods_that_run_and_so_does_its_end() {
    let mut world = shop();
    world.set_namespace(namespace("shop", Some(Mode::Permissive)));
    assert_eq!(modes(&world), "shop/web permissive");
    world.set_namespace(namespace("shop", None));
    assert_eq!(modes(&world), "");
    world.set_namespace(namespace("shop", Some(Mode::Strict)));
    assert_eq!(modes(&world), "shop/web strict");
    world.remove_namespace(&label("shop"));
    assert_eq!(modes(&world), "");
}

#[test]
fn a_pods_own_label_wins() {
    let mut world = shop();
    let off = seen::Pod { wanted: Some(Wanted::Off), ..pod("shop/web", "10.0.0.1") };
    world.set_pod(off);
    let wanted = Some(Wanted::Enrolled(Mode::Permissive));
    world.set_pod(seen::Pod { wanted, ..pod("shop/cart", "10.0.0.2") });
    assert_eq!(modes(&world), "shop/cart permissive");
}

#[test]
fn a_mode_that_is_none_is_strict_and_said() {
    let mut world = shop();
    let wanted = Some(Wanted::Unknown("on".to_owned()));
    world.set_namespace(seen::Namespace { wanted: wanted.clone(), ..namespace("shop", None) });
    world.set_pod(seen::Pod { wanted, ..pod("shop/cart", "10.0.0.2") });
    assert_eq!(modes(&world), "shop/cart strict, shop/web strict");
    let expected = [("Namespace shop", "UnknownMode"), ("Pod shop/cart", "UnknownMode")];
    assert_eq!(reasons(&world), expected.map(|(object, reason)| (object.to_owned(), reason)));
}

#[test]
fn pods_that_cannot_be_workloads_are_none_and_said() {
    let mut world = shop();
    world.set_pod(seen::Pod { is_on_host: true, ..pod("shop/host", "192.0.2.1") });
    world.set_pod(seen::Pod { is_over: true, ..pod("shop/job", "10.0.0.3") });
    world.set_pod(seen::Pod { addresses: vec![], ..pod("shop/new", "10.0.0.4") });
    let wanted = Some(Wanted::Enrolled(Mode::Strict));
    world.set_pod(seen::Pod { wanted, ..pod("martlet-system/agent", "10.0.0.5") });
    assert_eq!(modes(&world), "shop/web strict");
    let expected =
        [("Pod martlet-system/agent", "SystemNamespace"), ("Pod shop/host", "HostNetwork")];
    assert_eq!(reasons(&world), expected.map(|(object, reason)| (object.to_owned(), reason)));
}

#[test]
fn a_pod_is_outside_if_nobody_wants_it_inside() {
    let mut world = shop();
    let outside = |world: &World| {
        let mut names: Vec<_> =
            world.picture().outside.values().map(|one| one.name.to_string()).collect();
        names.sort();
        names.join(" ")
    };
    world.set_pod(pod("bank/safe", "10.0.0.2"));
    world.set_pod(seen::Pod { wanted: Some(Wanted::Off), ..pod("shop/off", "10.0.0.3") });
    world.set_pod(pod("martlet-system/agent", "10.0.0.4"));
    // It has no address yet, and is not undecided for that.
    world.set_pod(seen::Pod { addresses: vec![], ..pod("bank/new", "10.0.0.5") });
    // Wanted, and not to be had: undecided, and so closed.
    world.set_pod(pod("shop/twin", "10.0.0.1"));
    world.set_pod(seen::Pod { addresses: vec![], ..pod("shop/new", "10.0.0.6") });
    // Where the host is.
    world.set_pod(seen::Pod { is_on_host: true, ..pod("bank/host", "192.0.2.1") });
    world.set_pod(seen::Pod { is_over: true, ..pod("bank/job", "10.0.0.7") });
    assert_eq!(outside(&world), "bank/new bank/safe martlet-system/agent shop/off");
    world.set_namespace(namespace("bank", Some(Mode::Permissive)));
    assert_eq!(outside(&world), "martlet-system/agent shop/off");
    world.set_namespace(namespace("bank", None));
    world.remove_pod(&name("bank/safe"));
    assert_eq!(outside(&world), "bank/new martlet-system/agent shop/off");
}

#[test]
fn the_nodes_are_those_with_an_agent() {
    let mut world = shop();
    let agent = |name: &str, node: &str, created| seen::Pod {
        service_account: label("martlet-agent"),
        node: label(node),
        created,
        ..pod(name, "10.0.1.1")
    };
    world.set_pod(agent("martlet-system/agent-1", "one", 7));
    world.set_pod(agent("martlet-system/agent-2", "one", 5));
    world.set_pod(seen::Pod { is_over: true, ..agent("martlet-system/agent-3", "two", 5) });
    world.set_pod(agent("shop/agent-4", "three", 5));
    let other = agent("martlet-system/controller", "four", 5);
    world.set_pod(seen::Pod { service_account: label("martlet-controller"), ..other });
    assert_eq!(world.picture().agents, vec![(label("one"), 5_u64)].into());
}

#[test]
fn a_pod_that_is_ending_still_serves() {
    let mut world = shop();
    world.set_pod(seen::Pod { is_ending: true, ..pod("shop/web", "10.0.0.1") });
    assert_eq!(modes(&world), "shop/web strict");
}

#[test]
fn an_address_stays_with_the_pod_that_has_it() {
    let mut world = shop();
    // Younger, and older by its own account: neither gets it.
    world.set_pod(seen::Pod { created: 2, ..pod("shop/late", "10.0.0.1") });
    world.set_pod(seen::Pod { created: 0, ..pod("shop/early", "10.0.0.1") });
    assert_eq!(modes(&world), "shop/web strict");
    let expected = [("Pod shop/early", "AddressConflict"), ("Pod shop/late", "AddressConflict")];
    assert_eq!(reasons(&world), expected.map(|(object, reason)| (object.to_owned(), reason)));
    // Whoever waits for it gets it when it is free, the oldest first.
    world.remove_pod(&name("shop/web"));
    assert_eq!(modes(&world), "shop/early strict");
    world.set_pod(seen::Pod { is_over: true, ..pod("shop/early", "10.0.0.1") });
    assert_eq!(modes(&world), "shop/late strict");
    assert_eq!(reasons(&world), []);
}

#[test]
fn a_new_life_of_a_name_is_another_workload() {
    let mut world = shop();
    let next = seen::Pod { uid: "u2".into(), ..pod("shop/web", "10.0.0.9") };
    world.set_pod(next);
    let local = world.workload(&name("shop/web")).unwrap();
    assert_eq!(local.netns, martlet_model::NetnsSource::Pod("u2".into()));
    assert_eq!(local.workload.addresses, ["10.0.0.9".parse::<IpAddr>().unwrap()]);
}

#[test]
fn no_pod_takes_a_services_address() {
    let mut world = shop();
    world.set_service(service("shop/web", "10.96.0.1"));
    world.set_slice(slice("shop/web-1", "shop/web", &["10.0.0.1"]));
    world.set_pod(pod("shop/thief", "10.96.0.1"));
    assert_eq!(modes(&world), "shop/web strict");
    assert_eq!(endpoints(&world), "10.96.0.1:80 -> 10.0.0.1:8080");
    assert_eq!(reasons(&world), [("Pod shop/thief".to_owned(), "AddressConflict")]);
    // Nor did it have it first.
    let mut world = shop();
    world.set_pod(pod("shop/thief", "10.96.0.1"));
    assert_eq!(modes(&world), "shop/thief strict, shop/web strict");
    world.set_service(service("shop/web", "10.96.0.1"));
    assert_eq!(modes(&world), "shop/web strict");
    world.remove_service(&key("shop/web"));
    assert_eq!(modes(&world), "shop/thief strict, shop/web strict");
}

#[test]
fn a_service_is_listed_while_a_workload_is_behind_it() {
    let mut world = shop();
    world.set_service(service("shop/web", "10.96.0.1"));
    assert_eq!(endpoints(&world), "");
    world.set_slice(slice("shop/web-1", "shop/web", &["10.0.0.1", "10.0.0.7"]));
    // 10.0.0.7 is no workload, and belongs to the service all the same.
    assert_eq!(endpoints(&world), "10.96.0.1:80 -> 10.0.0.1:8080 10.0.0.7:8080");
    world.set_namespace(namespace("shop", None));
    assert_eq!(endpoints(&world), "");
    world.set_namespace(namespace("shop", Some(Mode::Strict)));
    assert_eq!(endpoints(&world), "10.96.0.1:80 -> 10.0.0.1:8080 10.0.0.7:8080");
    world.remove_slice(&(label("shop"), label("web-1")));
    assert_eq!(endpoints(&world), "");
}

#[test]
fn all_slices_of_a_service_count_and_each_endpoint_once() {
    let mut world = shop();
    world.set_service(service("shop/web", "10.96.0.1"));
    world.set_slice(slice("shop/web-1", "shop/web", &["10.0.0.1"]));
    world.set_slice(slice("shop/web-2", "shop/web", &["10.0.0.1", "10.0.0.2"]));
    assert_eq!(endpoints(&world), "10.96.0.1:80 -> 10.0.0.1:8080 10.0.0.2:8080");
    world.remove_slice(&(label("shop"), label("web-1")));
    assert_eq!(endpoints(&world), "10.96.0.1:80 -> 10.0.0.1:8080 10.0.0.2:8080");
    // Taken over by another service.
    world.set_service(service("shop/other", "10.96.0.2"));
    world.set_slice(slice("shop/web-2", "shop/other", &["10.0.0.1"]));
    assert_eq!(endpoints(&world), "10.96.0.2:80 -> 10.0.0.1:8080");
}

#[test]
fn endpoints_that_leave_are_taken_where_none_is_ready() {
    let mut world = shop();
    world.set_service(service("shop/web", "10.96.0.1"));
    let mut leaving = slice("shop/web-1", "shop/web", &["10.0.0.1", "10.0.0.2"]);
    (leaving.endpoints[0].is_ready, leaving.endpoints[0].is_leaving) = (false, true);
    world.set_slice(leaving.clone());
    assert_eq!(endpoints(&world), "10.96.0.1:80 -> 10.0.0.2:8080");
    leaving.endpoints[1].is_ready = false;
    world.set_slice(leaving.clone());
    assert_eq!(endpoints(&world), "10.96.0.1:80 -> 10.0.0.1:8080");
    leaving.endpoints[0].is_leaving = false;
    world.set_slice(leaving);
    // It stays listed: whoever calls it is refused, and not sent past us.
    assert_eq!(endpoints(&world), "10.96.0.1:80 -> ");
}

#[test]
fn an_endpoint_of_the_other_family_is_none_of_an_address() {
    let mut world = shop();
    let both = pod("shop/web", "10.0.0.1");
    let addresses = vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
    world.set_pod(seen::Pod { addresses, ..both });
    let mut dual = service("shop/web", "10.96.0.1");
    dual.addresses.push("fd96::1".parse().unwrap());
    world.set_service(dual);
    world.set_slice(slice("shop/web-4", "shop/web", &["10.0.0.1"]));
    world.set_slice(slice("shop/web-6", "shop/web", &["fd00::1"]));
    let expected = "10.96.0.1:80 -> 10.0.0.1:8080, [fd96::1]:80 -> [fd00::1]:8080";
    assert_eq!(endpoints(&world), expected);
}

#[test]
fn an_external_address_and_port_belongs_to_one_service() {
    let mut world = shop();
    for (service_name, slice_name) in [("shop/a", "shop/a-1"), ("shop/b", "shop/b-1")] {
        world.set_service(service(service_name, "192.0.2.1"));
        world.set_slice(slice(slice_name, service_name, &["10.0.0.1"]));
    }
    assert_eq!(endpoints(&world), "192.0.2.1:80 -> 10.0.0.1:8080");
    assert_eq!(reasons(&world), [("Service shop/b".to_owned(), "AddressConflict")]);
    world.remove_service(&key("shop/a"));
    assert_eq!(reasons(&world), []);
    assert_eq!(endpoints(&world), "192.0.2.1:80 -> 10.0.0.1:8080");
}

#[test]
fn a_port_that_a_service_takes_at_a_shared_address_is_taken_from_the_other() {
    let mut world = shop();
    let at = |name: &str, port| {
        let mut service = service(name, "192.0.2.1");
        service.ports[0].port = port;
        service
    };
    for (name, port) in [("shop/a", 81), ("shop/b", 80)] {
        world.set_service(at(name, port));
        world.set_slice(slice(&format!("{name}-1"), name, &["10.0.0.1"]));
    }
    let both = "192.0.2.1:80 -> 10.0.0.1:8080, 192.0.2.1:81 -> 10.0.0.1:8080";
    assert_eq!(endpoints(&world), both);
    world.set_service(at("shop/a", 80));
    assert_eq!(world.picture().services.values().next().unwrap().name, label("a"));
    assert_eq!(reasons(&world), [("Service shop/b".to_owned(), "AddressConflict")]);
    world.set_service(at("shop/a", 81));
    assert_eq!(endpoints(&world), both);
    assert_eq!(reasons(&world), []);
}

fn is_allowed(world: &World, callee: &str) -> Result<(), String> {
    let picture = world.picture();
    let policies = picture.policies.values().map(|policy| (**policy).clone()).collect();
    let set = PolicySet::new(policies).unwrap();
    let callee = &world.workload(&name(callee)).unwrap().workload;
    let caller = "spiffe://a.org/ns/shop/sa/cart".parse().unwrap();
    let caller_address = "10.0.0.9".parse().unwrap();
    let request = Request { caller: &caller, caller_address, callee, port: 8080 };
    set.authorize(&request).map(drop).map_err(|denied| denied.policy)
}

#[test]
fn a_policy_selects_pods_by_their_labels_as_they_are_now() {
    let deny = json!({
        "selector": {"matchLabels": {"app": "web"}}, "action": "Deny", "rules": [{}],
    });
    let mut world = shop();
    world.set_policy(&policy("shop/no", deny));
    assert_eq!(is_allowed(&world, "shop/web"), Ok(()));
    let labels: BTreeMap<_, _> = [("app".to_owned(), "web".to_owned())].into();
    world.set_pod(seen::Pod { labels, ..pod("shop/web", "10.0.0.1") });
    assert_eq!(is_allowed(&world, "shop/web"), Err("shop/no: rule 1".to_owned()));
    world.remove_policy(&(label("shop"), label("no")));
    assert_eq!(is_allowed(&world, "shop/web"), Ok(()));
    assert_eq!(world.workload(&name("shop/web")).unwrap().workload.policies, []);
}

#[test]
fn a_policy_of_another_namespace_selects_nobody_here() {
    let deny =
        json!({"selector": {"matchLabels": {"app": "web"}}, "action": "Deny", "rules": [{}]});
    let mut world = shop();
    let labels: BTreeMap<_, _> = [("app".to_owned(), "web".to_owned())].into();
    world.set_pod(seen::Pod { labels, ..pod("shop/web", "10.0.0.1") });
    world.set_policy(&policy("bank/no", deny));
    assert_eq!(is_allowed(&world, "shop/web"), Ok(()));
}

#[test]
fn a_policy_that_cannot_be_enforced_refuses_what_it_selects() {
    let mut world = shop();
    let other = seen::Pod { service_account: label("db"), ..pod("shop/db", "10.0.0.2") };
    world.set_pod(other);
    let http = json!({
        "selector": {"serviceAccounts": ["web"]}, "action": "Allow",
        "rules": [{"to": [{"ports": ["8080"], "methods": ["GET"]}]}],
    });
    world.set_policy(&policy("shop/get", http));
    assert_eq!(is_allowed(&world, "shop/web"), Err("shop/get: cannot be enforced".to_owned()));
    assert_eq!(is_allowed(&world, "shop/db"), Ok(()));
    assert_eq!(reasons(&world), [("AuthorizationPolicy shop/get".to_owned(), "Invalid")]);
    world.set_policy(&policy("shop/get", json!({"action": "Allow", "rules": [{}]})));
    assert_eq!(is_allowed(&world, "shop/web"), Ok(()));
    assert_eq!(reasons(&world), []);
}

#[test]
fn a_namespace_with_too_many_policies_refuses_everything_in_it_and_nobody_elses() {
    let mut world = shop();
    world.set_namespace(namespace("bank", Some(Mode::Strict)));
    world.set_pod(pod("bank/safe", "10.0.0.2"));
    let allow = json!({"action": "Allow", "rules": [{}]});
    for number in 0..=limits::POLICIES {
        world.set_policy(&policy(&format!("shop/p{number:05}"), allow.clone()));
    }
    let refused = is_allowed(&world, "shop/web").unwrap_err();
    assert!(refused.contains("cannot be enforced"), "{refused}");
    assert_eq!(is_allowed(&world, "bank/safe"), Ok(()));
}

#[test]
fn what_has_not_changed_stays_the_same_value() {
    let mut world = shop();
    world.set_service(service("shop/web", "10.96.0.1"));
    world.set_slice(slice("shop/web-1", "shop/web", &["10.0.0.1"]));
    let before = world.picture();
    world.set_pod(seen::Pod { created: 5, ..pod("shop/web", "10.0.0.1") });
    world.set_slice(slice("shop/web-1", "shop/web", &["10.0.0.1"]));
    let after = world.picture();
    assert!(before.workloads.ptr_eq(&after.workloads) && before.services.ptr_eq(&after.services));
}
