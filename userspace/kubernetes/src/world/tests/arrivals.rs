//! What a node's agent says of pods that have just arrived there.

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// As the API server has a pod before kubelet has reported its address.
fn bare(text: &str) -> seen::Pod {
    seen::Pod { addresses: vec![], ..pod(text, "10.0.0.9") }
}

fn arrives(world: &mut World, node: &str, text: &str, address: &str) -> bool {
    let uid = format!("uid-{text}").into();
    world.set_arrival(&label(node), &name(text), &uid, vec![ip(address)])
}

fn addresses(world: &World, text: &str) -> String {
    let Some(local) = world.workload(&name(text)) else { return "not enrolled".to_owned() };
    let texts: Vec<_> = local.workload.addresses.iter().map(ToString::to_string).collect();
    texts.join(" ")
}

#[test]
fn a_pod_is_a_workload_from_when_its_nodes_agent_knows_its_address() {
    let mut world = shop();
    world.set_pod(bare("shop/new"));
    assert!(arrives(&mut world, "one", "shop/new", "10.0.0.2"));
    assert_eq!(addresses(&world, "shop/new"), "10.0.0.2");
    // What changes of the pod meanwhile is no word of its address.
    world.set_pod(seen::Pod { probes: vec![80], ..bare("shop/new") });
    assert_eq!(addresses(&world, "shop/new"), "10.0.0.2");
    assert!(!world.set_pod(seen::Pod { probes: vec![80], ..pod("shop/new", "10.0.0.2") }));
    assert_eq!(addresses(&world, "shop/new"), "10.0.0.2");
}

#[test]
fn an_arrival_that_comes_before_its_pod_waits_for_it() {
    let mut world = shop();
    assert!(!arrives(&mut world, "one", "shop/new", "10.0.0.2"));
    world.set_pod(seen::Pod { uid: "another".into(), ..bare("shop/new") });
    assert_eq!(addresses(&world, "shop/new"), "not enrolled", "it is another life's");
    world.set_pod(bare("shop/new"));
    assert_eq!(addresses(&world, "shop/new"), "10.0.0.2");
    for number in 0..1000 {
        arrives(&mut world, "one", &format!("shop/x{number}"), "10.0.0.3");
    }
    assert_eq!(world.unseen[&label("one")].len(), crate::limits::UNSEEN_ARRIVALS);
}

#[test]
fn what_the_api_server_says_then_wins() {
    let mut world = shop();
    world.set_pod(bare("shop/new"));
    arrives(&mut world, "one", "shop/new", "10.0.0.2");
    world.set_pod(pod("shop/new", "10.0.0.3"));
    assert_eq!(addresses(&world, "shop/new"), "10.0.0.3");
    world.set_pod(bare("shop/new"));
    assert_eq!(addresses(&world, "shop/new"), "not enrolled", "the arrival is over");
}

#[test]
fn a_sandbox_that_is_made_anew_has_its_new_address_until_the_api_server_knows_it() {
    let mut world = shop();
    arrives(&mut world, "one", "shop/web", "10.0.0.7");
    assert_eq!(addresses(&world, "shop/web"), "10.0.0.7");
    world.set_pod(pod("shop/web", "10.0.0.1"));
    assert_eq!(addresses(&world, "shop/web"), "10.0.0.7", "it has said that before");
    arrives(&mut world, "one", "shop/web", "10.0.0.8");
    world.set_pod(pod("shop/web", "10.0.0.1"));
    assert_eq!(addresses(&world, "shop/web"), "10.0.0.8");
    world.set_pod(pod("shop/web", "10.0.0.8"));
    world.set_pod(pod("shop/web", "10.0.0.1"));
    assert_eq!(addresses(&world, "shop/web"), "10.0.0.1");
}

#[test]
fn an_arrival_can_be_taken_back() {
    let mut world = shop();
    arrives(&mut world, "one", "shop/web", "10.0.0.7");
    let uid = "uid-shop/web".into();
    assert!(world.set_arrival(&label("one"), &name("shop/web"), &uid, vec![]));
    assert_eq!(addresses(&world, "shop/web"), "10.0.0.1");
    assert!(!world.set_arrival(&label("one"), &name("shop/web"), &uid, vec![]));
}

#[test]
fn a_node_has_no_say_about_pods_of_others_nor_about_what_is_no_pod_there() {
    let mut world = shop();
    assert!(!arrives(&mut world, "two", "shop/web", "10.0.0.7"));
    let other = "another-life".into();
    assert!(!world.set_arrival(&label("one"), &name("shop/web"), &other, vec![ip("10.0.0.7")]));
    assert_eq!(addresses(&world, "shop/web"), "10.0.0.1");
    world.set_pod(seen::Pod { is_on_host: true, ..bare("shop/host") });
    world.set_pod(seen::Pod { is_over: true, ..bare("shop/over") });
    for text in ["shop/host", "shop/over"] {
        assert!(!arrives(&mut world, "one", text, "10.0.0.8"));
        assert_eq!(addresses(&world, text), "not enrolled");
    }
    world.set_pod(bare("shop/new"));
    for none in ["127.0.0.1", "0.0.0.0", "224.0.0.1", "::1", "::ffff:127.0.0.1"] {
        arrives(&mut world, "one", "shop/new", none);
        assert_eq!(addresses(&world, "shop/new"), "not enrolled", "{none}");
    }
}

#[test]
fn an_address_of_somebody_else_stays_theirs() {
    let mut world = shop();
    world.set_service(service("shop/web", "10.96.0.1"));
    world.set_pod(bare("shop/new"));
    for others in ["10.0.0.1", "10.96.0.1"] {
        arrives(&mut world, "one", "shop/new", others);
        assert_eq!(addresses(&world, "shop/new"), "not enrolled");
        assert_eq!(reasons(&world), [("Pod shop/new".to_owned(), "AddressConflict")]);
    }
    assert_eq!(addresses(&world, "shop/web"), "10.0.0.1");
    arrives(&mut world, "one", "shop/new", "10.0.0.2");
    assert_eq!((addresses(&world, "shop/new"), reasons(&world)), ("10.0.0.2".to_owned(), vec![]));
}

#[test]
fn a_pod_that_nobody_wants_enrolled_stays_outside() {
    let mut world = world();
    world.set_namespace(namespace("shop", None));
    world.set_pod(bare("shop/new"));
    arrives(&mut world, "one", "shop/new", "10.0.0.2");
    assert_eq!(addresses(&world, "shop/new"), "not enrolled");
    assert_eq!(world.picture().outside.len(), 1);
}
