//! What people do with trust and authorities, from the first command to the last, against a real
//! controller. Each test is one file in `transcripts`.

use std::{fs, path::Path};

use martlet_identity::describe;
use martlet_model::{
    WorkloadName,
    report::{Certificates, LeafReport},
};

use crate::{
    fake::{FakeAgent, Fixed},
    fixtures::reports,
    mesh::Mesh,
    transcript::Transcript,
};

fn transcript(name: &'static str, mesh: &Mesh) -> Transcript {
    let mut told = Transcript::new(name, mesh.directory.path());
    told.knows(mesh.agents.to_string(), "127.0.0.1:PORT");
    told.knows(mesh.bundles.to_string(), "127.0.0.1:BUNDLES");
    told
}

#[test]
fn a_root_is_rotated_paused_and_retired() {
    let mesh = Mesh::start("prod.example");
    let (node, socket) = (mesh.join("one"), mesh.socket());
    let mut told = transcript("rotate", &mesh);
    told.says("Everything is in order.");
    told.run(&socket, "martlet trust status");
    told.run(&socket, "martlet trust pause");
    told.says("The node does not hear of it for now.");
    node.obeys.send_replace(false);
    told.run(&socket, "martlet trust rotate");
    told.run(&socket, "martlet trust rotate");
    mesh.until_it_waits_for(&["does not trust the new root"]);
    told.run(&socket, "martlet trust pause");
    told.run(&socket, "martlet trust status");
    told.says("Now it does.");
    node.obeys.send_replace(true);
    mesh.until_it_waits_for(&["it is paused"]);
    told.run(&socket, "martlet trust status");
    told.run(&socket, "martlet trust resume");
    mesh.until_steady();
    told.says("A minute later:");
    told.run(&socket, "martlet trust status");
    told.run(&socket, "martlet trust resume");
    told.finish();
}

#[test]
fn a_rotation_is_forced_and_taken_back() {
    let mesh = Mesh::start("prod.example");
    let (node, socket) = (mesh.join("one"), mesh.socket());
    let mut told = transcript("rotate-force-back", &mesh);
    told.run(&socket, "martlet trust back");
    told.run(&socket, "martlet trust rotate --force");
    node.obeys.send_replace(false);
    told.run(&socket, "martlet trust rotate");
    mesh.until_it_waits_for(&["does not trust the new root"]);
    told.run(&socket, "martlet trust rotate --force");
    told.run(&socket, "martlet trust back");
    node.obeys.send_replace(true);
    mesh.until_steady();
    told.says("The old root issues alone, as before.");
    told.run(&socket, "martlet trust status");
    told.finish();
}

#[test]
fn a_root_is_brought_with_its_key_elsewhere() {
    let mesh = Mesh::start("prod.example");
    let (_node, socket) = (mesh.join("one"), mesh.socket());
    let mut told = transcript("rotate-offline", &mesh);
    told.says("In a place without a network:");
    told.run(&socket, "martlet authority init vault --trust-domain prod.example");
    told.run(&socket, "martlet authority init other --trust-domain prod.example");
    told.says("On the controller:");
    told.run(&socket, "martlet trust rotate --root vault/root.crt");
    told.run(&socket, "martlet trust rotate --root vault/root.crt --root-key other/root.key");
    told.run(&socket, "martlet trust rotate --root vault/issuer.crt --offline");
    told.run(&socket, "martlet trust csr");
    told.run(&socket, "martlet trust rotate --root vault/root.crt --offline");
    mesh.until_it_waits_for(&["has no issuer yet"]);
    told.run(&socket, "martlet trust status");
    told.run(&socket, "martlet trust rotate --force");
    told.run(&socket, "martlet trust csr");
    told.run(&socket, "martlet trust csr > issuer.csr");
    told.run(&socket, "martlet authority sign other issuer.csr > forged.crt");
    told.run(&socket, "martlet trust install forged.crt");
    told.run(&socket, "martlet authority sign vault issuer.csr > issuer.crt");
    told.run(&socket, "martlet trust install issuer.crt");
    mesh.until_steady();
    told.says("A minute later:");
    told.run(&socket, "martlet trust status");
    told.says("Each week:");
    told.run(&socket, "martlet trust csr --of issuing > issuer.csr");
    told.run(&socket, "martlet authority sign vault issuer.csr > issuer.crt");
    told.run(&socket, "martlet trust install issuer.crt --of issuing");
    told.run(&socket, "martlet trust csr --of other");
    told.finish();
}

#[test]
fn trust_domains_exchange_bundles_and_follow_each_other() {
    let (mut a, mut b) = (Mesh::prepare("a.org"), Mesh::prepare("b.org"));
    let file = |own: &Mesh, other: &Mesh| {
        format!(
            "bundleEndpoint: {{ listen: \"{}\" }}\nfederation:\n- trustDomain: {other}\n  url: \
             https://{}/bundle\n  profile: https_spiffe\n  spiffeId: \
             spiffe://{other}/martlet/controller\n",
            own.bundles,
            other.bundles,
            other = other.domain,
        )
    };
    let (of_a, of_b) = (file(&a, &b), file(&b, &a));
    a.launch(&of_a);
    b.launch(&of_b);
    let (on_a, on_b) = (a.socket(), b.socket());
    let mut told = transcript("federate", &a);
    told.knows(b.bundles.to_string(), "127.0.0.1:BUNDLES-OF-B");
    told.knows(b.directory.path().display().to_string(), "/DIR-OF-B");
    a.until("it has looked", |a| {
        a.trust().is_some_and(|trust| trust["endpoints"][0]["looks"] == 1)
    });
    told.says("Both controllers name each other's endpoint; nothing proves it yet.");
    told.run(&on_a, "martlet trust list");
    told.run(&on_a, "martlet trust refresh b.org");
    told.says("On the controller of b.org:");
    told.run(&on_b, "martlet trust export");
    told.run(&on_b, "martlet trust export > b.json");
    told.says("On ours again:");
    told.run(&on_a, "martlet trust import a.org b.json");
    told.run(&on_a, "martlet trust import c.org b.json");
    told.run(&on_a, "martlet trust import b.org b.json");
    a.until("it is followed", |a| {
        a.trust().is_some_and(|trust| !trust["endpoints"][0]["confirmed"].is_null())
    });
    told.run(&on_a, "martlet trust list");
    told.run(&on_a, "martlet trust refresh b.org");
    told.run(&on_a, "martlet trust refresh c.org");
    told.run(&on_a, "martlet trust remove b.org");
    told.run(&on_a, "martlet trust remove b.org");
    told.run(&on_a, "martlet trust refresh b.org");
    told.run(&on_a, "martlet trust list");
    told.finish();
}

