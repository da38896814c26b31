//! What is set for the whole mesh.

use martlet_model::Failure;

use super::*;
use crate::{
    api::MeshSettings,
    kept::{By, Mesh},
};

fn set(default_mode: Option<Mode>) -> Set {
    let settings = MeshSettings { default_mode, ..MeshSettings::default() };
    let by = Some(By { uid: "m".into(), generation: 1 });
    Set { mesh: Arc::new(Mesh { settings, by }), refused: vec![] }
}

fn mode(world: &World, text: &str) -> Option<Mode> {
    world.workload(&name(text)).map(|local| local.workload.mode)
}

/// Pods of a namespace without a label, of one that is off, and of one that is permissive.
fn town() -> World {
    let mut world = world();
    world.set_namespace(namespace("plain", None));
    let off = seen::Namespace { wanted: Some(Wanted::Off), ..namespace("off", None) };
    world.set_namespace(off);
    world.set_namespace(namespace("shop", Some(Mode::Permissive)));
    for (number, one) in
        ["plain/a", "off/b", "shop/c", "kube-system/d", "martlet-system/e"].into_iter().enumerate()
    {
        world.set_pod(pod(one, &format!("10.0.0.{}", number + 1)));
    }
    world
}

#[test]
fn a_default_enrolls_pods_that_no_label_is_about_and_no_others() {
    let mut world = town();
    assert_eq!(mode(&world, "plain/a"), None);
    world.set_mesh(set(Some(Mode::Strict)));
    assert_eq!(mode(&world, "plain/a"), Some(Mode::Strict));
    assert_eq!(mode(&world, "shop/c"), Some(Mode::Permissive), "its label wins");
    for outside in ["off/b", "kube-system/d", "martlet-system/e"] {
        assert_eq!(mode(&world, outside), None, "{outside}");
    }
    world.set_namespace(namespace("kube-system", Some(Mode::Permissive)));
    assert_eq!(mode(&world, "kube-system/d"), Some(Mode::Permissive), "a label enrolls there, too");
    // One that comes later is as those that were there.
    world.set_pod(pod("plain/later", "10.0.0.9"));
    assert_eq!(mode(&world, "plain/later"), Some(Mode::Strict));
    let off = seen::Pod { wanted: Some(Wanted::Off), ..pod("plain/own", "10.0.0.10") };
    world.set_pod(off);
    assert_eq!(mode(&world, "plain/own"), None, "a pod's own label wins");
}

#[test]
fn without_the_default_they_are_outside_again() {
    let mut world = town();
    world.set_mesh(set(Some(Mode::Permissive)));
    assert_eq!(mode(&world, "plain/a"), Some(Mode::Permissive));
    let outside =
        |world: &World| world.picture().outside.values().any(|one| one.name == name("plain/a"));
    assert!(!outside(&world));
    world.set_mesh(Set::default());
    assert_eq!(mode(&world, "plain/a"), None);
    assert_eq!(mode(&world, "shop/c"), Some(Mode::Permissive));
    assert!(outside(&world));
}

#[test]
fn a_pod_on_its_node_is_a_problem_only_where_a_label_enrolls_it() {
    let mut world = town();
    let on_host = |text| seen::Pod { is_on_host: true, ..pod(text, "10.0.0.20") };
    world.set_mesh(set(Some(Mode::Strict)));
    world.set_pod(on_host("plain/host"));
    world.set_pod(on_host("shop/host"));
    let problems = world.problems().keys().map(|object| object.to_string());
    assert_eq!(problems.collect::<Vec<_>>(), ["Pod shop/host"]);
    for text in ["plain/host", "shop/host"] {
        assert_eq!(mode(&world, text), None);
        let facts = world.facts.get(&name(text)).unwrap();
        assert!(matches!(&facts.wish, Wish::Outside(why) if why.contains("hostNetwork")));
    }
}

#[test]
fn udp_and_failure_are_as_they_are_set_and_else_as_before() {
    let mut world = shop();
    let local = |world: &World| world.workload(&name("shop/web")).unwrap().clone();
    assert_eq!(local(&world).udp, Udp::Pass);
    let before = local(&world).workload.clone();
    let settings = MeshSettings {
        udp: Some(Udp::Refuse),
        failure: Some(Failure::Open),
        ..MeshSettings::default()
    };
    let mesh = Arc::new(Mesh { settings, by: None });
    world.set_mesh(Set { mesh: mesh.clone(), refused: vec![] });
    assert_eq!(local(&world).udp, Udp::Refuse);
    assert!(Arc::ptr_eq(&before, &local(&world).workload), "of the workload nothing is other");
    assert_eq!(world.picture().mesh, mesh);
    world.set_mesh(Set::default());
    assert_eq!(local(&world).udp, Udp::Pass);
}

#[test]
fn what_is_refused_is_a_problem_until_it_is_not() {
    let mut world = shop();
    let object = Object::new(Kind::MeshConfig, "", "default");
    let problem = Problem::new("Invalid", "failure");
    let refused = vec![(object.clone(), "m".into(), problem.clone())];
    world.set_mesh(Set { refused, ..set(Some(Mode::Strict)) });
    assert_eq!(world.problems()[&object].problems, [problem]);
    world.set_mesh(set(Some(Mode::Strict)));
    assert!(world.problems().is_empty());
}
