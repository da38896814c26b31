//! A rotation of the root goes on when everybody can follow, and not before; whatever is killed.

use std::time::SystemTime;

use martlet_authority::{Authority, sign_issuer};
use martlet_control::Usage;
use martlet_identity::RootPin;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::Controller;

/// The roots that are trusted.
fn roots(controller: &Controller) -> Vec<String> {
    let trust = controller.json("/trust");
    let roots = trust["roots"].as_array().unwrap().iter();
    roots.map(|root| root["certificate"]["fingerprint"].as_str().unwrap().to_owned()).collect()
}

fn waits_for(controller: &Controller, what: &str) -> bool {
    let rotation = controller.rotation();
    let waits = rotation["waits_for"].as_array();
    waits.is_some_and(|all| all.iter().any(|one| one.as_str().unwrap().contains(what)))
}

#[tokio::test]
async fn a_rotation_waits_for_every_node_and_survives_the_death_of_the_controller() {
    let mut controller = Controller::start();
    let (one, two) = (controller.node("one"), controller.node("two"));
    one.until_told(|_| true).await;
    two.until_told(|_| true).await;
    let old = roots(&controller);
    let issuer = controller.json("/trust")["issuers"][0]["certificate"]["fingerprint"].clone();
    let issuer = issuer.as_str().unwrap().to_owned();
    // Node two has a certificate that it will not give up, and does not acknowledge anything.
    two.obeys.send_replace(false);
    let used = Usage { leaves: [(issuer.clone(), 1)].into(), ..Usage::default() };
    two.client.report_usage(used);

    controller.tell("/trust/rotate", &Value::Null);
    assert_eq!(controller.post("/trust/rotate", &Value::Null).0, 409, "one at a time");
    controller.until("it waits for node two", |c| waits_for(c, "two")).await;
    one.until_told(|all| all.trust.roots.values().next().unwrap().len() == 2).await;
    controller.kill();
    controller.launch();
    assert_eq!(controller.rotation()["step"], "staged", "it goes on where it was");
    assert_eq!(roots(&controller).len(), 2);
    controller.until("it waits again", |c| waits_for(c, "two")).await;

    two.obeys.send_replace(true);
    controller.until("the new root issues", |c| c.rotation()["step"] == "switched").await;
    controller.until("it waits for the certificate of two", |c| waits_for(c, "two")).await;
    one.certificate("web").await.unwrap();
    controller.kill();
    controller.launch();
    assert_eq!(controller.rotation()["step"], "switched");

    // The nodes' own certificates are renewed by themselves; that of the workload now too.
    two.client.report_usage(Usage::default());
    controller.until("the old root is retired", |c| c.rotation().is_null()).await;
    let new = roots(&controller);
    assert_eq!(new.len(), 1);
    assert_ne!(new, old);
    one.until_told(|all| {
        let roots = all.trust.roots.values().next().unwrap();
        roots.len() == 1 && RootPin::of(&roots[0]).to_string() == new[0]
    })
    .await;
    // Both go on, and a new one joins by the new root.
    one.certificate("web").await.unwrap();
    two.certificate("cart").await.unwrap();
    let three = controller.node("three");
    three.until_told(|all| all.local.is_empty()).await;
}

#[tokio::test]
async fn a_rotation_is_paused_taken_back_and_forced() {
    let controller = Controller::start();
    let one = controller.node("one");
    one.until_told(|_| true).await;
    let old = roots(&controller);
    assert_eq!(controller.post("/trust/pause", &Value::Null).0, 409, "there is none");
    one.obeys.send_replace(false);
    controller.tell("/trust/rotate", &Value::Null);
    controller.tell("/trust/pause", &Value::Null);
    one.obeys.send_replace(true);
    controller.until("it waits for nobody but us", |c| !waits_for(c, "one")).await;
    assert_eq!(controller.rotation()["is_paused"], true);
    assert_eq!(controller.rotation()["step"], "staged");
    controller.tell("/trust/resume", &Value::Null);
    controller.until("it goes on to its end", |c| c.rotation().is_null()).await;
    let second = roots(&controller);
    assert_ne!(second, old);

    controller.tell("/trust/rotate", &Value::Null);
    controller.tell("/trust/back", &Value::Null);
    controller.until("it is taken back", |c| c.rotation().is_null()).await;
    assert_eq!(roots(&controller), second);

    one.obeys.send_replace(false);
    controller.tell("/trust/rotate", &Value::Null);
    controller.until("it waits for one", |c| waits_for(c, "one")).await;
    let told = controller.tell("/trust/force", &json!(null));
    let broken = told["broken"].as_array().unwrap();
    assert!(broken.iter().any(|what| what.as_str().unwrap().contains("one")), "{told}");
    assert_eq!(controller.rotation()["step"], "switched");
}

