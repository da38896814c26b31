//! The root is replaced while everybody talks, on three nodes.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use martlet_lab::{Canaries, Cluster, Lab, Patrol, Server, evidence, patience, wait_for};
use serde_json::Value;

/// For a whole step: certificates are renewed over ten seconds.
const STEP: Duration = Duration::from_secs(90);
const QUESTIONS: usize = 256;

/// Everybody asks everybody, over new connections and over one that stays open.
struct Talk {
    patrols: Vec<Patrol>,
    /// Those of the patrols that are between two clusters.
    across: Vec<Patrol>,
    _servers: Vec<Server>,
}

impl Talk {
    fn begin(lab: &Lab, clusters: &[&Cluster]) -> Result<Talk> {
        let directory = lab.directory();
        let (questions, replies) = (directory.join("questions"), directory.join("replies"));
        for path in [&questions, &replies] {
            if !path.exists() {
                Canaries::random(QUESTIONS).write_to(path)?;
            }
        }
        let mut pods = Vec::new();
        for cluster in clusters {
            pods.extend(cluster.pods.iter().map(|pod| (cluster.mesh.trust_domain(), pod)));
        }
        let replies_text = replies.display().to_string();
        let answer = ["--then", "answer", "--canaries", &replies_text];
        let servers = pods.iter().map(|(_, pod)| pod.serve(&answer)).collect::<Result<_>>()?;
        let (mut patrols, mut across) = (Vec::new(), Vec::new());
        for (here, from) in &pods {
            for (there, to) in pods.iter().filter(|(_, to)| to.name() != from.name()) {
                let within = patience(Duration::from_secs(5));
                let patrol = Patrol::start(from, to.application(), &questions, &replies, within)?;
                if here == there { patrols.push(patrol) } else { across.push(patrol) }
            }
        }
        let mut talk = Talk { patrols, across, _servers: servers };
        talk.expect_answers("before anything happens")?;
        Ok(talk)
    }

    /// Waits until everybody has answered everybody again, over both kinds of connections.
    fn expect_answers(&mut self, when: &str) -> Result<()> {
        let now = Patrol::now();
        for patrol in self.patrols.iter_mut().chain(&mut self.across) {
            for stays_open in [false, true] {
                let what = format!("{} to be answered {when}", patrol.name());
                patrol.wait_for(&what, now, |outcome| {
                    outcome.stays_open == stays_open && outcome.error.is_none()
                })?;
            }
        }
        Ok(())
    }

    /// How often somebody asked, and what failed.
    fn take(&mut self) -> Result<(usize, Vec<String>)> {
        let (mut asked, mut failed) = (0, Vec::new());
        for patrol in self.patrols.iter_mut().chain(&mut self.across) {
            let name = patrol.name().to_owned();
            for outcome in patrol.take_outcomes()? {
                asked += 1;
                if outcome.wrong || outcome.error.is_some() {
                    failed.push(format!("{name}: {outcome:?}"));
                }
            }
        }
        Ok((asked, failed))
    }
}

fn trust(cluster: &Cluster) -> Result<Value> {
    cluster.controller.martlet(&["trust", "status", "--output", "json"])
}

fn roots(cluster: &Cluster) -> Result<Vec<String>> {
    let trust = trust(cluster)?;
    let roots = trust["roots"].as_array().context("there are roots")?;
    let fingerprint = |root: &Value| root["certificate"]["fingerprint"].as_str().map(str::to_owned);
    Ok(roots.iter().filter_map(fingerprint).collect())
}

fn wait_for_step(cluster: &Cluster, step: &str) -> Result<Value> {
    let found = wait_for(&format!("the rotation to be {step}"), STEP, || {
        let trust = trust(cluster)?;
        Ok((trust["rotation"]["step"] == step).then_some(trust))
    });
    found.with_context(|| format!("{:#}", trust(cluster).unwrap_or_default()))
}

fn wait_for_end(cluster: &Cluster) -> Result<Value> {
    let found = wait_for("the rotation to end", STEP, || {
        let trust = trust(cluster)?;
        Ok(trust["rotation"].is_null().then_some(trust))
    });
    found.with_context(|| format!("{:#}", trust(cluster).unwrap_or_default()))
}

#[test]
fn a_root_is_replaced_while_everybody_talks_and_nobody_notices() -> Result<()> {
    let lab = Lab::new()?;
    let cluster = Cluster::start(&lab, "a", 3)?;
    let mut talk = Talk::begin(&lab, &[&cluster])?;
    let before = roots(&cluster)?;
    ensure!(before.len() == 1, "{before:?}");
    cluster.controller.martlet_text(&["trust", "rotate"])?;
    let switched = wait_for_step(&cluster, "switched")?;
    assert_eq!(switched["roots"].as_array().map(Vec::len), Some(2));
    wait_for("all certificates to be issued anew", STEP, || {
        let trust = trust(&cluster)?;
        let roots = trust["roots"].as_array().context("there are roots")?;
        let leaving = roots.iter().find(|root| root["role"] == "leaving");
        Ok(leaving.is_none_or(|root| root["leaves"] == 0).then_some(()))
    })?;
    talk.expect_answers("with certificates below the new root")?;
    // What stays open rests on the old root, which is kept for as long.
    let waits = trust(&cluster)?["rotation"]["waits_for"].to_string();
    assert!(waits.contains("connection"), "{waits}");
    let (asked, failed) = talk.take()?;
    assert!(failed.is_empty(), "{failed:#?}");
    drop(talk);
    let mut talk = Talk::begin(&lab, &[&cluster])?;
    let ended = wait_for_end(&cluster)?;
    talk.expect_answers("without the old root")?;
    let after = roots(&cluster)?;
    assert_eq!(after.len(), 1);
    assert_ne!(before, after);
    assert_eq!(ended["leaves_of_unknown_issuers"], 0);
    let (again, failed) = talk.take()?;
    assert!(failed.is_empty(), "{failed:#?}");
    evidence(
        "a_root_is_replaced_while_everybody_talks_and_nobody_notices",
        &[("exchanges", &(asked + again)), ("failed", &0)],
    )
}

