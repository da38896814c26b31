//! Keys of workloads whose agent follows a controller: in its memory once, in the kernel's keyring,
//! and nowhere else, also after it was killed and has started again.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use martlet_kernel::Keyring;
use martlet_lab::{Agent, Cluster, Lab, Pod, assert_exchanged, evidence, wait_for};
use martlet_tests_kernel::secrets::{Memory, Scalar, Secrets};

const ANSWERS: [&str; 5] = ["/status", "/workloads", "/certificates", "/check", "/records"];

fn memory(agent: &Agent) -> Result<Memory> {
    Memory::of(agent.pid().context("the agent runs")?)
}

/// Of workloads, and not of the node itself.
fn keys(agent: &Agent) -> Result<Vec<Scalar>> {
    let all = memory(agent)?.keys()?.into_iter();
    Ok(all.filter(|(name, _)| name.contains("/ns/")).flat_map(|(_, keys)| keys).collect())
}

fn files(directory: &Path, found: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let (entry, path) = {
            let entry = entry?;
            (entry.file_type()?, entry.path())
        };
        match entry {
            kind if kind.is_dir() => files(&path, found)?,
            // What is pinned on the bpffs can't be read as a file.
            kind if kind.is_file() => {
                found.extend(fs::read(&path).ok().map(|bytes| (path.display().to_string(), bytes)));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Everything that a key could have got into.
fn artefacts(lab: &Lab, cluster: &Cluster) -> Result<Vec<(String, Vec<u8>)>> {
    let mut all = Vec::new();
    files(lab.directory(), &mut all)?;
    for agent in &cluster.agents {
        for target in ANSWERS {
            all.push((target.to_owned(), agent.get(target)?.to_string().into_bytes()));
        }
        all.push(("/metrics".to_owned(), agent.admin("/metrics")?.body.into_bytes()));
    }
    all.push(("/proc/keys".to_owned(), fs::read("/proc/keys")?));
    Ok(all)
}

fn exchange(from: &Pod, to: &Pod) -> Result<()> {
    let server = to.serve(&[])?;
    let client = from.connect(to.application(), &["--then", "duplex", "--bytes", "1000"])?;
    let local = client["local"].as_str().context("the client has no address")?.parse()?;
    assert_exchanged(&client, &server.saw(local)?);
    Ok(())
}

#[test]
fn keys_that_outlive_their_agent_are_in_its_memory_once_and_in_no_artefact() -> Result<()> {
    let lab = Lab::new()?;
    let mut cluster = Cluster::start(&lab, "a", 2)?;
    exchange(cluster.pod("a1")?, cluster.pod("a2")?)?;
    let mut searched = 0;
    for round in 0..3 {
        let known = keys(cluster.agent("a1")?)?;
        assert_eq!(known.len(), 1, "one workload, one key");
        let secrets = Secrets::new(&known)?;
        assert_eq!(memory(cluster.agent("a1")?)?.finds(&secrets), 1, "round {round}");
        let other = memory(cluster.agent("a2")?)?;
        assert_eq!(other.finds(&secrets), 0, "in another agent's memory");
        let controller = Memory::of(cluster.controller.pid().context("it runs")?)?;
        assert_eq!(controller.finds(&secrets), 0, "in the controller's memory");
        let artefacts = artefacts(&lab, &cluster)?;
        let hits = artefacts.iter().filter(|(_, bytes)| secrets.found_in(bytes) > 0);
        let hits: Vec<_> = hits.map(|(name, _)| name).collect();
        assert!(hits.is_empty(), "{hits:?}");
        searched = artefacts.len();
        let agent = cluster.agent_mut("a1")?;
        agent.kill()?;
        agent.restart()?;
        assert_eq!(keys(agent)?, known, "taken over from the keyring");
        exchange(cluster.pod("a1")?, cluster.pod("a2")?)?;
    }
    evidence(
        "keys_that_outlive_their_agent_are_in_its_memory_once_and_in_no_artefact",
        &[("restarts", &3), ("artefacts searched", &searched), ("found", &0)],
    )
}

#[test]
fn a_withdrawn_workloads_key_is_gone_from_the_keyring_and_another_life_gets_another() -> Result<()>
{
    let lab = Lab::new()?;
    let mut cluster = Cluster::start(&lab, "a", 1)?;
    let node = cluster.agents[0].node().clone();
    let keyring = Keyring::of(&node.pin(), &node.name().parse()?);
    let pod = cluster.pod("a1")?.clone();
    let netns = martlet_kernel::Netns::open(&pod.netns().path())?;
    let name = format!("shop/a1@{}", netns.cookie());
    assert!(keyring.find(&name)?.is_some());
    let before = keys(cluster.agent("a1")?)?;
    cluster.mesh.withdraw(&pod);
    cluster.declare()?;
    wait_for(
        "the key to be gone",
        martlet_lab::patience(std::time::Duration::from_secs(20)),
        || Ok(keyring.find(&name)?.is_none().then_some(())),
    )?;
    cluster.mesh.enroll(&pod, "shop", "a1", "strict");
    cluster.declare()?;
    wait_for("another key", martlet_lab::patience(std::time::Duration::from_secs(20)), || {
        Ok(keyring.find(&name)?)
    })?;
    let after = keys(cluster.agent("a1")?)?;
    assert_eq!(after.len(), 1);
    assert_ne!(before, after);
    Ok(())
}
