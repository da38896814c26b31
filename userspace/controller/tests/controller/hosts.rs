//! Hosts that have certificates of their owner's, and become nodes by them.

use std::{fs, os::unix::fs::PermissionsExt as _};

use martlet_control::Proof;
use martlet_identity::BundleDocument;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;
use tempfile::TempDir;

use crate::process::{Agent, Controller};

/// Who certifies hosts.
struct Owner(CertifiedIssuer<'static, KeyPair>);

impl Owner {
    fn new() -> Self {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        Self(CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap())
    }

    /// A controller that takes the hosts of an owner.
    fn controller(&self) -> Controller {
        let mut controller = Controller::prepare("a.org");
        let authorities = controller.directory.path().join("hosts.pem");
        fs::write(&authorities, self.0.pem()).unwrap();
        let authorities = authorities.display();
        controller
            .configure(&format!("hosts: {{ authorities: {authorities}, domain: example.org }}\n"));
        controller.launch();
        controller
    }

    /// A host with what it needs to join.
    fn host(&self, name: &str, controller: &Controller) -> TempDir {
        let directory = TempDir::new().unwrap();
        let key = KeyPair::generate().unwrap();
        let parameters = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = parameters.signed_by(&key, &*self.0).unwrap();
        fs::write(directory.path().join("host.pem"), certificate.pem()).unwrap();
        let key_file = directory.path().join("host.key");
        fs::write(&key_file, key.serialize_pem()).unwrap();
        fs::set_permissions(&key_file, fs::Permissions::from_mode(0o640)).unwrap();
        let exported = controller.json("/trust/export");
        let document = exported["document"].as_str().unwrap();
        let domain = "a.org".parse().unwrap();
        let roots = BundleDocument::parse(document.as_bytes(), &domain).unwrap().roots;
        let pem: String = roots.iter().map(|root| martlet_authority::pem(root)).collect();
        fs::write(directory.path().join("roots.pem"), pem).unwrap();
        directory
    }
}

fn join(directory: TempDir, node: &str, controller: &Controller) -> Agent {
    let at = |name| directory.path().join(name);
    let (certificate, key, roots) = (at("host.pem"), at("host.key"), at("roots.pem"));
    let proof = Proof::Host { certificate, key, roots };
    Agent::start_by(proof, "a.org", directory, node, controller.agents)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_with_a_certificate_of_its_owner_becomes_the_node_of_its_name() {
    let owner = Owner::new();
    let controller = owner.controller();
    let agent = join(owner.host("one.example.org", &controller), "one", &controller);
    agent.until_told(|all| all.local.len() == 1).await;
    agent.certificate("web").await.unwrap();
    agent.certificate("cart").await.unwrap_err();
    // Set up anew: another key of the node, by the same host.
    agent.stop().await;
    let again = join(owner.host("one.example.org", &controller), "one", &controller);
    again.until_told(|all| all.local.len() == 1).await;
    assert_eq!(controller.json("/nodes")["nodes"].as_array().map(Vec::len), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_host_and_another_owners_host_become_no_node() {
    let owner = Owner::new();
    let controller = owner.controller();
    let other = join(owner.host("two.example.org", &controller), "one", &controller);
    other.until_down("it is for two.example.org, not for one.example.org").await;
    let stranger = join(Owner::new().host("one.example.org", &controller), "one", &controller);
    stranger.until_down("does not lead to one of the authorities of hosts").await;
    let open = owner.host("one.example.org", &controller);
    fs::set_permissions(open.path().join("host.key"), fs::Permissions::from_mode(0o644)).unwrap();
    join(open, "one", &controller).until_down("may be read by everybody").await;
    assert_eq!(controller.json("/nodes")["nodes"].as_array().map(Vec::len), Some(0));
    let deaf = Controller::start();
    let host = join(owner.host("one.example.org", &deaf), "one", &deaf);
    host.until_down("takes no hosts' certificates").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_removed_comes_back_only_when_it_may() {
    let owner = Owner::new();
    let mut controller = owner.controller();
    let agent = join(owner.host("one.example.org", &controller), "one", &controller);
    agent.until_told(|all| all.local.len() == 1).await;
    controller.tell("/nodes/remove", &json!({ "node": "one" }));
    agent.until_down("node one was removed").await;
    controller.kill();
    controller.launch();
    let other = join(owner.host("one.example.org", &controller), "one", &controller);
    other.until_down("node one was removed").await;
    controller.token("one");
    let again = join(owner.host("one.example.org", &controller), "one", &controller);
    again.until_told(|all| all.local.len() == 1).await;
}

#[test]
fn authorities_of_hosts_that_cannot_be_read_are_named_at_the_start() {
    let controller = Controller::prepare("a.org");
    let path = controller.directory.path().join("hosts.pem");
    controller.configure(&format!("hosts: {{ authorities: {} }}\n", path.display()));
    assert!(controller.check().contains("hosts.pem"), "{}", controller.check());
    fs::write(&path, "no certificate").unwrap();
    assert!(controller.check().contains("it has no certificate"), "{}", controller.check());
}
