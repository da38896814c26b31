//! The root is replaced while everybody talks, on three nodes.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, ensure};
use martlet_lab::{
    Agent, Canaries, Cluster, Done, Lab, Load, Patrol, Pod, Server, evidence, patience, wait_for,
};
use serde_json::Value;

/// For a whole step: certificates are renewed over ten seconds.
const STEP: Duration = Duration::from_secs(90);
const QUESTIONS: usize = 256;

/// New connections a second, and streams that stay open, all together.
const RATE: u32 = 500;
const STREAMS: u32 = 200;
/// During a rotation. A slow machine opens fewer than it is asked for; with fewer than these it has
/// shown nothing.
const FEWEST_CONNECTIONS: u64 = 2_000;

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

/// Roots that are trusted and issuers whose certificates are in use, as the controller counts them
/// and as every one of these nodes has them.
fn counts(cluster: &Cluster) -> Result<String> {
    let trust = trust(cluster)?;
    let list = |of: &str| trust[of].as_array().cloned().unwrap_or_default();
    let used = list("issuers").iter().filter(|issuer| issuer["leaves"] != 0).count();
    let roles = list("roots").iter().map(|root| root["role"].as_str().map(str::to_owned)).collect();
    let roles: Option<Vec<_>> = roles;
    let (mut roots, mut issuers) = (BTreeSet::new(), BTreeSet::new());
    for agent in &cluster.agents {
        let held = agent.get("/certificates")?;
        roots.insert(held["roots"].as_array().map_or(0, Vec::len));
        let leaves = held["leaves"].as_array().context("there are leaves")?;
        issuers.extend(leaves.iter().map(|leaf| leaf["chain"][1]["fingerprint"].to_string()));
    }
    let roles = roles.context("roots have roles")?.join(" and ");
    let (bundles, ours) = (format!("{roots:?}"), issuers.len());
    Ok(format!("{roles}; {used} issuers in use, {ours} of workloads; roots of nodes {bundles}"))
}

fn wait_for_counts(cluster: &Cluster, when: &str, wanted: &str) -> Result<()> {
    let mut latest = String::new();
    let found = wait_for(&format!("{wanted:?} {when}"), STEP, || {
        latest = counts(cluster)?;
        Ok((latest == wanted).then_some(()))
    });
    found.with_context(|| format!("it is {latest:?}"))
}

/// As many new connections and streams as are asked for, among all pods of three nodes.
struct Busy {
    calls: Vec<Load>,
    streams: Vec<Load>,
    _servers: Vec<Server>,
}

impl Busy {
    fn begin(pods: &[Pod], rate: u32, streams: u32) -> Result<Busy> {
        let servers = pods.iter().map(|pod| pod.serve(&["--then", "echo", "--quiet"]));
        let servers = servers.collect::<Result<_>>()?;
        let mut busy = Busy { calls: vec![], streams: vec![], _servers: servers };
        let pairs: Vec<_> = pods
            .iter()
            .flat_map(|from| pods.iter().map(move |to| (from, to)))
            .filter(|(from, to)| from.name() != to.name())
            .collect();
        let share = |all: u32, number: usize| -> Result<u32> {
            let (number, pairs) = (u32::try_from(number)?, u32::try_from(pairs.len())?);
            Ok((number + 1) * all / pairs - number * all / pairs)
        };
        for (number, (from, to)) in pairs.iter().enumerate() {
            let (rate, streams) = (share(rate, number)?, share(streams, number)?);
            let mut load = Load::streams(from, to.application(), streams)?;
            load.wait_for("all streams to be open", |done| done.opened == u64::from(streams))?;
            busy.streams.push(load);
            busy.calls.push(Load::calls(from, to.application(), rate)?);
        }
        Ok(busy)
    }

    /// New connections so far, and when that was.
    fn connections(&mut self) -> Result<(u64, u64)> {
        let (mut done, mut at) = (0, 0);
        for load in &mut self.calls {
            let said = load.done()?;
            done += said.done;
            at = said.at.max(at);
        }
        Ok((done, at))
    }

    /// Every pair opens connections and gets numbers, all without a failure so far.
    fn expect_progress(&mut self, when: &str) -> Result<()> {
        let mut all: Vec<_> = self.calls.iter_mut().chain(&mut self.streams).collect();
        let before =
            all.iter_mut().map(|load| Ok(load.done()?.done)).collect::<Result<Vec<_>>>()?;
        for (load, before) in all.into_iter().zip(before) {
            let what = format!("{} {when}", load.name());
            let done =
                load.wait_for(&what, |done| done.done > before + 100 || !done.errors.is_empty())?;
            ensure!(done.errors.is_empty(), "{what}: {done:?}");
        }
        Ok(())
    }

    fn end(loads: Vec<Load>) -> Result<Vec<Done>> {
        loads.into_iter().map(|load| load.end(patience(Duration::from_secs(60)))).collect()
    }
}

