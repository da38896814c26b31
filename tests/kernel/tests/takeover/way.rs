//! An agent in a pod finds one that can't hand over to it.

use std::os::unix::net::UnixListener;

use anyhow::{Context as _, Result, ensure};
use martlet_lab::{Running, Stage, wait_for};
use serde_json::json;

use super::{
    PATIENCE,
    door::{Talk, claim, door, layout, wait_for_log},
    traffic::Traffic,
};

const INSTANCE: &str = "MARTLET_INSTANCE";
const STOPPED: &str = "can't hand over, and was asked to stop";

/// Two nodes whose agents have lost their doors, as if they were of a version that has none.
fn without_door() -> Result<Stage> {
    let stage = Stage::set("strict")?;
    std::fs::remove_file(door(&stage.two)).context("taking the door away")?;
    Ok(stage)
}

/// The other one is ready, too, until it has ended.
fn serves(stage: &mut Stage) -> Result<()> {
    wait_for_log(&stage.two, "ready node=two")?;
    stage.two.wait_until_ready()
}

fn until_ended(before: Running) -> Result<()> {
    let stopping = before.stderr().contains("stopping when what is open has ended");
    ensure!(stopping, "it was not stopped in order: {}", before.stderr());
    before.wait(PATIENCE)?.success().map(drop)
}

#[test]
fn in_a_pod_an_agent_without_a_door_is_stopped_in_order_and_followed() -> Result<()> {
    let mut stage = without_door()?;
    stage.two.set_env(INSTANCE, "pod-2");
    let before = stage.two.launch_successor()?;
    serves(&mut stage)?;
    wait_for_log(&stage.two, STOPPED)?;
    until_ended(before)?;
    let traffic = Traffic::start(&stage)?;
    traffic.end().map(drop)
}

#[test]
fn elsewhere_an_agent_without_a_door_keeps_its_place_and_the_other_hears_so() -> Result<()> {
    let stage = without_door()?;
    let mut traffic = Traffic::start(&stage)?;
    let second = stage.two.program()?.run_within(PATIENCE)?;
    let is_told = second.stderr.contains("another agent is serving this socket");
    ensure!(!second.status.success() && is_told, "{}", second.stderr);
    ensure!(!second.stderr.contains(STOPPED));
    traffic.goes_on("beside one that may not stop it")?;
    traffic.end().map(drop)
}

#[test]
fn in_a_pod_an_agent_with_another_layout_is_stopped_and_does_not_come_back() -> Result<()> {
    let mut stage = without_door()?;
    let other = UnixListener::bind(door(&stage.two))?;
    let number = layout(&stage.two)?;
    stage.two.set_env(INSTANCE, "pod-2");
    let before = stage.two.launch_successor()?;
    let mut talk = Talk::over(other.accept()?.0)?;
    ensure!(talk.hear()?["ask"]["instance"] == "pod-2");
    talk.say(&json!({ "layout": { "layout": number + 1, "instance": "pod-1" } }))?;
    wait_for("the other agent to be stopping", PATIENCE, || {
        Ok(before.stderr().contains("stopping when what is open has ended").then_some(()))
    })?;
    drop((talk, other));
    serves(&mut stage)?;
    wait_for_log(&stage.two, STOPPED)?;
    until_ended(before)?;
    // As kubelet starts its container again until its pod has gone.
    for layout in [number, number + 1] {
        let mut again = claim(&stage.two, layout)?;
        again["instance"] = json!("pod-1");
        let answer = Talk::with(&stage.two)?.ask(&json!({ "take": again }))?;
        let said = answer["no"].as_str().unwrap_or_default();
        ensure!(said.contains("which is to be removed"), "{answer}");
    }
    Ok(())
}