/// An authority in a directory of its own: a root, and its key.
fn vault(domain: &str) -> TempDir {
    let place = TempDir::new().unwrap();
    Authority::init(place.path(), &domain.parse().unwrap()).unwrap();
    place
}

fn read(place: &TempDir, name: &str) -> String {
    std::fs::read_to_string(place.path().join(name)).unwrap()
}

#[tokio::test]
async fn a_rotation_to_an_offline_root_goes_on_after_a_death_at_each_step() {
    let (mut controller, vault) = (Controller::start(), vault("a.org"));
    let one = controller.node("one");
    one.until_told(|_| true).await;
    let old = roots(&controller);
    assert_eq!(controller.post("/trust/csr", &json!({})).0, 409, "this root's key is here");
    let root = json!({ "certificates": read(&vault, "root.crt"), "key": "elsewhere" });
    controller.tell("/trust/rotate", &root);
    assert_eq!(controller.post("/trust/rotate", &root).0, 409, "one at a time");
    controller.until("an issuer is awaited", |c| waits_for(c, "martlet trust csr")).await;
    assert_eq!(controller.post("/trust/force", &Value::Null).0, 409, "there is nothing to force");
    controller.kill();
    controller.launch();
    assert!(waits_for(&controller, "martlet trust csr"));

    let asked = controller.tell("/trust/csr", &json!({}))["request"].clone();
    controller.kill();
    controller.launch();
    let again = controller.tell("/trust/csr", &json!({}))["request"].clone();
    let (asked, again) = (asked.as_str().unwrap(), again.as_str().unwrap());
    let sign = |request: &str| {
        let domain = "a.org".parse().unwrap();
        sign_issuer(vault.path(), &domain, request.as_bytes(), SystemTime::now()).unwrap()
    };
    let strange = self::vault("a.org");
    let domain = "a.org".parse().unwrap();
    let forged = sign_issuer(strange.path(), &domain, again.as_bytes(), SystemTime::now()).unwrap();
    for (certificate, why) in [
        (forged, "is not signed by this root"),
        (read(&strange, "issuer.crt"), "another key than the key file"),
        ("nonsense".to_owned(), "cannot be read as PEM"),
        (String::new(), "no certificate in it"),
    ] {
        let body = json!({ "certificate": certificate });
        let (status, said) = controller.post("/trust/install", &body);
        assert!(status >= 400 && said.contains(why), "{status} {said}, not {why}");
        assert!(waits_for(&controller, "martlet trust csr"));
    }
    // It is the same key: what was signed for the first request is good for the second.
    controller.tell("/trust/install", &json!({ "certificate": sign(asked) }));
    controller.kill();
    controller.launch();
    one.until_told(|all| all.trust.issuer.is_some()).await;
    controller.until("the old root is retired", |c| c.rotation().is_null()).await;
    assert_ne!(roots(&controller), old);
    assert_eq!(controller.json("/trust")["roots"][0]["key"], "elsewhere");
    one.certificate("web").await.unwrap();
}

#[tokio::test]
async fn a_root_that_is_brought_is_rotated_to_with_its_key_or_by_a_command() {
    let controller = Controller::start();
    let one = controller.node("one");
    one.until_told(|_| true).await;
    let (first, second) = (vault("a.org"), vault("a.org"));
    let here = |of: &TempDir, key: &TempDir| json!({ "certificates": read(of, "root.crt"), "key": { "here": read(key, "root.key") } });
    let refused = |root: &Value, why: &str| {
        let (status, said) = controller.post("/trust/rotate", root);
        assert!(status >= 400 && said.contains(why), "{status} {said}, not {why}");
        assert!(controller.rotation().is_null());
    };
    refused(&here(&first, &second), "is that of none of the roots");
    let issuer = json!({ "certificates": read(&first, "issuer.crt"), "key": "elsewhere" });
    refused(&issuer, "below which no issuer may be");
    controller.tell("/trust/rotate", &here(&first, &first));
    controller.until("the brought root issues alone", |c| c.rotation().is_null()).await;
    assert_eq!(controller.json("/trust")["roots"][0]["key"], "here");
    refused(&here(&first, &first), "a root is rotated to another key");

    let signer = |key: &TempDir| {
        let key = key.path().join("root.key").display().to_string();
        let settings =
            format!("root: {{ signer: [/usr/bin/openssl, dgst, -sha256, -sign, {key}] }}");
        json!({ "certificates": read(&second, "root.crt"), "key": { "command": settings } })
    };
    refused(&signer(&first), "not by the key of the certificate");
    controller.tell("/trust/rotate", &signer(&second));
    controller.until("the command signs", |c| c.rotation().is_null()).await;
    assert_eq!(controller.json("/trust")["roots"][0]["key"], "command");
    one.certificate("web").await.unwrap();
}