#[test]
fn a_root_is_replaced_under_load_and_no_connection_and_no_stream_fails() -> Result<()> {
    let lab = Lab::new()?;
    let mut cluster = Cluster::start(&lab, "a", 4)?;
    let before = roots(&cluster)?;
    // A node that is away holds the first step for as long as that is looked at.
    let mut away = cluster.agents.pop().context("the fourth node")?;
    away.kill()?;
    let pids: Vec<_> = cluster.agents.iter().map(Agent::pid).collect();
    let mut busy = Busy::begin(&cluster.pods[..3], RATE, STREAMS)?;
    busy.expect_progress("before anything happens")?;
    let one = "issuing; 1 issuers in use, 1 of workloads; roots of nodes {1}";
    wait_for_counts(&cluster, "before anything happens", one)?;

    let (done_before, began) = busy.connections()?;
    cluster.controller.martlet_text(&["trust", "rotate"])?;
    let staged = "issuing and coming; 1 issuers in use, 1 of workloads; roots of nodes {2}";
    wait_for_counts(&cluster, "when the new root is staged", staged)?;
    let waits = wait_for_step(&cluster, "staged")?["rotation"]["waits_for"].to_string();
    assert!(waits.contains("a4"), "{waits}");
    busy.expect_progress("while both roots are trusted")?;

    cluster.controller.martlet_text(&["node", "remove", "a4"])?;
    wait_for_step(&cluster, "switched")?;
    let switched = "issuing and leaving; 1 issuers in use, 1 of workloads; roots of nodes {2}";
    wait_for("all certificates to be issued anew", STEP, || {
        Ok((trust(&cluster)?["roots"][1]["leaves"] == 0).then_some(()))
    })?;
    wait_for_counts(&cluster, "when all certificates are of the new issuer", switched)?;
    // Streams rest on the old root, so that it stays while they go on.
    for _ in 0..4 {
        busy.expect_progress("while streams hold the old root")?;
    }
    let held = trust(&cluster)?;
    assert_eq!(held["rotation"]["step"], "switched", "{held:#}");
    let (leaving, waits) = (&held["roots"][1], held["rotation"]["waits_for"].to_string());
    // Each is counted at both ends.
    assert!(leaving["connections"].as_u64() >= Some(2 * u64::from(STREAMS)), "{leaving:#}");
    assert!(waits.contains("connections that the old root proves"), "{waits}");
    let ended = Busy::end(std::mem::take(&mut busy.streams))?;
    assert!(ended.iter().all(|done| done.errors.is_empty()), "{ended:#?}");
    assert_eq!(ended.iter().map(|done| done.finished).sum::<u64>(), u64::from(STREAMS));

    wait_for_end(&cluster)?;
    wait_for_counts(&cluster, "when the old root is retired", one)?;
    let (done_after, over) = busy.connections()?;
    busy.expect_progress("without the old root")?;
    let after = roots(&cluster)?;
    assert!(after.len() == 1 && before != after, "{before:?}, then {after:?}");
    assert_eq!(pids, cluster.agents.iter().map(Agent::pid).collect::<Vec<_>>());
    assert!(cluster.agents.iter_mut().all(Agent::is_running));
    let calls = Busy::end(busy.calls)?;
    assert!(calls.iter().all(|done| done.errors.is_empty()), "{calls:#?}");
    let (made, seconds) = (done_after - done_before, (over - began) as f64 / 1e6);
    ensure!(made >= FEWEST_CONNECTIONS, "only {made} connections in {seconds} s say little");
    let slowest = calls.iter().map(|done| done.slowest_us).max().unwrap_or_default();
    evidence(
        "a_root_is_replaced_under_load_and_no_connection_and_no_stream_fails",
        &[
            ("connections during the rotation", &made),
            ("a second", &format!("{:.0} of {RATE}", made as f64 / seconds)),
            ("slowest", &format!("{} ms", slowest / 1000)),
            ("failed", &0),
            ("streams", &STREAMS),
            ("numbers over them", &ended.iter().map(|done| done.done).sum::<u64>()),
            ("streams that failed", &0),
        ],
    )
}

#[test]
fn a_rotation_that_is_forced_on_says_what_it_breaks_and_breaks_just_that() -> Result<()> {
    let lab = Lab::new()?;
    let cluster = Cluster::start(&lab, "a", 2)?;
    let [one, two] = cluster.pods.as_slice() else { unreachable!("there are two pods") };
    let _server = two.serve(&["--then", "echo", "--quiet"])?;
    let mut streams = Load::streams(one, two.application(), 5)?;
    streams.wait_for("all streams to be open", |done| done.opened == 5)?;
    cluster.controller.martlet_text(&["trust", "rotate"])?;
    let needs = "has 5 connections that the old root proves";
    wait_for("only streams to need the old root", STEP, || {
        let waits = trust(&cluster)?["rotation"]["waits_for"].clone();
        let waits = waits.as_array().cloned().unwrap_or_default();
        let is_stream = |what: &Value| what.as_str().is_some_and(|what| what.contains(needs));
        Ok((waits.len() == 2 && waits.iter().all(is_stream)).then_some(()))
    })?;
    let mut calls = Load::calls(one, two.application(), 50)?;
    calls.wait_for("new connections", |done| done.done > 50)?;
    let said = cluster.controller.martlet_text(&["trust", "rotate", "--force"])?;
    assert!(said.contains(&format!("node a1 {needs}")), "{said}");
    assert!(said.contains(&format!("node a2 {needs}")), "{said}");
    let broken = streams
        .wait_for("the streams to be broken", |done| done.errors.values().sum::<u64>() == 5)?;
    assert_eq!(broken.errors, [("ECONNRESET".to_owned(), 5)].into());
    wait_for_end(&cluster)?;
    let before = calls.done()?.done;
    calls.wait_for("new connections after it", |done| done.done > before + 50)?;
    let done = calls.end(patience(Duration::from_secs(60)))?;
    assert!(done.errors.is_empty(), "{done:?}");
    Ok(())
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
