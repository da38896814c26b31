//! Services of the node, found by their cgroups as a service manager makes them: with a network
//! namespace of their own they are workloads, without one they are refused.

use std::time::Duration;

use anyhow::{Context as _, Result};
use martlet_lab::{Agent, Cluster, Lab, Pod, Response, assert_exchanged, assert_refused, wait_for};
use martlet_tests_kernel::secrets::{Memory, Scalar};
use serde_json::Value;

const WAIT: Duration = Duration::from_secs(30);

/// What an agent says about a workload.
fn workload(agent: &Agent, name: &str) -> Result<Value> {
    let workloads = agent.get("/workloads")?;
    let mut all = workloads["workloads"].as_array().context("there are workloads")?.iter();
    let found = all.find(|workload| workload["name"]["name"] == name);
    Ok(found.context("there is no such workload")?.clone())
}

fn wait_until_steered(agent: &Agent, name: &str) -> Result<()> {
    let mut latest = Value::Null;
    let found = wait_for(&format!("{name} to be enrolled"), WAIT, || {
        // An agent that is starting may not answer, or not know of it yet.
        let Ok(now) = workload(agent, name) else { return Ok(None) };
        latest = now;
        Ok((latest["state"] == "steered").then_some(()))
    });
    found.with_context(|| format!("{latest:#}"))
}

/// Of the only workload's certificate.
fn serial(agent: &Agent) -> Result<String> {
    let certificates = agent.get("/certificates")?;
    let serial = certificates["leaves"][0]["chain"][0]["serial"].as_str();
    Ok(serial.with_context(|| format!("{certificates:#}"))?.to_owned())
}

fn keys(agent: &Agent) -> Result<Vec<Scalar>> {
    let all = Memory::of(agent.pid().context("the agent runs")?)?.keys()?.into_iter();
    Ok(all.filter(|(name, _)| name.contains("/ns/")).flat_map(|(_, keys)| keys).collect())
}

fn assert_reaches(from: &Pod, to: &Pod, server: &martlet_lab::Server) -> Result<()> {
    let client = from.connect(to.application(), &["--then", "duplex", "--bytes", "1000"])?;
    let local = client["local"].as_str().context("the client has no address")?.parse()?;
    assert_exchanged(&client, &server.saw(local)?);
    Ok(())
}

#[test]
fn a_service_with_a_namespace_of_its_own_is_a_workload_and_another_one_after_its_restart()
-> Result<()> {
    let lab = Lab::new()?;
    let mut cluster = Cluster::prepare(&lab, "a", 2)?;
    let (service, other) = (cluster.pod("a1")?.clone(), cluster.pod("a2")?.clone());
    cluster.mesh.found_by_cgroup(&service);
    cluster.declare()?;
    for agent in &mut cluster.agents {
        agent.launch()?;
    }
    cluster.agent_mut("a2")?.wait_until_ready()?;
    let agent = cluster.agent("a1")?;
    // Before it runs there is nothing that could be enrolled. It may wait for its certificate first.
    wait_for("the agent to say that it waits for the service", WAIT, || {
        let Ok(workload) = workload(agent, "a1") else { return Ok(None) };
        let why = workload["reason"].as_str().unwrap_or_default();
        Ok(why.contains("has no processes").then_some(()))
    })?;
    let server = service.serve(&[])?;
    wait_until_steered(agent, "a1")?;
    assert_reaches(&other, &service, &server)?;
    let record = agent.wait_for_record("the exchange", |record| {
        record["reporter"] == "destination" && record["closed"] == "finished"
    })?;
    assert_eq!(record["protection"], "mutual_tls");
    assert_eq!(record["destination"]["identity"], cluster.mesh.identity("shop", "a1"));
    let (first, before) = (serial(agent)?, keys(agent)?);
    assert_eq!(before.len(), 1);
    // Its manager starts it again: the same cgroup, another namespace.
    drop(server);
    let service = service.replace("a1")?;
    let server = service.serve(&[])?;
    wait_for("another certificate for another life", WAIT, || {
        Ok(serial(agent).ok().filter(|now| *now != first).map(drop))
    })?;
    wait_until_steered(agent, "a1")?;
    // The old one may be there still, for lanes that have not noticed yet.
    assert!(keys(agent)?.iter().any(|key| !before.contains(key)));
    // Nobody may have said goodbye on the lane to the life before.
    assert_reaches(&other, &service, &server)?;
    assert_reaches(&service, &other, &other.serve(&[])?)
}

#[test]
fn a_service_in_the_hosts_namespace_is_refused_and_told_what_to_do_and_harms_nobody() -> Result<()>
{
    let lab = Lab::new()?;
    let mut cluster = Cluster::prepare(&lab, "a", 2)?;
    let node = cluster.agents[0].node().clone();
    let (near, other) = (node.pod("near")?, cluster.pod("a2")?.clone());
    let service = cluster.pod("a1")?.clone();
    cluster.mesh.found_by_cgroup(&service);
    cluster.mesh.enroll(&near, "shop", "near", "strict");
    cluster.declare()?;
    // In the cgroup of the service, and in the namespace of the node.
    let program = node.command_in("a1", martlet_lab::find_binary("lab-probe")?);
    let mut running = program.args(["serve", "--listen", "127.0.0.1:7070"]).spawn()?;
    running.wait_until_listening()?;
    for agent in &mut cluster.agents {
        agent.launch()?;
    }
    cluster.agent_mut("a2")?.wait_until_ready()?;
    let agent = cluster.agent("a1")?;
    wait_until_steered(agent, "near")?;
    let why = wait_for("the agent to say why", WAIT, || {
        Ok(workload(agent, "a1")?["reason"].as_str().map(str::to_owned))
    })?;
    for said in ["the node's own network namespace", "PrivateNetwork=", "NetworkNamespacePath="] {
        assert!(why.contains(said), "{said}: {why}");
    }
    let ready = agent.admin("/readyz")?;
    assert!(
        matches!(&ready, Response { status: 503, body } if body.contains("PrivateNetwork=")),
        "{ready:?}"
    );
    // No certificate was asked for, and all others are served.
    let leaves = agent.get("/certificates")?["leaves"].clone();
    assert_eq!(leaves.as_array().map(Vec::len), Some(1), "{leaves:#}");
    let server = near.serve(&[])?;
    assert_reaches(&other, &near, &server)?;
    assert_refused(&other.connect(service.application(), &["--then", "send", "--bytes", "9"])?);
    Ok(())
}
