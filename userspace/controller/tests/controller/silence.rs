//! An API server that says nothing: it is given up, and asked again.

use std::time::Duration;

use martlet_played::{Lists, Watches};

use crate::cluster::{Cluster, pod, service};

/// A watch lasts a minute, and a list may take one.
const LONG: Duration = Duration::from_secs(150);

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let waiting = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(tokio::time::timeout(LONG, waiting).await.is_ok(), "never: {what}");
}

#[tokio::test]
async fn a_watch_that_stalls_is_given_up_and_what_it_did_not_say_arrives() {
    let cluster = Cluster::start().await;
    until("the pods are watched", || cluster.api.watching("pods") == 1).await;
    cluster.api.stall("pods");
    cluster.api.apply("v1", "pods", pod("shop", "late", "late", "two", "10.0.0.9"));
    let late = "10.0.0.9".parse().unwrap();
    let declared = cluster.one.client.declared();
    until("the pod is told", || {
        let declared = declared.borrow();
        declared.as_ref().is_some_and(|all| all.directory.workload_at(late).is_some())
    })
    .await;
    assert!(cluster.counted("watch_failures", "pods") >= 1);
    cluster.still_hears().await;
}

#[tokio::test]
async fn a_watch_that_does_not_begin_is_given_up() {
    let cluster = Cluster::start().await;
    cluster.api.set_watches("services", Watches::Silent);
    let before = cluster.api.watches("services");
    cluster.api.cut("services");
    until("the services are watched again", || cluster.api.watches("services") > before).await;
    cluster.api.set_watches("services", Watches::Right);
    cluster.api.apply("v1", "services", service("new", "10.96.0.9"));
    cluster.api.apply(
        "discovery.k8s.io/v1",
        "endpointslices",
        crate::cluster::slice("new", "10.0.0.2"),
    );
    let has = |all: &martlet_control::Declared| all.directory.services().count() == 2;
    cluster.one.until_told(has).await;
    cluster.still_hears().await;
}

#[tokio::test]
async fn a_list_that_is_never_answered_is_given_up() {
    let cluster = Cluster::start().await;
    cluster.api.set_lists("pods", Lists::Silent);
    let before = cluster.api.lists("pods");
    cluster.api.expire();
    until("the pods are listed", || cluster.api.lists("pods") > before).await;
    cluster.api.set_lists("pods", Lists::Right);
    until("the list is asked for again", || cluster.api.lists("pods") > before + 1).await;
    cluster.still_hears().await;
}

#[tokio::test]
async fn watches_that_end_at_once_are_begun_anew_without_haste() {
    let cluster = Cluster::start().await;
    cluster.api.set_watches("pods", Watches::Ended);
    let before = cluster.api.watches("pods");
    cluster.api.cut("pods");
    cluster.until_counted("watch_failures", "pods", 3).await;
    assert!(cluster.api.watches("pods") - before < 10);
    cluster.api.set_watches("pods", Watches::Expired);
    cluster.until_counted("watch_failures", "pods", 4).await;
    cluster.api.set_watches("pods", Watches::Right);
    cluster.still_hears().await;
}