#[test]
fn a_rotation_goes_on_after_its_controller_and_an_agent_were_killed() -> Result<()> {
    let lab = Lab::new()?;
    let mut cluster = Cluster::start(&lab, "a", 3)?;
    let before = roots(&cluster)?;
    cluster.controller.martlet_text(&["trust", "rotate"])?;
    cluster.controller.kill()?;
    cluster.agent_mut("a2")?.kill()?;
    cluster.controller.launch()?;
    // While a node is away nobody knows what it needs.
    let waiting = wait_for("the rotation to wait for the node", STEP, || {
        let trust = trust(&cluster)?;
        let waits = trust["rotation"]["waits_for"].to_string();
        Ok(waits.contains("a2").then_some(trust))
    })?;
    assert_eq!(waiting["roots"].as_array().map(Vec::len), Some(2), "{waiting:#}");
    cluster.agent_mut("a2")?.restart()?;
    wait_for_step(&cluster, "switched").or_else(|error| match roots(&cluster)?.len() {
        1 => Ok(Value::Null),
        _ => Err(error),
    })?;
    cluster.controller.kill()?;
    cluster.controller.launch()?;
    wait_for_end(&cluster)?;
    assert_ne!(before, roots(&cluster)?);
    let mut talk = Talk::begin(&lab, &[&cluster])?;
    let (asked, failed) = talk.take()?;
    assert!(failed.is_empty(), "{failed:#?}");
    evidence(
        "a_rotation_goes_on_after_its_controller_and_an_agent_were_killed",
        &[("exchanges after it", &asked), ("failed", &0)],
    )
}

#[test]
fn a_rotation_that_is_taken_back_leaves_the_old_root() -> Result<()> {
    let lab = Lab::new()?;
    let cluster = Cluster::start(&lab, "a", 2)?;
    let before = roots(&cluster)?;
    cluster.controller.martlet_text(&["trust", "rotate"])?;
    wait_for_step(&cluster, "switched")?;
    cluster.controller.martlet_text(&["trust", "back"])?;
    wait_for_end(&cluster)?;
    assert_eq!(before, roots(&cluster)?);
    let mut talk = Talk::begin(&lab, &[&cluster])?;
    let (_, failed) = talk.take()?;
    assert!(failed.is_empty(), "{failed:#?}");
    Ok(())
}

#[test]
fn two_trust_domains_talk_after_they_exchanged_bundles_and_one_that_is_cut_off_is_alone()
-> Result<()> {
    let lab = Lab::new()?;
    let (mut a, mut b) = (Cluster::start(&lab, "a", 2)?, Cluster::start(&lab, "b", 2)?);
    let (of_a, of_b) = (a.mesh.clone(), b.mesh.clone());
    a.mesh.know(&of_b);
    b.mesh.know(&of_a);
    for cluster in [&a, &b] {
        cluster.declare()?;
    }
    let exchange = |from: &Cluster, to: &Cluster| -> Result<()> {
        let document = from.controller.martlet_text(&["trust", "export"])?;
        let path = lab.directory().join(format!("{}.json", from.mesh.trust_domain()));
        std::fs::write(&path, document)?;
        let path = path.display().to_string();
        to.controller.martlet_text(&["trust", "import", from.mesh.trust_domain(), &path])?;
        Ok(())
    };
    exchange(&a, &b)?;
    exchange(&b, &a)?;
    let mut talk = Talk::begin(&lab, &[&a, &b])?;
    talk.take()?;
    let cut = ["trust", "quarantine", "cluster", b.mesh.trust_domain()];
    a.controller.martlet_text(&cut)?;
    let began = Patrol::now();
    let mut slowest = 0;
    for patrol in &mut talk.across {
        for stays_open in [true, false] {
            let what = format!("{} to be refused", patrol.name());
            let refused = patrol.wait_for(&what, began, |outcome| {
                outcome.stays_open == stays_open && outcome.error.is_some()
            })?;
            slowest = slowest.max(refused.ended - began);
        }
    }
    let mut asked = 0;
    for patrol in &mut talk.patrols {
        let outcomes = patrol.take_outcomes()?;
        asked += outcomes.len();
        let failed: Vec<_> = outcomes.iter().filter(|outcome| outcome.error.is_some()).collect();
        assert!(failed.is_empty(), "{}: {failed:#?}", patrol.name());
    }
    assert!(slowest <= 5_000_000, "the last one was refused after {slowest} µs");
    a.controller.martlet_text(&["trust", "release", "cluster", b.mesh.trust_domain()])?;
    talk.expect_answers("after the release")?;
    evidence(
        "two_trust_domains_talk_after_they_exchanged_bundles_and_one_that_is_cut_off_is_alone",
        &[
            ("last one refused after", &format!("{} ms", slowest / 1000)),
            ("exchanges of others meanwhile", &asked),
            ("failed", &0),
        ],
    )
}
