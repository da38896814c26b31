//! An agent that takes over from one that lives: nothing is refused and nothing is reset, and whichever
//! of the two dies meanwhile, or is none, the other one serves.

mod controller;
mod deaths;
mod door;
mod plugin;
mod traffic;
mod way;

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use martlet_lab::{Resources, Running, Stage, evidence, is_long, wait_for};
use martlet_tests_kernel::tamper;
use nix::sys::signal::Signal;

use self::traffic::Traffic;

const PATIENCE: Duration = Duration::from_secs(30);
/// What one agent may hold more than another that has the same to do.
const MORE_FILES: usize = 40;
const MORE_THREADS: u64 = 8;
const MORE_BYTES: u64 = 16 << 20;
/// Idle lanes are closed after half a minute.
const FLAT_AGAIN: Duration = Duration::from_secs(60);

#[test]
fn agents_are_replaced_again_and_again_and_no_connection_is_refused_or_reset() -> Result<()> {
    let (mut replaced, mut took) = (0, Vec::new());
    let (mut calls, mut numbers, mut slowest) = (0, 0, 0);
    for mode in ["strict", "permissive"] {
        let mut stage = Stage::set(mode)?;
        let first = holds(&stage)?;
        let mut traffic = Traffic::start(&stage)?;
        let mut held: Vec<Running> = Vec::new();
        for round in 0..if is_long() { 30 } else { 6 } {
            let is_one = round % 2 == 0;
            let began = std::time::Instant::now();
            let agent = if is_one { &mut stage.one } else { &mut stage.two };
            let before = agent.succeed()?;
            took.push(began.elapsed());
            replaced += 1;
            traffic.goes_on(&format!("after replacement {round} in mode {mode}"))?;
            let agent = if is_one { &stage.one } else { &stage.two };
            match held.len() {
                // The first of each node carries what was opened before.
                0 | 1 => {
                    let carried = agent.get("/status")?["predecessor"].clone();
                    ensure!(carried.as_u64().is_some_and(|carried| carried > 0), "{carried}");
                    held.push(before);
                }
                // The others have nothing that does not end by itself.
                _ => drop(before.wait(PATIENCE)?.success()?),
            }
        }
        for predecessor in &mut held {
            ensure!(predecessor.is_running(), "it carries what is open: {}", predecessor.stderr());
        }
        let done = traffic.end()?;
        calls += done.calls;
        numbers += done.numbers;
        slowest = slowest.max(done.slowest_us);
        for predecessor in held {
            predecessor.wait(PATIENCE)?.success()?;
        }
        wait_for("nobody to carry anything any more", PATIENCE, || {
            let left = [&stage.one, &stage.two].map(|agent| agent.get("/status"));
            let [one, two] = left;
            Ok((one?["predecessor"].is_null() && two?["predecessor"].is_null()).then_some(()))
        })?;
        is_flat(&stage, &first)?;
    }
    took.sort_unstable();
    let most = took.last().context("some were replaced")?.as_millis();
    evidence(
        "agents_are_replaced_again_and_again_and_no_connection_is_refused_or_reset",
        &[
            ("agents replaced", &replaced),
            ("slowest replacement", &format!("{most} ms")),
            ("new connections meanwhile", &calls),
            ("failed", &0),
            ("slowest connection", &format!("{} ms", slowest / 1000)),
            ("numbers over held connections", &numbers),
            ("reset", &0),
        ],
    )
}

/// Of both agents, and the names of what is pinned.
type Holds = ([Resources; 2], [BTreeSet<String>; 2]);

fn holds(stage: &Stage) -> Result<Holds> {
    let agents = [&stage.one, &stage.two];
    let pinned = agents.map(|agent| tamper::links(&agent.node().pin(), ""));
    let names = |links: Vec<PathBuf>| links.iter().map(|link| link.display().to_string()).collect();
    let [one, two] = pinned;
    let resources = [agents[0].resources()?, agents[1].resources()?];
    Ok((resources, [names(one?), names(two?)]))
}

