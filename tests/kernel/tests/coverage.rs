//! What `martlet coverage` says, with real agents on two nodes, real programs and real TLS.

use std::{net::SocketAddr, process::Output, time::Duration};

use anyhow::{Context as _, Result};
use martlet_lab::{Agent, PORT, Pod, Stage, find_binary, wait_for};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);
const SENT: u64 = 100_000;

fn send(from: &Pod, to: &Pod) -> Result<Value> {
    let to = SocketAddr::new(to.v4(), PORT);
    from.connect(to, &["--then", "send", "--bytes", "100000"])
}

/// One number of a pair; 0 if there is no such pair.
fn counted(agent: &Agent, from: &str, to: &str, column: &str, unit: &str) -> Result<u64> {
    let coverage = agent.get("/coverage")?;
    let is = |end: &Value, name: &str| match end.get("workload") {
        Some(workload) => workload["name"] == name,
        None => end == name,
    };
    let pairs = coverage["pairs"].as_array().context("there are pairs")?;
    let pair = pairs.iter().find(|pair| is(&pair["from"], from) && is(&pair["to"], to));
    pair.map_or(Ok(0), |pair| pair[column][unit].as_u64().context("a number"))
}

/// Asks the agent as a person does.
fn coverage(agent: &Agent, arguments: &[&str]) -> Result<Output> {
    let mut martlet = std::process::Command::new(find_binary("martlet")?);
    martlet.arg("coverage").arg("--socket").arg(agent.socket()).args(arguments);
    martlet.output().context("running martlet")
}

/// TLS adds to each record and at the beginning, but not as much as a tenth to so much.
fn is_encrypted(bytes: u64) -> bool {
    (SENT..SENT + SENT / 10).contains(&bytes)
}

#[test]
fn two_nodes_count_what_their_pods_send_each_other() -> Result<()> {
    let stage = Stage::set("strict")?;
    let _servers = [&stage.near, &stage.far].map(|pod| pod.serve(&["--then", "echo"]));
    let (caller, far) = (stage.caller.name(), stage.far.name());
    assert_eq!(send(&stage.caller, &stage.far)?["finished"], true);
    for agent in [&stage.one, &stage.two] {
        let there = counted(agent, caller, far, "mtls", "bytes")?;
        assert!(is_encrypted(there), "{there} bytes of mTLS");
        assert_eq!(counted(agent, caller, far, "mtls", "connections")?, 1);
        assert_eq!(counted(agent, far, caller, "mtls", "connections")?, 0, "opened by the caller");
        for column in ["plaintext", "unseen", "refused"] {
            assert_eq!(counted(agent, caller, far, column, "bytes")?, 0, "{column}");
        }
    }
    let one = counted(&stage.one, caller, far, "mtls", "bytes")?;
    assert_eq!(one, counted(&stage.two, caller, far, "mtls", "bytes")?, "both saw the same");
    assert_eq!(counted(&stage.one, "outside", far, "mtls", "bytes")?, 0);
    Ok(())
}

#[test]
fn the_command_lists_what_strict_would_refuse_and_tells_scripts() -> Result<()> {
    let mut stage = Stage::set("permissive")?;
    let _servers = [&stage.near, &stage.far].map(|pod| pod.serve(&["--then", "echo"]));
    let near = stage.near.name().to_owned();
    assert_eq!(send(&stage.caller, &stage.near)?["finished"], true);
    let quiet = coverage(&stage.one, &["--fail-on", "strict", "--fail-on", "plaintext"])?;
    assert_eq!(quiet.status.code(), Some(0), "{}", String::from_utf8_lossy(&quiet.stdout));
    let said = String::from_utf8(quiet.stdout)?;
    assert!(said.trim_end().ends_with("strict would refuse none of it"), "{said}");

    assert_eq!(send(&stage.stranger, &stage.near)?["finished"], true);
    assert_eq!(counted(&stage.one, "private", &near, "plaintext", "bytes")?, SENT);
    assert_eq!(counted(&stage.one, "private", &near, "plaintext", "connections")?, 1);
    let loud = coverage(&stage.one, &["--fail-on", "strict"])?;
    assert_eq!(loud.status.code(), Some(1));
    let said = String::from_utf8(loud.stdout)?;
    let first = said.lines().nth(1).context("a first pair")?;
    assert!(first.starts_with("(private)") && first.contains(&near), "{said}");
    assert!(said.trim_end().ends_with("strict would refuse plaintext of 1 pair"), "{said}");
    let plaintext = stage.one.metric("martlet_coverage_bytes_total", &["column=\"plaintext\""])?;
    assert!(plaintext >= SENT as f64, "{plaintext}");

    // Another agent shows what this one has counted, and goes on.
    stage.one.kill()?;
    stage.one.launch()?;
    stage.one.wait_until_ready()?;
    assert_eq!(counted(&stage.one, "private", &near, "plaintext", "bytes")?, SENT);
    wait_for("the next agent to serve", PATIENCE, || {
        Ok((send(&stage.stranger, &stage.near)?["finished"] == true).then_some(()))
    })?;
    assert_eq!(counted(&stage.one, "private", &near, "plaintext", "connections")?, 2);
    Ok(())
}
