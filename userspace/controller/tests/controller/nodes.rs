//! Nodes and their workloads: who joins, what they are told, what they are certified for.

use std::fs;

use martlet_control::IssueError;
use serde_json::json;
use tempfile::TempDir;

use crate::process::{Agent, Controller, WORKLOADS};

fn refused(answer: Result<martlet_identity::Chain, IssueError>) -> String {
    match answer {
        Err(IssueError::Refused(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn nodes_join_and_are_certified_for_what_runs_on_them_and_for_nothing_else() {
    let controller = Controller::start();
    let (one, two) = (controller.node("one"), controller.node("two"));
    one.until_told(|all| all.local.len() == 1).await;
    two.until_told(|all| all.local.len() == 1).await;
    one.certificate("web").await.unwrap();
    two.certificate("cart").await.unwrap();
    assert!(refused(one.certificate("cart").await).contains("does not run on this node"));
    assert!(refused(two.certificate("web").await).contains("does not run on this node"));
    assert!(refused(one.certificate("db").await).contains("no such workload"));
    let nodes = controller.json("/nodes");
    let names: Vec<_> = nodes["nodes"].as_array().unwrap().iter().map(|n| &n["name"]).collect();
    assert_eq!(names, ["one", "two"]);
    let counted = controller.over_tcp("GET", "/metrics").1;
    assert!(counted.contains("martlet_controller_certificates_issued_total 2"), "{counted}");
    assert!(counted.contains("martlet_controller_certificates_refused_total 3"), "{counted}");
}

#[tokio::test]
async fn a_token_is_good_once_and_for_its_node() {
    let controller = Controller::start();
    let token = controller.token("one");
    let host = |name: &str, token: &str| {
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join("token"), token).unwrap();
        Agent::start(directory, name, controller.agents)
    };
    let liar = host("two", &token.replace(":one:", ":two:"));
    liar.until_down("not good for this node").await;
    let first = host("one", &token);
    first.until_told(|_| true).await;
    let second = host("one", &token);
    second.until_down("not good for this node").await;
    first.certificate("web").await.unwrap();
}

#[tokio::test]
async fn what_the_directory_file_says_is_told_and_certified_and_a_broken_one_changes_nothing() {
    let controller = Controller::start();
    let (one, two) = (controller.node("one"), controller.node("two"));
    two.until_told(|all| all.local.len() == 1).await;
    controller.declare("workloads: [");
    controller
        .until("the broken file is counted", |controller| {
            let counted = controller.over_tcp("GET", "/metrics").1;
            counted.contains("martlet_controller_reloads_refused_total 1")
        })
        .await;
    two.certificate("cart").await.unwrap();
    controller.declare(
        &WORKLOADS.replace("b.org", "a.org").replace("trustDomain: a.org", "trustDomain: c.org"),
    );
    controller
        .until("a file of another trust domain is counted", |controller| {
            let counted = controller.over_tcp("GET", "/metrics").1;
            counted.contains("martlet_controller_reloads_refused_total 2")
        })
        .await;
    // A workload moves: its old node loses it, its new one has it.
    controller.declare(&WORKLOADS.replace("node: two", "node: one"));
    one.until_told(|all| all.local.len() == 2).await;
    two.until_told(|all| all.local.is_empty()).await;
    one.certificate("cart").await.unwrap();
    assert!(refused(two.certificate("cart").await).contains("does not run on this node"));
}

#[tokio::test]
async fn who_is_cut_off_is_not_certified_until_released_and_all_are_told() {
    let controller = Controller::start();
    let (one, two) = (controller.node("one"), controller.node("two"));
    one.until_told(|all| all.trust.quarantines.is_empty()).await;
    two.until_told(|_| true).await;
    for whom in
        ["node/a.org/one", "workload/a.org/shop/web", "identity/spiffe://a.org/ns/shop/sa/web"]
    {
        controller.tell("/trust/quarantine", &json!({ "whom": whom, "reason": "a test" }));
        two.until_told(|all| all.trust.quarantines.len() == 1).await;
        one.until_told(|all| all.trust.quarantines.len() == 1).await;
        assert!(refused(one.certificate("web").await).contains(whom));
        two.certificate("cart").await.expect("nobody else is harmed");
        controller.tell("/trust/release", &json!({ "whom": whom }));
        one.until_told(|all| all.trust.quarantines.is_empty()).await;
        one.certificate("web").await.unwrap();
        two.until_told(|all| all.trust.quarantines.is_empty()).await;
    }
    let lines = controller.issuance();
    let refused: Vec<_> = lines.iter().filter(|line| line["reason"] == "quarantined").collect();
    let details: Vec<_> = refused.iter().map(|line| line["detail"].as_str().unwrap()).collect();
    let whom =
        ["node/a.org/one", "workload/a.org/shop/web", "identity/spiffe://a.org/ns/shop/sa/web"];
    assert_eq!(details, whom.map(|whom| format!("it is cut off by the quarantine of {whom}")));
    for line in refused {
        assert_eq!((&line["event"], &line["node"]), (&json!("refused"), &json!("one")));
        assert_eq!(line["workload"], "shop/web");
    }
    let (status, why) = controller.post("/trust/quarantine", &json!({ "whom": "cluster/a.org" }));
    assert_eq!(status, 409, "{why}");
    let (status, _) = controller.post("/trust/quarantine", &json!({ "whom": "everybody" }));
    assert_eq!(status, 422);
}

#[tokio::test]
async fn a_node_that_is_removed_is_told_nothing_and_may_join_anew() {
    let controller = Controller::start();
    let (one, two) = (controller.node("one"), controller.node("two"));
    one.until_told(|_| true).await;
    two.until_told(|_| true).await;
    controller.tell("/nodes/remove", &json!({ "node": "one" }));
    one.until_down("").await;
    one.until_down("was removed").await;
    two.certificate("cart").await.expect("nobody else is harmed");
    assert_eq!(controller.post("/nodes/remove", &json!({ "node": "one" })).0, 409);
    drop(one.stop().await);
    let again = controller.node("one");
    again.until_told(|_| true).await;
    again.certificate("web").await.unwrap();
}

#[tokio::test]
async fn only_the_unix_socket_changes_anything() {
    let controller = Controller::start();
    assert_eq!(controller.over_tcp("GET", "/healthz").0, 200);
    for path in ["/trust/rotate", "/nodes/join", "/trust/quarantine", "/metrics"] {
        assert_eq!(controller.over_tcp("POST", path).0, 405, "{path}");
    }
    for path in ["/nodes", "/trust", "/trust/export"] {
        assert_eq!(controller.over_tcp("GET", path).0, 404, "{path}");
    }
    assert!(controller.rotation().is_null());
}

#[tokio::test]
async fn a_controller_that_was_killed_knows_its_nodes_and_who_was_cut_off() {
    let mut controller = Controller::start();
    let one = controller.node("one");
    one.until_told(|_| true).await;
    controller.tell("/trust/quarantine", &json!({ "whom": "cluster/b.org" }));
    controller.kill();
    // Nothing changes meanwhile.
    assert!(one.client.declared().borrow().is_some());
    controller.launch();
    assert_eq!(controller.json("/trust")["quarantines"][0]["whom"], "cluster/b.org");
    one.until_told(|all| all.trust.quarantines.len() == 1).await;
    controller
        .until("the agent is back", |controller| {
            controller.json("/nodes")["nodes"][0]["is_connected"] == true
        })
        .await;
    one.certificate("web").await.unwrap();
}

#[tokio::test]
async fn a_bundle_is_exported_and_another_domains_is_imported_and_told() {
    let controller = Controller::start();
    let one = controller.node("one");
    one.until_told(|all| all.trust.roots.len() == 1).await;
    let ours = controller.json("/trust/export");
    let document = ours["document"].as_str().unwrap();
    let own = json!({ "trust_domain": "a.org", "document": document, "source": "x" });
    assert_eq!(controller.post("/trust/import", &own).0, 409, "nobody says whom we trust");
    let lie = json!({ "trust_domain": "b.org", "document": document, "source": "x" });
    assert_ne!(controller.post("/trust/import", &lie).0, 200, "our own roots");
    let other = martlet_authority::Authority::ephemeral(&"b.org".parse().unwrap()).unwrap();
    let theirs = martlet_identity::BundleDocument {
        roots: other.roots().to_vec(),
        sequence: Some(1),
        refresh_hint: None,
    };
    let import =
        json!({ "trust_domain": "b.org", "document": theirs.to_json().unwrap(), "source": "x" });
    controller.tell("/trust/import", &import);
    one.until_told(|all| all.trust.roots.len() == 2).await;
    controller.tell("/trust/remove", &json!({ "trust_domain": "b.org" }));
    one.until_told(|all| all.trust.roots.len() == 1).await;
}
