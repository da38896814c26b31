//! What a reload changes about a workload that stays: who it is, where it is, and whom it trusts.

use std::{fs, net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use martlet_authority::Authority;
use martlet_lab::{Canaries, PORT, Pod, Sniffer, Stage, assert_refused, wait_for};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const SEND: [&str; 4] = ["--then", "send", "--bytes", "1000"];
const PATIENCE: Duration = Duration::from_secs(20);

fn flows(from: &Pod, to: &Pod) -> Result<bool> {
    let mut all = true;
    for ip in to.addresses() {
        let client = from.connect(SocketAddr::new(ip, PORT), &SEND)?;
        all &= client["received"] == 1000 && client["finished"] == true;
    }
    Ok(all)
}

/// Tells the caller's agent something else about the caller.
fn redeclare(stage: &mut Stage, change: impl FnOnce(&mut Value)) -> Result<()> {
    let mut file = stage.mesh.node_file(stage.one.node())?;
    let workloads = file["workloads"].as_array_mut().context("no workloads")?;
    let caller = workloads.iter_mut().find(|workload| workload["name"] == "caller");
    change(caller.context("the caller is not declared")?);
    stage.one.reload_text(&file.to_string())
}

/// The caller reaches the far pod by no means, and nothing of it is seen.
fn stays_closed(stage: &Stage) -> Result<()> {
    let canaries = Canaries::random(10);
    let file = stage.lab.directory().join("canaries");
    canaries.write_to(&file)?;
    let namespaces = [stage.lab.wire(), stage.one.node().netns(), stage.two.node().netns()];
    let sniffer = Sniffer::start(namespaces, &canaries)?;
    for ip in stage.far.addresses() {
        let asks = ["--then", "ask", "--canaries", &file.display().to_string()];
        assert_refused(&stage.caller.connect(SocketAddr::new(ip, PORT), &asks)?);
    }
    let capture = sniffer.stop()?;
    assert!(capture.found().is_empty(), "{} in plaintext", capture.found().len());
    Ok(())
}

#[test]
fn a_pod_that_is_declared_anew_and_cannot_be_enrolled_stays_closed() -> Result<()> {
    for mode in ["strict", "permissive"] {
        let mut stage = Stage::set(mode)?;
        let _server = stage.far.serve(&["--then", "echo"])?;
        assert!(flows(&stage.caller, &stage.far)?);
        redeclare(&mut stage, |caller| {
            caller["addresses"] = json!(["10.254.254.254", "fd00:254::1"]);
        })?;
        let status = stage.one.get("/status")?;
        assert_eq!(status["ready"], false, "the address is nowhere: {status}");
        stays_closed(&stage)?;
        // The next agent has only the file, in which the pod's own addresses are not.
        stage.one.kill()?;
        stage.one.launch()?;
        wait_for("the agent to answer", PATIENCE, || Ok(stage.one.get("/status").ok().map(drop)))?;
        stays_closed(&stage)?;
        stage.one.reload(&stage.mesh)?;
        assert!(flows(&stage.caller, &stage.far)?, "it is what it was");
    }
    Ok(())
}

#[test]
fn a_pod_that_gets_another_account_or_name_has_it_at_once() -> Result<()> {
    let mut stage = Stage::set("strict")?;
    let _server = stage.far.serve(&["--then", "echo"])?;
    assert!(flows(&stage.caller, &stage.far)?);
    for (key, value, account) in [
        ("serviceAccount", "admin", "admin"),
        ("name", "renamed", "cart"),
        ("mode", "permissive", "cart"),
    ] {
        redeclare(&mut stage, |caller| caller[key] = json!(value))?;
        let status = stage.one.get("/status")?;
        assert_eq!(status["ready"], true, "{key}: {status}");
        assert!(flows(&stage.caller, &stage.far)?, "{key}");
        let identity = stage.mesh.identity("shop", account);
        stage.two.wait_for_record(&identity, |record| record["source"]["identity"] == *identity)?;
    }
    Ok(())
}

#[test]
fn a_new_authority_gives_new_certificates_at_once() -> Result<()> {
    let stage = Stage::set("strict")?;
    let _server = stage.far.serve(&["--then", "echo"])?;
    assert!(flows(&stage.caller, &stage.far)?);
    let (directory, domain) = (stage.mesh.authority(), stage.mesh.trust_domain().parse()?);
    fs::remove_dir_all(directory)?;
    Authority::init(directory, &domain)?;
    for agent in [&stage.one, &stage.two] {
        let old = agent.get("/certificates")?["roots"].clone();
        agent.signal(Signal::SIGHUP)?;
        wait_for("the new root", PATIENCE, || {
            Ok((agent.get("/certificates")?["roots"] != old).then_some(()))
        })?;
    }
    wait_for("connections that the new authority proves", PATIENCE, || {
        Ok(flows(&stage.caller, &stage.far)?.then_some(()))
    })
}