fn is_flat(stage: &Stage, (first, pinned): &Holds) -> Result<()> {
    let is_flat = |(first, now): (&Resources, &Resources)| {
        now.files <= first.files + MORE_FILES
            && now.threads <= first.threads + MORE_THREADS
            && now.resident_bytes <= first.resident_bytes + MORE_BYTES
    };
    let mut latest = holds(stage)?;
    let flat = wait_for("the agents to hold no more than the first ones", FLAT_AGAIN, || {
        latest = holds(stage)?;
        let resources = first.iter().zip(&latest.0).all(is_flat);
        Ok((resources && *pinned == latest.1).then_some(()))
    });
    flat.with_context(|| format!("first {first:?} {pinned:?}, now {latest:?}"))
}

#[test]
fn a_predecessor_that_is_told_twice_to_stop_resets_what_it_still_carries() -> Result<()> {
    let mut stage = Stage::set("strict")?;
    let mut traffic = Traffic::start(&stage)?;
    let before = stage.two.succeed()?;
    before.signal(Signal::SIGTERM)?;
    traffic.goes_on("while a predecessor was told once to stop")?;
    // Two signals of a kind at once are one (signal(7)).
    before.signal(Signal::SIGTERM)?;
    before.wait(PATIENCE)?.success()?;
    let reset = traffic.wait_for_resets()?;
    ensure!(reset > 0, "what it carried was reset");
    traffic.calls_go_on("after the predecessor has ended")
}

#[test]
fn an_agent_that_was_told_to_stop_is_taken_over_from_before_it_does() -> Result<()> {
    let mut stage = Stage::set("strict")?;
    let mut traffic = Traffic::start(&stage)?;
    stage.two.signal(Signal::SIGTERM)?;
    wait_for("the agent to begin to stop", PATIENCE, || {
        Ok(stage.two.log().contains("stopping when what is open has ended").then_some(()))
    })?;
    let before = stage.two.succeed()?;
    traffic.goes_on("after an agent that was stopping was replaced")?;
    traffic.end()?;
    before.wait(PATIENCE)?.success()?;
    Ok(())
}

#[test]
fn in_a_pod_a_predecessor_waits_for_its_end_and_does_not_take_over_again() -> Result<()> {
    const INSTANCE: &str = "MARTLET_INSTANCE";
    let mut stage = Stage::prepare("strict", |_| {})?;
    stage.two.set_env(INSTANCE, "pod-1");
    stage.launch()?;
    let mut traffic = Traffic::start(&stage)?;
    stage.two.set_env(INSTANCE, "pod-2");
    let mut before = stage.two.succeed()?;
    traffic.goes_on("in the second pod")?;
    // As kubelet starts a container again.
    stage.two.set_env(INSTANCE, "pod-1");
    let again = stage.two.program()?.run_within(PATIENCE)?;
    let is_told = again.stderr.contains("it has taken over from this very instance");
    ensure!(!again.status.success() && is_told, "{}", again.stderr);
    traffic.goes_on("beside the first pod's next agent")?;
    traffic.end()?;
    wait_for("the predecessor to have nothing more to do", PATIENCE, || {
        Ok(before.stderr().contains("waiting to be told to stop").then_some(()))
    })?;
    ensure!(before.is_running());
    before.signal(Signal::SIGTERM)?;
    before.wait(PATIENCE)?.success()?;
    Ok(())
}

#[test]
fn what_a_policy_takes_back_ends_also_where_a_predecessor_carries_it() -> Result<()> {
    let mut stage = Stage::set("strict")?;
    let mut traffic = Traffic::start(&stage)?;
    let before = stage.two.succeed()?;
    traffic.goes_on("before the policy")?;
    stage.mesh.policy(serde_json::json!({
        "namespace": "shop", "name": "closed", "action": "deny", "rules": [{ "name": "nobody" }],
    }));
    stage.two.reload(&stage.mesh)?;
    let reset = traffic.wait_for_resets()?;
    ensure!(reset > 0, "what is denied was ended");
    before.wait(PATIENCE)?.success()?;
    Ok(())
}
