//! What is known of each pod's enrolment, for whoever says it in the pod's status.

use super::*;
use crate::standing::Said;

fn wish(world: &mut World, of: &str) -> Option<Wish> {
    let touched = world.touched().into_iter();
    let mut of = touched.filter(|(pod, _)| *pod == name(of));
    of.next().and_then(|(_, facts)| facts).map(|facts| facts.wish.clone())
}

#[test]
fn of_each_labelled_pod_it_is_known_what_is_wanted_of_it() {
    let mut world = shop();
    assert_eq!(wish(&mut world, "shop/web"), Some(Wish::Enrolled));
    world.set_pod(seen::Pod { wanted: Some(Wanted::Off), ..pod("shop/off", "10.0.0.2") });
    assert!(matches!(wish(&mut world, "shop/off"), Some(Wish::Outside(_))));
    world.set_pod(seen::Pod { is_on_host: true, ..pod("shop/host", "10.9.0.1") });
    let host = wish(&mut world, "shop/host");
    assert!(matches!(host, Some(Wish::Outside(why)) if why.contains("hostNetwork")));
    world.set_pod(seen::Pod { addresses: vec![], ..pod("shop/new", "10.0.0.3") });
    assert!(matches!(wish(&mut world, "shop/new"), Some(Wish::Waiting(_))));
    world.set_pod(pod("shop/thief", "10.0.0.1"));
    let thief = wish(&mut world, "shop/thief");
    assert!(matches!(thief, Some(Wish::Refused(why)) if why.contains("shop/web")));
}

#[test]
fn of_pods_that_nobody_wants_nothing_is_known_but_what_was_said() {
    let mut world = world();
    world.set_pod(pod("plain/web", "10.0.0.1"));
    world.set_pod(seen::Pod {
        wanted: Some(Wanted::Enrolled(Mode::Strict)),
        ..pod("martlet-system/x", "10.0.0.2")
    });
    assert_eq!(world.touched(), []);
    let said = Some(Said::new(true, "Strict", ""));
    world.set_pod(seen::Pod { said, ..pod("plain/old", "10.0.0.3") });
    assert_eq!(wish(&mut world, "plain/old"), Some(Wish::Nothing));
}

#[test]
fn what_is_said_of_a_pod_decides_nothing() {
    let mut world = shop();
    world.touched();
    let before = world.picture();
    let said = Some(Said::new(false, "Outside", "somebody wrote it"));
    assert!(!world.set_pod(seen::Pod { said: said.clone(), ..pod("shop/web", "10.0.0.1") }));
    let after = world.picture();
    assert!(before.workloads.ptr_eq(&after.workloads));
    let touched = world.touched();
    let facts = touched[0].1.as_ref().unwrap();
    assert_eq!((&facts.wish, &facts.said), (&Wish::Enrolled, &said));
    assert_eq!(world.touched(), [], "it is told once");
    let moved = seen::Pod { said, ..pod("shop/web", "10.0.0.9") };
    assert!(world.set_pod(moved), "an address is another matter");
}

#[test]
fn a_pod_that_is_over_or_gone_is_forgotten() {
    let mut world = shop();
    world.touched();
    world.set_pod(seen::Pod { is_over: true, ..pod("shop/web", "10.0.0.1") });
    assert_eq!(world.touched(), [(name("shop/web"), None)]);
    world.set_pod(pod("shop/cart", "10.0.0.2"));
    world.remove_pod(&name("shop/cart"));
    assert_eq!(world.touched(), [(name("shop/cart"), None)]);
}
