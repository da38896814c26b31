//! How a host becomes a node, stays one, and is one no more.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use martlet_authority::Authority;

use super::world::{Agent, Controller, Host, domain, eventually, node, until};
use crate::{Acknowledgement, JoinToken, Secret, Usage};

#[tokio::test]
async fn a_host_with_a_token_becomes_a_node_and_is_told_its_own() {
    let controller = Controller::start().await;
    controller.declare(3, 1);
    let host = Host::new("one").with_token(&controller.token("one"));
    let agent = Agent::start(&host, controller.address);
    let declared = agent.until_declared(1).await;
    let local: Vec<_> = declared.local.iter().map(|one| one.workload.name.to_string()).collect();
    assert_eq!(local, ["shop/web"], "and not what runs on node two");
    assert_eq!(declared.directory.workload_addresses().count(), 5);
    assert!(agent.client.link().borrow().certificate_expires.is_some());

    // What the agent says about itself is known beside its name.
    agent.client.acknowledge(declared.version, declared.trust.version, None);
    let digest = "ab".repeat(32);
    let leaves = [(digest.clone(), 3)].into();
    agent.client.report_usage(Usage { leaves, ..Usage::default() });
    let seen = || controller.server.agents().into_iter().find(|seen| seen.node == node("one"));
    eventually("the agent's word is known", || {
        seen().is_some_and(|seen| {
            let used = seen.usage.as_ref().and_then(|usage| usage.leaves.get(&digest).copied());
            seen.acknowledged.version == 1 && used == Some(3)
        })
    })
    .await;
    let seen = seen().unwrap();
    assert_eq!((seen.is_connected, seen.agent_version.as_str()), (true, "1.2.3"));
    let Acknowledgement { trust_version, bundle, error, .. } = seen.acknowledged;
    assert_eq!((trust_version, error), (1, None));
    assert_eq!(bundle, crate::bundle_digest(&declared.trust));
    assert_eq!(seen.usage.unwrap().leaves.len(), 2, "the node's own certificate is in use, too");
    agent.stop().await;
    eventually("it is known to be gone", || !controller.server.agents()[0].is_connected).await;
    controller.stop().await;
}

#[tokio::test]
async fn a_node_that_starts_again_needs_no_token_and_no_controller_to_know_what_it_knew() {
    let controller = Controller::start().await;
    controller.declare(3, 1);
    let host = Host::new("one").with_token(&controller.token("one"));
    let agent = Agent::start(&host, controller.address);
    agent.until_declared(1).await;
    agent.stop().await;
    std::fs::remove_file(host.token()).unwrap();

    let again = host.client(controller.address);
    let remembered = again.declared().borrow().clone().unwrap();
    assert_eq!((remembered.version, remembered.local.len()), (1, 1));
    assert_eq!(remembered.directory.workload_addresses().count(), 5);
    let agent = Agent::start(&host, controller.address);
    agent.until_connected().await;
    controller.declare(4, 1);
    let declared = agent.until_declared(2).await;
    assert_eq!(declared.directory.workload_addresses().count(), 6);
    agent.stop().await;
    controller.stop().await;
}

#[tokio::test]
async fn a_snapshot_holds_no_secret_and_a_bad_one_is_not_used() {
    let controller = Controller::start().await;
    controller.declare(0, 1);
    let token = controller.token("one");
    let host = Host::new("one").with_token(&token);
    let agent = Agent::start(&host, controller.address);
    agent.until_declared(1).await;
    agent.stop().await;
    let state = host.directory.path().join("state");
    let snapshot = std::fs::read(state.join("directory.pb")).unwrap();
    let kept = std::fs::read(state.join("node.pb")).unwrap();
    let has = |bytes: &[u8]| snapshot.windows(bytes.len()).any(|window| window == bytes);
    assert!(has(b"shop") && !has(token.secret.as_bytes()));
    // The key is between the node's name and the chain; it is in the other file only.
    let key = kept.windows(4).position(|w| w == [0x30, 0x81, 0x87, 0x02]).expect("PKCS #8");
    assert!(!has(&kept[key..key + 0x87]));

    std::fs::write(state.join("directory.pb"), &snapshot[..snapshot.len() / 2]).unwrap();
    let again = host.client(controller.address);
    assert!(again.declared().borrow().is_none());
    let agent = Agent::start(&host, controller.address);
    agent.until_declared(1).await;
    agent.stop().await;
    controller.stop().await;
}

#[tokio::test]
async fn a_token_is_good_for_its_node_and_once() {
    let controller = Controller::start().await;
    let token = controller.token("one");
    let other = Agent::on(Host::new("two").with_token(&token), controller.address);
    other.until_down("is for node one").await;
    // A liar about its own token fails at the controller.
    let lie = JoinToken { node: node("two"), ..token.clone() };
    let liar = Agent::on(Host::new("two").with_token(&lie), controller.address);
    liar.until_down("the token is not good").await;
    let first = Agent::on(Host::new("one").with_token(&token), controller.address);
    first.until_connected().await;
    let second = Agent::on(Host::new("one").with_token(&token), controller.address);
    second.until_down("the token is not good").await;
    let guess = JoinToken { secret: Secret::new(), ..token };
    let guesser = Agent::on(Host::new("one").with_token(&guess), controller.address);
    guesser.until_down("the token is not good").await;
    let empty = Agent::on(Host::new("one"), controller.address);
    empty.until_down("martlet node join").await;
}

