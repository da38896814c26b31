//! Who is not let in: plaintext where it is not wanted, whom a policy denies, and peers that are not
//! who they should be. Beside each stands who is.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use martlet_lab::{
    Mesh, PORT, Stage, address, assert_exchanged, assert_refused, saw_reset, wait_for,
};
use serde_json::{Value, json};

#[path = "support/certificates.rs"]
mod certificates;
#[path = "support/rogue.rs"]
mod rogue;

use certificates::{EXPIRED, NOT_YET_VALID, Shown, Signer, VALID};
use rogue::{Guise, LANE};

const SEND: [&str; 4] = ["--then", "send", "--bytes", "1000"];
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn strict_refuses_plaintext_while_mtls_callers_use_the_same_port() -> Result<()> {
    let stage = Stage::set("strict")?;
    let server = stage.far.serve(&["--then", "echo"])?;
    for way in stage.direct_ways_to(&stage.far) {
        let before = stage.two.verdicts("lookup", "refused_plaintext")?;
        let client = stage.stranger.connect(way.to, &SEND)?;
        assert_eq!(client["error"], "ECONNREFUSED", "{client}");
        assert_eq!(stage.two.verdicts("lookup", "refused_plaintext")?, before + 1);
        let client = stage.caller.connect(way.to, &SEND)?;
        let from = address(&client["local"]).context("the client has no address")?;
        assert_exchanged(&client, &server.saw(from)?);
    }
    assert_eq!(server.seen().len(), 2, "the application has seen the enrolled caller only");
    assert_eq!(stage.two.metric("martlet_plaintext_connections_total", &["inbound"])?, 0.0);
    Ok(())
}

#[test]
fn permissive_lets_plaintext_in_and_counts_it_while_mtls_callers_use_the_same_port() -> Result<()> {
    let stage = Stage::set("permissive")?;
    let server = stage.far.serve(&["--then", "echo"])?;
    for (number, way) in stage.direct_ways_to(&stage.far).iter().enumerate() {
        for pod in [&stage.stranger, &stage.caller] {
            let client = pod.connect(way.to, &SEND)?;
            let from = address(&client["local"]).context("the client has no address")?;
            let seen = server.saw(from)?;
            assert_exchanged(&client, &seen);
            assert_eq!(address(&seen["peer"]), Some(from), "{seen}");
        }
        let counted = number + 1;
        assert_eq!(stage.two.verdicts("lookup", "passed_plaintext")?, counted as u64);
        assert_eq!(stage.two.verdicts("lookup", "to_inbound")?, counted as u64);
        let plaintext = stage.two.metric("martlet_plaintext_connections_total", &["inbound"])?;
        assert_eq!(plaintext, counted as f64);
    }
    assert_eq!(stage.two.verdicts("lookup", "refused_plaintext")?, 0);
    Ok(())
}

fn deny_cart(mesh: &mut Mesh) {
    let cart = mesh.identity("shop", "cart");
    mesh.policy(json!({
        "namespace": "shop", "name": "keep-out", "action": "deny",
        "selector": { "serviceAccounts": ["web"] },
        "rules": [{ "name": "no-cart", "from": { "identities": [cart] }, "ports": [PORT] }],
    }));
}

/// Both agents know it: the caller's refuses before anything is dialed.
#[test]
fn a_denied_caller_is_refused_by_its_own_agent_with_the_rules_name() -> Result<()> {
    let mut stage = Stage::prepare("strict", deny_cart)?;
    stage.launch()?;
    for way in stage.ways() {
        let server = way.callee.serve(&["--then", "echo"])?;
        assert_refused(&stage.caller.connect(way.to, &SEND)?);
        let record = stage
            .one
            .wait_for_record("the denial", |record| record["origin"] == way.to.to_string())?;
        assert_eq!(record["closed"], "denied", "{record}");
        assert_eq!(record["policy"], "shop/keep-out: no-cart", "{record}");
        // Not selected by the rule: another port, and another caller.
        assert_eq!(server.seen(), [] as [Value; 0]);
        drop(server);
        let other = SocketAddr::new(way.endpoint.ip(), PORT + 1);
        let server = way.callee.serve_on(&[other], &["--then", "echo"])?;
        let client = stage.caller.connect(other, &SEND)?;
        assert_exchanged(&client, &server.saw_nth(0)?);
    }
    Ok(())
}