#[test]
fn somebody_is_cut_off_and_released() {
    let mesh = Mesh::start("prod.example");
    let (_node, socket) = (mesh.join("one"), mesh.socket());
    let mut told = transcript("quarantine", &mesh);
    told.run(
        &socket,
        "martlet trust quarantine workload shop/web --reason 'its image is not ours'",
    );
    told.run(&socket, "martlet trust quarantine node two");
    told.run(&socket, "martlet trust quarantine cluster b.org");
    told.run(&socket, "martlet trust quarantine identity spiffe://b.org/ns/shop/sa/cart");
    told.run(&socket, "martlet trust quarantine cluster prod.example");
    told.run(&socket, "martlet trust quarantine workload web");
    told.run(&socket, "martlet trust quarantine pod shop/web");
    mesh.until_steady();
    told.run(&socket, "martlet trust status");
    told.run(&socket, "martlet trust release workload shop/web");
    told.run(&socket, "martlet trust release workload shop/web");
    told.run(&socket, "martlet trust release node two");
    told.run(&socket, "martlet trust release cluster b.org");
    told.run(&socket, "martlet trust release identity spiffe://b.org/ns/shop/sa/cart");
    told.finish();
}

#[test]
fn authorities_are_made_and_their_log_is_looked_at() {
    let mesh = Mesh::start("prod.example");
    let (node, socket) = (mesh.join("one"), mesh.socket());
    let mut told = transcript("authority", &mesh);
    told.run(&socket, "martlet authority init vault --trust-domain prod.example");
    told.run(&socket, "martlet authority init vault --trust-domain prod.example");
    told.run(
        &socket,
        "martlet authority init online --trust-domain prod.example --root vault/root.crt",
    );
    told.run(&socket, "martlet authority csr online > issuer.csr");
    told.run(&socket, "martlet authority sign online issuer.csr");
    told.run(&socket, "martlet authority sign vault issuer.csr > issuer.crt");
    told.run(&socket, "martlet authority install online issuer.crt");
    told.run(&socket, "martlet authority csr online > issuer.csr");
    told.run(&socket, "martlet authority install online issuer.crt");
    told.says("The log of the controller: its node, and the node's workload.");
    mesh.certificate(&node);
    told.run(&socket, "martlet authority log verify state/log");
    let log = mesh.at("state/log/issuance-00000000000000000001.log");
    fs::create_dir(mesh.at("copy")).unwrap();
    let text = fs::read_to_string(&log).unwrap();
    let copy = mesh.at("copy/issuance-00000000000000000001.log");
    fs::write(copy, text.replacen("\"node\":\"one\"", "\"node\":\"two\"", 1)).unwrap();
    told.says("A copy of it, in which somebody has changed a name:");
    told.run(&socket, "martlet authority log verify copy");
    told.finish();
}

#[test]
fn certificates_of_a_node_are_shown_with_their_chain() {
    let mesh = Mesh::start("prod.example");
    let node = mesh.join("one");
    let chain = mesh.certificate(&node);
    let described: Vec<_> = chain.0.iter().map(|der| describe(der).unwrap()).collect();
    let roots = mesh.trust().unwrap()["roots"].as_array().unwrap().clone();
    let root =
        |root: &serde_json::Value| serde_json::from_value(root["certificate"].clone()).unwrap();
    let life = described[0].not_after - described[0].not_before;
    let leaf = LeafReport {
        workload: WorkloadName { namespace: "shop".parse().unwrap(), name: "web".parse().unwrap() },
        renews_at: described[0].not_before + life / 2,
        chain: described,
        renewal_error: None,
    };
    let certificates = Certificates { roots: roots.iter().map(root).collect(), leaves: vec![leaf] };
    let agent = FakeAgent::start(Fixed { certificates, ..reports() });
    let mut told = transcript("certificates", &mesh);
    told.run(&agent.socket(), "martlet certificates");
    told.run(&agent.socket(), "martlet certificates shop/web");
    told.run(&agent.socket(), "martlet certificates shop/cart");
    told.says("Without an agent:");
    told.run(Path::new("/nowhere/agent.sock"), "martlet certificates");
    told.finish();
}

#[test]
fn a_node_joins_and_is_removed() {
    let mesh = Mesh::start("prod.example");
    let socket = mesh.socket();
    let mut told = transcript("nodes", &mesh);
    told.run(&socket, "martlet nodes");
    let _node = mesh.join("one");
    told.run(&socket, "martlet nodes");
    told.run(&socket, "martlet node remove one");
    told.run(&socket, "martlet node remove one");
    told.run(&socket, "martlet nodes");
    told.finish();
}