#[tokio::test]
async fn a_host_does_not_give_its_token_to_another_controller() {
    let (right, wrong) = (Controller::start().await, Controller::start().await);
    let token = right.token("one");
    wrong.office().tokens.lock().unwrap().insert(token.secret.digest(), (node("one"), None));
    let agent = Agent::on(Host::new("one").with_token(&token), wrong.address);
    agent.until_down("fingerprint").await;
    let tokens = wrong.office().tokens.lock().unwrap();
    assert!(tokens.values().all(|(_, used)| used.is_none()), "its secret was not sent");
}

#[tokio::test]
async fn a_pod_joins_by_its_account_and_again_whenever_its_certificate_is_not_taken() {
    let controller = Controller::start().await;
    controller.declare(0, 1);
    let roots = controller.office().authority.roots().to_vec();
    let host = Host::new("one").with_account("one", &roots);
    let agent = Agent::start(&host, controller.address);
    agent.until_declared(1).await;
    // It is one no more, and its pod is let in again.
    controller.office().removed.lock().unwrap().push(node("one"));
    controller.server.expel(&node("one"));
    agent.until_down("was removed").await;
    controller.office().removed.lock().unwrap().clear();
    controller.declare(1, 1);
    agent.until_declared(2).await;
    assert_eq!(controller.office().renewals.load(Ordering::Relaxed), 0, "it did not renew");
    agent.stop().await;
}

#[tokio::test]
async fn a_pod_does_not_become_the_node_of_another() {
    let controller = Controller::start().await;
    let roots = controller.office().authority.roots().to_vec();
    let host = Host::new("one").with_account("two", &roots);
    let agent = Agent::start(&host, controller.address);
    agent.until_down("another node's").await;
    agent.stop().await;
}

#[tokio::test]
async fn a_pod_does_not_show_its_token_to_whom_its_roots_do_not_vouch_for() {
    let (right, wrong) = (Controller::start().await, Controller::start().await);
    let roots = right.office().authority.roots().to_vec();
    let host = Host::new("one").with_account("one", &roots);
    let agent = Agent::start(&host, wrong.address);
    agent.until_down("fingerprint").await;
    agent.stop().await;
}

#[tokio::test]
async fn a_node_does_not_follow_another_controller_of_the_same_name() {
    let controller = Controller::start().await;
    controller.declare(0, 1);
    let host = Host::new("one").with_token(&controller.token("one"));
    let agent = Agent::start(&host, controller.address);
    agent.until_declared(1).await;
    let address = controller.stop().await;
    agent.until_down("").await;
    let impostor = Controller::at(Authority::ephemeral(&domain()).unwrap(), address).await;
    impostor.declare(7, 9);
    agent.until_down("could not be proven").await;
    let declared = agent.client.declared().borrow().clone().unwrap();
    assert_eq!((declared.version, declared.trust.version), (1, 1), "what was declared stays");
    agent.stop().await;
}

#[tokio::test]
async fn a_node_whose_certificate_is_not_wanted_any_more_renews_it() {
    let controller = Controller::start().await;
    controller.declare(0, 1);
    let host = Host::new("one").with_token(&controller.token("one"));
    let agent = Agent::start(&host, controller.address);
    agent.until_declared(1).await;
    assert_eq!(controller.office().renewals.load(Ordering::Relaxed), 0);
    let mut declaration = controller.declaration(0, 2);
    declaration.trust = controller.trust_that_wants(2, b"another issuer");
    controller.server.declare(declaration.inventory().unwrap()).unwrap();
    let renewals = || controller.office().renewals.load(Ordering::Relaxed);
    eventually("it renews", || renewals() >= 1).await;
    // And it comes back with it.
    controller.declare(1, 3);
    agent.until_declared(3).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_certificate_that_lives_shortly_is_renewed_before_it_ends() {
    let controller = Controller::start().await;
    // The authority dates it back by a minute, so it is at its half from the start.
    *controller.office().node_lifetime.lock().unwrap() = Duration::from_secs(40);
    let host = Host::new("one").with_token(&controller.token("one"));
    let agent = Agent::start(&host, controller.address);
    eventually("it renews", || controller.office().renewals.load(Ordering::Relaxed) >= 1).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_node_that_is_removed_is_one_no_more() {
    let controller = Controller::start().await;
    controller.declare(0, 1);
    let hosts = ["one", "two"].map(|of| Host::new(of).with_token(&controller.token(of)));
    let agents = hosts.each_ref().map(|host| Agent::start(host, controller.address));
    for agent in &agents {
        agent.until_declared(1).await;
    }
    controller.office().removed.lock().unwrap().push(node("one"));
    controller.server.expel(&node("one"));
    agents[0].until_down("was removed").await;
    controller.declare(1, 1);
    agents[1].until_declared(2).await;
    let removed = agents[0].client.declared().borrow().clone().unwrap();
    assert_eq!(removed.version, 1, "it is told nothing more");
}

#[tokio::test]
async fn an_agent_that_follows_twice_follows_once() {
    let controller = Controller::start().await;
    let host = Host::new("one").with_token(&controller.token("one"));
    let first = Agent::start(&host, controller.address);
    first.until_connected().await;
    eventually("it follows", || controller.server.agents().iter().any(|a| a.is_connected)).await;
    let second = Agent::start(&host, controller.address);
    until(&mut first.client.link(), |link| link.connected.is_err()).await;
    let why = first.client.link().borrow().connected.clone().unwrap_err();
    assert!(why.contains("another agent of this node"), "{why}");
    second.stop().await;
    first.stop().await;
    let _ = Arc::new(host);
}