/// Only the far agent knows it: it decides, and tells the caller's why.
#[test]
fn the_far_agent_decides_and_both_records_name_the_rule() -> Result<()> {
    let mut stage = Stage::set("strict")?;
    let server = stage.far.serve(&["--then", "echo"])?;
    let mut stricter = stage.mesh.clone();
    deny_cart(&mut stricter);
    stage.two.reload(&stricter)?;
    for way in stage.ways_to(&stage.far) {
        let client = stage.caller.connect(way.to, &SEND)?;
        assert_refused(&client);
        for record in stage.records(&client, &stage.far)? {
            assert_eq!(record["closed"], "denied", "{record}");
            assert_eq!(record["policy"], "shop/keep-out: no-cart", "{record}");
            let identity = |name: &str| stage.mesh.identity("shop", name);
            assert_eq!(record["source"]["identity"], identity("cart"), "{record}");
            assert_eq!(record["destination"]["identity"], identity("web"), "{record}");
        }
    }
    assert_eq!(server.seen(), [] as [Value; 0], "no byte has reached the application");
    stage.two.reload(&stage.mesh)?;
    let client = stage.caller.connect(SocketAddr::new(stage.far.v4(), PORT), &SEND)?;
    assert_exchanged(&client, &server.saw_nth(0)?);
    Ok(())
}

#[test]
fn where_something_is_allowed_everything_else_is_refused() -> Result<()> {
    let mut stage = Stage::prepare("strict", |mesh| {
        let web = mesh.identity("shop", "web");
        mesh.policy(json!({
            "namespace": "shop", "name": "only-web", "action": "allow",
            "rules": [{ "from": { "identities": [web] } }],
        }));
    })?;
    stage.launch()?;
    let server = stage.far.serve(&["--then", "echo"])?;
    for (number, way) in stage.direct_ways_to(&stage.far).iter().enumerate() {
        assert_refused(&stage.caller.connect(way.to, &SEND)?);
        let record = stage.one.wait_for_record("the denial", |record| {
            record["origin"] == way.to.to_string() && record["closed"] == "denied"
        })?;
        assert_eq!(record["policy"], "shop/only-web: no rule allows", "{record}");
        let client = stage.near.connect(way.to, &SEND)?;
        assert_exchanged(&client, &server.saw_nth(number)?);
    }
    Ok(())
}

/// Certificates, good and bad, for this identity.
struct Wardrobe {
    good: Shown,
    other_identity: Shown,
    other_root: Shown,
    other_domain: Shown,
    other_domain_by_our_issuer: Shown,
    expired: Shown,
    not_yet_valid: Shown,
    two_names: Shown,
    no_name: Shown,
    no_spiffe_name: Shown,
    authority: Shown,
}

impl Wardrobe {
    fn new(stage: &Stage) -> Result<Wardrobe> {
        let web = &*stage.mesh.identity("shop", "web");
        let cart = &*stage.mesh.identity("shop", "cart");
        let foreign = "spiffe://other.example/ns/shop/sa/web";
        let directory = |name: &str| stage.lab.directory().join(name);
        let ours = Signer::issuer_of(stage.mesh.authority(), &directory("stolen"))?;
        let same_name = Signer::root(&directory("same-name"), "lab.martlet.dev root")?;
        let other = Signer::root(&directory("other"), "other.example root")?;
        Ok(Wardrobe {
            good: ours.sign("good", &[web], VALID, false)?,
            other_identity: ours.sign("other-identity", &[cart], VALID, false)?,
            other_root: same_name.sign("other-root", &[web], VALID, false)?,
            other_domain: other.sign("other-domain", &[foreign], VALID, false)?,
            other_domain_by_our_issuer: ours.sign("foreign", &[foreign], VALID, false)?,
            expired: ours.sign("expired", &[web], EXPIRED, false)?,
            not_yet_valid: ours.sign("not-yet-valid", &[web], NOT_YET_VALID, false)?,
            two_names: ours.sign("two-names", &[web, cart], VALID, false)?,
            no_name: ours.sign("no-name", &[], VALID, false)?,
            no_spiffe_name: ours.sign("no-spiffe", &["https://web.shop"], VALID, false)?,
            authority: ours.sign("authority", &[web], VALID, true)?,
        })
    }

