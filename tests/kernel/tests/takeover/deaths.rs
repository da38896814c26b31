//! Successors and predecessors that are killed meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use martlet_lab::{Agent, Running, Stage, evidence, is_long, wait_for};
use nix::sys::signal::Signal;
use rand::RngExt as _;

use super::{PATIENCE, traffic::Traffic};

/// Within this a successor is somewhere between its first instruction and its first connection.
const START: Duration = Duration::from_millis(400);
/// And within this of being given what it needs, between that and its first connection.
const TAKEOVER: Duration = Duration::from_millis(60);
const HEARD: Duration = Duration::from_millis(200);
const BEGUN: &str = "another agent begins to take over";
const HANDED_OVER: &str = "handed over; what is open";

fn rounds() -> u32 {
    if is_long() { 60 } else { 16 }
}

/// For a random time; in half of all cases of the time from when it takes over.
fn hold(before: &Running) -> Result<()> {
    let known = before.stderr().matches(BEGUN).count();
    let begun = || before.stderr().matches(BEGUN).count() > known;
    let within = match rand::rng().random() {
        true => {
            wait_for("a takeover to begin", PATIENCE, || Ok(begun().then_some(())))?;
            TAKEOVER
        }
        false => START,
    };
    let until = Instant::now() + rand::rng().random_range(Duration::ZERO..within);
    wait_for("time to pass", PATIENCE, || Ok((Instant::now() >= until).then_some(())))
}

#[test]
fn a_successor_that_is_killed_before_it_serves_interrupts_nothing() -> Result<()> {
    let mut stage = Stage::set("strict")?;
    let mut traffic = Traffic::start(&stage)?;
    let (mut early, mut taken_back) = (0, 0);
    // Those that have handed over, with what they carry.
    let mut carrying = Vec::new();
    for round in 0..rounds() {
        let mut before = stage.two.launch_successor()?;
        hold(&before)?;
        // It stands still until the other one has heard what it has said.
        stage.two.signal(Signal::SIGSTOP)?;
        let until = Instant::now() + HEARD;
        wait_for("the predecessor to have heard all", PATIENCE, || {
            let is_over = Instant::now() >= until || before.stderr().contains(HANDED_OVER);
            Ok(is_over.then_some(()))
        })?;
        let log = before.stderr();
        let known = log.matches("this one goes on").count();
        if log.contains(HANDED_OVER) {
            // To kill it now would be to kill the agent that serves.
            stage.two.signal(Signal::SIGCONT)?;
            carrying.push(before);
            serves(&mut stage.two)?;
            traffic.goes_on(&format!("after the takeover in round {round}"))?;
            continue;
        }
        stage.two.kill()?;
        early += 1;
        ensure!(before.is_running());
        let begun = log.matches(BEGUN).count();
        stage.two.adopt(before);
        wait_for("the predecessor to go on", PATIENCE, || {
            let back = stage.two.log().matches("this one goes on").count();
            Ok((back >= begun).then_some(()))
        })?;
        taken_back += usize::from(begun > known);
        stage.two.wait_until_ready()?;
        traffic.goes_on(&format!("after round {round}"))?;
    }
    let done = traffic.end()?;
    evidence(
        "a_successor_that_is_killed_before_it_serves_interrupts_nothing",
        &[
            ("successors killed before they served", &early),
            ("of these while they took over", &taken_back),
            ("that served before", &carrying.len()),
            ("new connections meanwhile", &done.calls),
            ("failed", &0),
            ("reset", &0),
        ],
    )
}

#[test]
fn a_predecessor_that_is_killed_meanwhile_is_followed() -> Result<()> {
    let mut stage = Stage::set("strict")?;
    let _servers = [&stage.caller, &stage.far].map(|pod| pod.serve(&["--then", "echo"]));
    let (mut before_it_gave, mut after) = (0, 0);
    for round in 0..rounds() {
        let before = stage.two.launch_successor()?;
        hold(&before)?;
        let finished = before.kill()?;
        match finished.stderr.contains(HANDED_OVER) {
            true => after += 1,
            false => before_it_gave += 1,
        }
        serves(&mut stage.two).with_context(|| format!("round {round}: {}", finished.stderr))?;
        for way in stage.ways_to(&stage.far) {
            let client = stage.caller.connect(way.to, &["--then", "send", "--bytes", "1000"])?;
            ensure!(client["received"] == 1000, "round {round}, {way}: {client}");
        }
    }
    evidence(
        "a_predecessor_that_is_killed_meanwhile_is_followed",
        &[
            ("predecessors killed before they had handed over", &before_it_gave),
            ("after", &after),
            ("successors that served", &(before_it_gave + after)),
        ],
    )
}

/// A successor that has taken another one's death for a life ends, and its manager starts it again.
fn serves(agent: &mut Agent) -> Result<()> {
    wait_for("the successor to serve", PATIENCE, || {
        let log = agent.log();
        ensure!(agent.is_running(), "it has ended: {log}");
        Ok(log.contains(" ready ").then_some(()))
    })?;
    agent.wait_until_ready()
}
