//! Several nodes that follow one controller: who gets an identity, and what goes on without it.

use anyhow::{Context as _, Result};
use martlet_lab::{
    Agent, Cluster, Lab, Pod, Response, assert_exchanged, assert_refused, evidence, wait_for,
};
use serde_json::Value;

/// A client of one pod asks another, and both ends have seen everything.
fn exchange(from: &Pod, to: &Pod) -> Result<[Value; 2]> {
    let server = to.serve(&[])?;
    let client = from.connect(to.application(), &["--then", "duplex", "--bytes", "100000"])?;
    let local = client["local"].as_str().context("the client has no address")?.parse()?;
    Ok([client, server.saw(local)?])
}

/// The serial number of a workload's certificate.
fn serial(agent: &Agent, name: &str) -> Result<String> {
    let certificates = agent.get("/certificates")?;
    let leaves = certificates["leaves"].as_array().context("there are leaves")?;
    let leaf = leaves.iter().find(|leaf| leaf["workload"]["name"] == name);
    let serial = leaf.and_then(|leaf| leaf["chain"][0]["serial"].as_str());
    Ok(serial.context("there is no such leaf")?.to_owned())
}

/// As it is for a pod of which nothing is known.
fn assert_not_connected(from: &Pod, to: &Pod) -> Result<()> {
    let client = from.connect(to.application(), &["--then", "duplex", "--bytes", "1"])?;
    assert_eq!(client["connected"], false, "{client}");
    Ok(())
}

fn is_ready(agent: &Agent) -> bool {
    matches!(agent.admin("/readyz"), Ok(Response { status: 200, .. }))
}

fn wait_until_connected(agent: &Agent) -> Result<()> {
    wait_for("the agent to be connected to its controller", martlet_lab::patience(WAIT), || {
        let status = agent.get("/status")?;
        let controller = &status["controller"];
        Ok((controller.is_object() && controller["away"].is_null()).then_some(()))
    })
}

const WAIT: std::time::Duration = std::time::Duration::from_secs(20);

#[test]
fn nodes_that_joined_speak_mtls_with_identities_of_the_controllers_authority() -> Result<()> {
    let lab = Lab::new()?;
    let cluster = Cluster::start(&lab, "a", 2)?;
    for (from, to) in [("a1", "a2"), ("a2", "a1")] {
        let [client, server] = exchange(cluster.pod(from)?, cluster.pod(to)?)?;
        assert_exchanged(&client, &server);
        let record = cluster.agent(to)?.wait_for_record("the exchange", |record| {
            record["reporter"] == "destination" && record["closed"] == "finished"
        })?;
        let identity = cluster.mesh.identity("shop", from);
        assert_eq!(record["source"]["identity"], identity.as_str());
        assert_eq!(record["protection"], "mutual_tls");
    }
    Ok(())
}

#[test]
fn a_node_without_a_good_token_enrolls_nothing_and_says_why() -> Result<()> {
    let lab = Lab::new()?;
    let mut cluster = Cluster::prepare(&lab, "a", 2)?;
    let [one, two] = cluster.agents.as_mut_slice() else { unreachable!("there are two nodes") };
    one.launch()?;
    one.wait_until_ready()?;
    // The first one's token, which is used and for another node.
    let used = one.node().directory()?.join("token");
    std::fs::copy(used, two.node().directory()?.join("token"))?;
    two.launch()?;
    let why = wait_for("the second node to say why it is not ready", WAIT, || {
        let Ok(status) = two.get("/status") else { return Ok(None) };
        let away = status["controller"]["away"].as_str().unwrap_or_default();
        Ok(away.contains("token").then(|| status["not_ready"].to_string()))
    })?;
    assert!(why.contains("the controller has not said who is in the mesh yet"), "{why}");
    assert!(!is_ready(two));
    let server = cluster.pods[1].serve(&[])?;
    assert_refused(
        &cluster.pods[0]
            .connect(cluster.pods[1].application(), &["--then", "duplex", "--bytes", "1"])?,
    );
    drop(server);
    Ok(())
}

#[test]
fn without_the_controller_all_goes_on_also_after_an_agent_was_killed() -> Result<()> {
    let lab = Lab::new()?;
    let mut cluster = Cluster::start(&lab, "a", 2)?;
    cluster.controller.kill()?;
    let before = serial(cluster.agent("a1")?, "a1")?;
    for round in 0..3 {
        let agent = cluster.agent_mut("a1")?;
        agent.kill()?;
        agent.restart().with_context(|| format!("restart {round}"))?;
        assert_eq!(serial(agent, "a1")?, before, "the certificate of the killed process");
        for (from, to) in [("a1", "a2"), ("a2", "a1")] {
            let [client, server] = exchange(cluster.pod(from)?, cluster.pod(to)?)?;
            assert_exchanged(&client, &server);
        }
    }
    evidence(
        "without_the_controller_all_goes_on_also_after_an_agent_was_killed",
        &[("restarts without a controller", &3), ("connections refused", &0)],
    )?;
    cluster.controller.launch()?;
    wait_until_connected(cluster.agent("a1")?)?;
    wait_until_connected(cluster.agent("a2")?)
}

#[test]
fn what_the_controller_declares_is_taken_over_and_what_it_withdraws_is_forgotten() -> Result<()> {
    let lab = Lab::new()?;
    let mut cluster = Cluster::start(&lab, "a", 2)?;
    let extra = cluster.agents[1].node().pod("extra")?;
    assert_not_connected(&extra, cluster.pod("a1")?)?;
    cluster.mesh.enroll(&extra, "shop", "extra", "strict");
    cluster.declare()?;
    let agent = cluster.agent("a2")?;
    wait_for("the new pod to be enrolled", WAIT, || {
        Ok(serial(agent, "extra").ok().filter(|_| is_ready(agent)))
    })?;
    let [client, server] = exchange(&extra, cluster.pod("a1")?)?;
    assert_exchanged(&client, &server);
    cluster.mesh.withdraw(&extra);
    cluster.declare()?;
    let agent = cluster.agent("a2")?;
    wait_for("the pod to be withdrawn", WAIT, || {
        Ok(serial(agent, "extra").is_err().then_some(()))
    })?;
    assert_not_connected(&extra, cluster.pod("a1")?)?;
    Ok(())
}

#[test]
fn a_node_that_is_uninstalled_keeps_nothing_of_its_controller() -> Result<()> {
    let lab = Lab::new()?;
    let mut cluster = Cluster::start(&lab, "a", 1)?;
    let agent = &mut cluster.agents[0];
    let (directory, pin) = (agent.node().directory()?, agent.node().pin());
    let keyring = martlet_kernel::Keyring::of_all(&pin);
    assert_eq!(keyring.names()?.len(), 1);
    agent.kill()?;
    let program = agent.node().command(martlet_lab::find_binary("martlet-agent")?);
    let finished = program.arg("--config").arg(agent.file()).args(["uninstall"]).run()?;
    assert!(finished.stdout.contains(":shop/a1@"), "{}", finished.stdout);
    assert!(finished.stdout.contains("node.pb"), "{}", finished.stdout);
    assert_eq!(keyring.names()?, Vec::<String>::new());
    assert!(!directory.join("state").exists());
    Ok(())
}