    /// Wrong whichever side shows it.
    fn wrong(&self) -> Vec<(&'static str, Guise, &'static str)> {
        let plain = |shown: &Shown| Guise::of(shown);
        vec![
            ("another root of the same name", plain(&self.other_root), "peer_untrusted"),
            ("another trust domain", plain(&self.other_domain), "peer_wrong_trust_domain"),
            (
                "another trust domain by our issuer",
                plain(&self.other_domain_by_our_issuer),
                "peer_wrong_trust_domain",
            ),
            ("expired", plain(&self.expired), "peer_expired"),
            ("not yet valid", plain(&self.not_yet_valid), "peer_expired"),
            ("two names", plain(&self.two_names), "peer_identity_invalid"),
            ("no name", plain(&self.no_name), "peer_identity_invalid"),
            ("no SPIFFE name", plain(&self.no_spiffe_name), "peer_identity_invalid"),
            ("an authority", plain(&self.authority), "peer_untrusted"),
            ("no protocol", Guise { protocol: None, ..plain(&self.good) }, "peer_without_protocol"),
        ]
    }
}

/// The agent of node two is never started: `far` is a rogue with an enrolled pod's address.
fn stage_with_a_rogue() -> Result<(Stage, Wardrobe)> {
    let mut stage = Stage::prepare("strict", |_| {})?;
    stage.one.launch()?;
    stage.one.wait_until_ready()?;
    let wardrobe = Wardrobe::new(&stage)?;
    Ok((stage, wardrobe))
}

fn next_record(stage: &Stage, before: usize) -> Result<Value> {
    wait_for("the next record", PATIENCE, || Ok(stage.one.records()?.into_iter().nth(before)))
}

#[test]
fn wrong_callers_are_refused_before_an_application_byte() -> Result<()> {
    let (stage, wardrobe) = stage_with_a_rogue()?;
    let server = stage.near.serve(&["--then", "once"])?;
    let (good, id) = (Guise::of(&wardrobe.good), 0x1234_5678_9abc_def0);
    let says = rogue::request(4321, id, b"a canary of the rogue");
    let mut wrong = wardrobe.wrong();
    let nobody = Guise { shown: None, protocol: Some(LANE), options: &[] };
    wrong.push(("no certificate", nobody, "peer_without_certificate"));
    let h2 = Guise { protocol: Some("h2"), ..Guise::of(&wardrobe.good) };
    wrong.push(("another protocol", h2, "peer_without_protocol"));
    let old = Guise { options: &["-tls1_2"], ..Guise::of(&wardrobe.good) };
    wrong.push(("TLS 1.2", old, "handshake_failed"));
    for (family, ip) in stage.near.addresses().into_iter().enumerate() {
        let to = SocketAddr::new(ip, PORT);
        for (case, guise, expected) in &wrong {
            let before = stage.one.records()?.len();
            let caller = rogue::call(&stage.far, to, guise, &says)?;
            let record = next_record(&stage, before).with_context(|| format!("{case}, {to}"))?;
            assert_eq!(record["closed"], *expected, "{case}: {record}");
            assert_eq!(record["reporter"], "destination", "{case}: {record}");
            assert_eq!(record["bytes_sent"], 0, "{case}: {record}");
            let caller = caller.wait(PATIENCE).with_context(|| format!("{case}, {to}"))?;
            assert!(!caller.stdout.contains("canary"), "{case}: {}", caller.stdout);
        }
        // Not even TLS.
        let before = stage.one.records()?.len();
        let client = stage.far.connect(to, &["--then", "duplex", "--bytes", "1000"])?;
        assert!(saw_reset(&client) || client["finished"] == true, "{client}");
        assert_eq!(next_record(&stage, before)?["closed"], "handshake_failed");
        assert_eq!(server.seen().len(), family, "the application has seen no rogue");
        // The same rogue in the right guise is let in: the cases differ in nothing else.
        let caller = rogue::call(&stage.far, to, &good, &says)?;
        let seen = server.saw_nth(family)?;
        assert_eq!(seen["beginning"], "a canary of the rogue", "{seen}");
        let from = SocketAddr::new(stage.far.addresses()[family], 4321);
        assert_eq!(address(&seen["peer"]), Some(from), "{seen}");
        wait_for("the answer", PATIENCE, || {
            let answer = caller.stdout_bytes();
            Ok(answer.windows(6).any(|six| six == b"canary").then_some(()))
        })?;
        let record = stage.one.wait_for_record("the good caller", |record| {
            record["id"] == format!("{id:016x}")
                && address(&record["source"]["address"]) == Some(from)
        })?;
        assert_eq!(record["source"]["identity"], stage.mesh.identity("shop", "web"), "{record}");
    }
    Ok(())
}

