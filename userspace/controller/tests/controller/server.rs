//! An API server that says what is wrong: agents that were connected all the time see no workload go
//! and nothing allowed by it, and what is true arrives afterwards.

use martlet_played::{Gets, Lists};
use serde_json::json;

use crate::cluster::{Cluster, KINDS, POLICIES, agent, namespace, pod, policy, slice};

#[tokio::test]
async fn empty_lists_take_nothing_away_and_what_is_deleted_goes_all_the_same() {
    let cluster = Cluster::start().await;
    for (_, plural) in KINDS {
        cluster.api.set_lists(plural, Lists::Empty);
    }
    cluster.api.expire();
    for (_, plural) in KINDS {
        cluster.until_counted("watch_contradictions", plural, 1).await;
    }
    cluster.still_hears().await;
    for (_, plural) in KINDS {
        cluster.api.set_lists(plural, Lists::Right);
    }
    cluster.still_hears().await;
}

#[tokio::test]
async fn a_list_that_lacked_something_is_taken_anew_for_what_nobody_knew_of() {
    let cluster = Cluster::start().await;
    cluster.api.set_lists("pods", Lists::Empty);
    cluster.api.apply_unheard("v1", "pods", [pod("shop", "late", "late", "two", "10.0.0.9")]);
    cluster.until_counted("watch_contradictions", "pods", 1).await;
    cluster.api.set_lists("pods", Lists::Right);
    let late = "10.0.0.9".parse().unwrap();
    cluster.one.until_told(|all| all.directory.workload_at(late).is_some()).await;
    cluster.nothing_was_lost();
}

#[tokio::test]
async fn what_the_server_does_not_answer_about_stays_and_what_it_denies_goes() {
    let cluster = Cluster::start().await;
    cluster.api.apply("v1", "pods", pod("shop", "old", "old", "two", "10.0.0.9"));
    let old = "10.0.0.9".parse().unwrap();
    cluster.one.until_told(|all| all.directory.workload_at(old).is_some()).await;
    cluster.api.set_gets("pods", Gets::Refused(503));
    cluster.api.set_lists("pods", Lists::Empty);
    let before = cluster.api.gets("pods");
    cluster.api.delete_unheard("v1", "pods", "shop", "old");
    let asked = |_: &_| cluster.api.gets("pods") > before + 10;
    cluster.controller.until("it is asked for", asked).await;
    cluster.nothing_was_lost();
    let has = |all: &martlet_control::Declared| all.directory.workload_at(old).is_some();
    assert!(has(cluster.one.client.declared().borrow().as_ref().unwrap()));
    cluster.api.set_gets("pods", Gets::Right);
    cluster.one.until_told(|all| all.directory.workload_at(old).is_none()).await;
    cluster.api.set_lists("pods", Lists::Right);
    cluster.still_hears().await;
}

#[tokio::test]
async fn lists_of_before_bring_back_neither_a_mode_nor_a_policy() {
    let cluster = Cluster::start().await;
    let (version, plural) = POLICIES;
    cluster.api.apply("v1", "namespaces", namespace("other", "permissive"));
    cluster.api.apply("v1", "pods", pod("other", "db", "db", "two", "10.0.0.9"));
    cluster.api.apply(version, plural, policy("yes-cart", "Allow"));
    let db = "10.0.0.9".parse().unwrap();
    let mode = |all: &martlet_control::Declared| all.directory.workload_at(db).map(|one| one.mode);
    cluster.one.until_told(|all| mode(all) == Some(martlet_model::Mode::Permissive)).await;
    let then = KINDS.map(|(version, plural)| (plural, cluster.api.snapshot(version, plural)));
    cluster.api.apply("v1", "namespaces", namespace("other", "strict"));
    cluster.api.delete(version, plural, "shop", "yes-cart");
    let is_strict = |all: &_| mode(all) == Some(martlet_model::Mode::Strict);
    cluster.one.until_told(is_strict).await;
    for (plural, lists) in then {
        cluster.api.set_lists(plural, lists);
    }
    cluster.api.expire();
    cluster.until_counted("watch_outdated", "namespaces", 1).await;
    cluster.until_counted("watch_outdated", plural, 1).await;
    cluster.nothing_was_lost();
    assert!(is_strict(cluster.one.client.declared().borrow().as_ref().unwrap()));
    for (_, plural) in KINDS {
        cluster.api.set_lists(plural, Lists::Right);
    }
    cluster.still_hears().await;
}

