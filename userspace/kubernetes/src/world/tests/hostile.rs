//! Objects that are wrong in ways that nobody means: nothing is widened, and all others are served.

use super::*;

/// Who serves beside the object that is wrong.
fn serves(world: &World, pod: &str) -> bool {
    world.workload(&name(pod)).is_some() && is_allowed(world, pod).is_ok()
}

#[test]
fn a_policy_that_is_enormous_refuses_what_it_selects_and_nobody_else() {
    let rule = |number: usize| json!({"name": format!("r{number}"), "to": [{"ports": ["80"]}]});
    let many: Vec<_> = (0..=limits::RULES).map(rule).collect();
    let sources = vec![json!({"namespaces": ["shop"]}); limits::RULES + 1];
    let long = "x".repeat(limits::POLICY_BYTES);
    for rules in [
        json!(many),
        json!([{"from": sources}]),
        json!([{"from": [{"namespaces": [long]}]}]),
        json!([{"name": "x".repeat(10_000)}]),
    ] {
        let mut world = shop();
        world.set_pod(pod("shop/cart", "10.0.0.2"));
        world.set_pod(seen::Pod {
            labels: [("app".to_owned(), "web".to_owned())].into(),
            ..pod("shop/web", "10.0.0.1")
        });
        let selector = json!({"matchLabels": {"app": "web"}});
        let spec = json!({"action": "Allow", "selector": selector, "rules": rules});
        world.set_policy(&policy("shop/huge", spec));
        assert!(is_allowed(&world, "shop/web").is_err());
        assert!(serves(&world, "shop/cart"));
        assert_eq!(reasons(&world)[0].1, "Invalid");
    }
}

#[test]
fn a_label_of_any_text_widens_nothing() {
    let long = "permissive".repeat(10_000);
    for text in ["permissive ", "PERMISSIVE", "\u{202e}off", "off\n", "\0", "строго", &long] {
        let wanted = Some(Wanted::Unknown(text.to_owned()));
        let mut world = world();
        world.set_namespace(seen::Namespace { wanted: wanted.clone(), ..namespace("shop", None) });
        world.set_pod(pod("shop/web", "10.0.0.1"));
        world.set_namespace(namespace("till", Some(Mode::Permissive)));
        world.set_pod(seen::Pod { wanted, ..pod("till/cart", "10.0.0.2") });
        assert_eq!(modes(&world), "shop/web strict, till/cart strict", "{text:?}");
    }
}

#[test]
fn a_pod_without_address_is_enrolled_when_it_has_one_and_is_never_outside() {
    let mut world = shop();
    let bare = seen::Pod { addresses: vec![], ..pod("shop/new", "10.0.0.2") };
    world.set_pod(bare.clone());
    let picture = world.picture();
    assert!(world.workload(&name("shop/new")).is_none());
    assert!(picture.outside.values().all(|one| one.name != name("shop/new")));
    assert_eq!(reasons(&world), []);
    world.set_pod(pod("shop/new", "10.0.0.2"));
    assert!(serves(&world, "shop/new"));
    world.set_pod(bare);
    assert!(world.workload(&name("shop/new")).is_none(), "its address may be another's now");
    assert!(serves(&world, "shop/web"));
}

#[test]
fn a_cluster_of_ipv6_alone_is_served_as_any_other() {
    let mut world = world();
    world.set_namespace(namespace("shop", Some(Mode::Strict)));
    world.set_pod(pod("shop/web", "fd00::1"));
    world.set_pod(pod("shop/twin", "fd00::1"));
    world.set_service(service("shop/web", "fd00:96::1"));
    world.set_slice(slice("shop/web-1", "shop/web", &["fd00::1", "10.0.0.9"]));
    assert_eq!(modes(&world), "shop/web strict");
    assert_eq!(endpoints(&world), "[fd00:96::1]:80 -> [fd00::1]:8080");
    assert_eq!(reasons(&world), [("Pod shop/twin".to_owned(), "AddressConflict")]);
}

#[test]
fn any_number_of_pods_that_claim_one_address_leave_it_with_the_first() {
    let mut world = shop();
    for number in 0..300 {
        world.set_pod(seen::Pod { created: 0, ..pod(&format!("shop/x{number}"), "10.0.0.1") });
    }
    assert_eq!(modes(&world), "shop/web strict");
    assert_eq!(reasons(&world).len(), 300);
    world.remove_pod(&name("shop/web"));
    assert_eq!(world.picture().workloads.len(), 1, "the next one has it, and no other");
}