#[test]
fn wrong_servers_are_refused_before_an_application_byte() -> Result<()> {
    let (stage, wardrobe) = stage_with_a_rogue()?;
    let mut wrong = wardrobe.wrong();
    wrong.push(("another identity", Guise::of(&wardrobe.other_identity), "peer_unexpected"));
    let old = Guise { options: &["-tls1_2"], ..Guise::of(&wardrobe.good) };
    // It ends the handshake itself: the caller offers nothing that it knows.
    wrong.push(("TLS 1.2", old, "refused_by_peer"));
    let client_says = ["--then", "duplex", "--bytes", "1000"];
    for way in stage.direct_ways_to(&stage.far) {
        for (case, guise, expected) in &wrong {
            let case = format!("{case}, {}", way.to);
            let before = stage.one.records()?.len();
            let server = rogue::answer(&stage.far, way.to, guise)?;
            let client = stage.caller.connect(way.to, &client_says)?;
            assert_refused(&client);
            let record = next_record(&stage, before).context(case.clone())?;
            assert_eq!(record["closed"], *expected, "{case}: {record}");
            assert_eq!(record["reporter"], "source", "{case}: {record}");
            assert_eq!(record["bytes_sent"], 0, "{case}: {record}");
            assert!(server.stdout_bytes().is_empty(), "{case}: the rogue has learned something");
        }
        // Not even TLS: what it sends first is no answer to a ClientHello.
        let before = stage.one.records()?.len();
        let plain = stage.far.serve(&["--then", "greet"])?;
        assert_refused(&stage.caller.connect(way.to, &client_says)?);
        assert_eq!(next_record(&stage, before)?["closed"], "handshake_failed");
        drop(plain);
        // The right guise is spoken to: OPEN and the application's bytes arrive.
        let server = rogue::answer(&stage.far, way.to, &Guise::of(&wardrobe.good))?;
        let to = way.to.to_string();
        let arguments = ["connect", "--to", &to, "--then", "duplex", "--bytes", "1000"];
        let before = stage.one.records()?.len();
        let client = stage.caller.probe(&arguments)?.spawn()?;
        wait_for("the rogue in the right guise to be spoken to", PATIENCE, || {
            Ok((server.stdout_bytes().len() >= 4 + 10 + 4 + 1000).then_some(()))
        })?;
        assert_eq!(server.stdout_bytes()[..4], [1, 0, 0, 10], "OPEN");
        client.kill()?;
        drop(server);
        assert_eq!(next_record(&stage, before)?["protection"], "mutual_tls");
    }
    Ok(())
}