#[tokio::test]
async fn events_out_of_order_and_twice_change_nothing() {
    let cluster = Cluster::start().await;
    let (version, plural) = POLICIES;
    let event = |kind: &str, object: &serde_json::Value| {
        json!({ "type": kind, "object": object }).to_string()
    };
    let now = |version: &str, plural: &str, namespace: &str, name: &str| {
        cluster.api.get(version, plural, namespace, name).unwrap()
    };
    // Before it was denied, it was allowed; and before it was strict, it was not.
    cluster.api.apply(version, plural, policy("changing", "Allow"));
    let allow = now(version, plural, "shop", "changing");
    cluster.api.apply(version, plural, policy("changing", "Deny"));
    let shop = {
        let mut shop = now("v1", "namespaces", "", "shop");
        shop["metadata"]["labels"] = json!({});
        shop["metadata"]["resourceVersion"] = json!("1");
        shop
    };
    cluster.one.until_told(|all| all.version > 1).await;
    cluster.api.say(plural, &event("MODIFIED", &allow));
    cluster.api.say("namespaces", &event("MODIFIED", &shop));
    cluster.until_counted("watch_outdated", plural, 1).await;
    cluster.until_counted("watch_outdated", "namespaces", 1).await;
    let web = now("v1", "pods", "shop", "web");
    for _ in 0..2 {
        cluster.api.say("pods", &event("ADDED", &web));
    }
    cluster.still_hears().await;
    // An end that was told twice is one end, and not that of the next life.
    cluster.api.apply("v1", "pods", pod("shop", "new", "new", "two", "10.0.0.9"));
    let first = now("v1", "pods", "shop", "new");
    cluster.api.delete("v1", "pods", "shop", "new");
    cluster.api.apply("v1", "pods", pod("shop", "new", "new", "two", "10.0.0.9"));
    cluster.api.say("pods", &event("DELETED", &first));
    cluster.api.say("pods", &event("ADDED", &first));
    cluster.until_counted("watch_outdated", "pods", 1).await;
    let new = "10.0.0.9".parse().unwrap();
    cluster.one.until_told(|all| all.directory.workload_at(new).is_some()).await;
    cluster.still_hears().await;
}

#[tokio::test]
async fn an_event_that_cannot_be_read_is_not_lost() {
    let cluster = Cluster::start().await;
    cluster.api.garble("v1", "pods", pod("shop", "late", "late", "two", "10.0.0.9"));
    let late = "10.0.0.9".parse().unwrap();
    cluster.one.until_told(|all| all.directory.workload_at(late).is_some()).await;
    cluster.still_hears().await;
}

#[tokio::test]
async fn a_server_that_refuses_or_talks_nonsense_is_asked_again() {
    let cluster = Cluster::start().await;
    let wrong = [
        Lists::Refused(429, Some(1)),
        Lists::Refused(500, None),
        Lists::Refused(503, None),
        Lists::Garbage,
    ];
    for lists in wrong {
        let before = cluster.counted("watch_failures", "pods");
        cluster.api.set_lists("pods", lists);
        cluster.api.expire();
        // That its versions have expired is the first.
        cluster.until_counted("watch_failures", "pods", before + 2).await;
        cluster.api.set_lists("pods", Lists::Right);
        cluster.still_hears().await;
    }
}

#[tokio::test]
async fn all_pages_of_a_list_are_read_and_one_that_expires_half_way_takes_nothing_away() {
    let cluster = Cluster::start().await;
    let address = |number: u32| format!("10.1.{}.{}", number / 250, number % 250 + 1);
    let many = (0..1_200).map(|number| {
        let name = format!("many-{number:04}");
        pod("shop", &name, "many", "two", &address(number))
    });
    cluster.api.set_lists("pods", Lists::Expired);
    let before = cluster.counted("watch_failures", "pods");
    cluster.api.apply_unheard("v1", "pods", many);
    cluster.until_counted("watch_failures", "pods", before + 2).await;
    cluster.nothing_was_lost();
    cluster.api.set_lists("pods", Lists::Right);
    let last = address(1_199).parse().unwrap();
    cluster.one.until_told(|all| all.directory.workload_at(last).is_some()).await;
    cluster.still_hears().await;
}

#[tokio::test]
async fn a_pod_of_more_than_a_mebibyte_is_a_workload_as_any_other() {
    let cluster = Cluster::start().await;
    let mut large = pod("shop", "large", "large", "two", "10.0.0.9");
    large["metadata"]["annotations"] = json!({ "note": "x".repeat(1_400_000) });
    cluster.api.apply("v1", "pods", large);
    let at = "10.0.0.9".parse().unwrap();
    cluster.one.until_told(|all| all.directory.workload_at(at).is_some()).await;
    cluster.api.expire();
    cluster.still_hears().await;
}

#[tokio::test]
async fn a_controller_that_begins_with_empty_lists_tells_nobody_anything() {
    let mut cluster = Cluster::start().await;
    cluster.controller.kill();
    for (_, plural) in KINDS {
        cluster.api.set_lists(plural, Lists::Empty);
    }
    let before = cluster.api.lists("namespaces");
    cluster.controller.spawn();
    let listed = |_: &_| cluster.api.lists("namespaces") > before + 3;
    cluster.controller.until("the namespaces are listed again and again", listed).await;
    // It has the lease, and says that it lives, and why it is not ready.
    let leads = |said: (u16, String)| said.0 == 503 && said.1.contains("is the controller now");
    let controller = &cluster.controller;
    let says_so = |_: &_| controller.get("/readyz").is_some_and(leads);
    controller.until("it says why it is not ready", says_so).await;
    assert_eq!(cluster.controller.over_tcp("GET", "/healthz").0, 200);
    assert_eq!(cluster.controller.over_tcp("GET", "/readyz").0, 503);
    cluster.nothing_was_lost();
    for (_, plural) in KINDS {
        cluster.api.set_lists(plural, Lists::Right);
    }
    cluster.controller.until_ready();
    cluster.still_hears().await;
}

#[tokio::test]
async fn a_controller_that_begins_late_knows_what_there_is() {
    let mut cluster = Cluster::start().await;
    cluster.controller.kill();
    cluster.api.apply("discovery.k8s.io/v1", "endpointslices", slice("web", "10.0.0.1"));
    cluster.controller.launch();
    cluster.still_hears().await;
    let again = agent(&cluster.api, &cluster.controller).await;
    again.until_told(|all| !all.local.is_empty()).await;
}
