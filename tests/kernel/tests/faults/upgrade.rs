//! An agent that is replaced by another one while it lives, which is started from another path and has other
//! kernel programs: those of one of the two write a line for each verdict. Or by one whose maps have another
//! layout, when it is gone.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use martlet_lab::{Agent, Stage, find_binary};
use martlet_tests_kernel::tamper;
use rand::RngExt as _;

use crate::{
    deaths::nothing_passed,
    files::nothing_was_interrupted,
    trial::{Struck, Trial, Victim, now},
};

/// Within this a successor is somewhere between its first instruction and its first connection.
const TAKEOVER: Duration = Duration::from_millis(500);
/// How long nobody is there.
const DEAD: Duration = Duration::from_millis(150);
const LINES: &str = "MARTLET_BPF_LOG";

/// To be done before the agents start.
pub fn with_successors(stage: &mut Stage) -> Result<()> {
    for agent in [&stage.one, &stage.two] {
        fs::copy(find_binary("martlet-agent")?, successor(agent)?).context("copying the agent")?;
    }
    Ok(())
}

fn successor(agent: &Agent) -> Result<PathBuf> {
    Ok(agent.node().directory()?.join("martlet-agent-next"))
}

/// The successor takes over while its predecessor lives.
pub fn take_over(trial: &mut Trial) -> Result<Struck> {
    let victim = trial.any();
    prepare(trial.agent(victim))?;
    let began = now();
    let before = trial.agent(victim).succeed()?;
    trial.carry(before);
    let agent = trial.agent(victim);
    let status = agent.get("/status")?;
    let hooks = status["hooks"].as_array().context("the status lists hooks")?;
    let is_adopted = hooks.iter().all(|hook| hook["adopted"] == true && hook["attached"] == true);
    ensure!(!hooks.is_empty() && is_adopted, "adopted with programs of its own: {status}");
    trial.wait_for_service(began)?;
    nothing_was_interrupted(trial)?;
    Ok(Struck { ended: began, spared_near: true })
}

/// One of the two is killed at some time before, while or after the other takes over.
pub fn kill(trial: &mut Trial) -> Result<Struck> {
    let victim = trial.any();
    prepare(trial.agent(victim))?;
    let mut before = trial.agent(victim).launch_successor()?;
    trial.hold(TAKEOVER)?;
    match trial.rng.random() {
        true => drop(before.kill()?),
        false => {
            trial.agent(victim).kill()?;
            // One that has handed over serves nobody any more.
            match before.is_running() && !before.stderr().contains("handed over; what is open") {
                true => trial.agent(victim).adopt(before),
                false => trial.agent(victim).launch()?,
            }
        }
    }
    let ended = now();
    trial.agent(victim).wait_until_ready()?;
    Ok(Struck { ended, spared_near: victim == Victim::Callee })
}

/// What was left in the kernel is of another layout: it goes on refusing beside the programs of the
/// next agent, until that one has enrolled all pods. Some of those are killed before they have.
pub fn change_layout(trial: &mut Trial) -> Result<Struck> {
    let victim = trial.any();
    let ours = tamper::version(&trial.agent(victim).node().pin())?;
    let others = ours.with_file_name("v4000000000");
    trial.agent(victim).kill()?;
    let dead = now();
    // As an agent with another layout would have left it.
    fs::rename(&ours, &others).context("renaming the pins")?;
    trial.hold(DEAD)?;
    nothing_passed(trial, victim, dead, now())?;
    if trial.rng.random_ratio(1, 2) {
        trial.agent(victim).launch()?;
        trial.hold(TAKEOVER)?;
        trial.agent(victim).kill()?;
        let dead = now();
        trial.hold(DEAD)?;
        nothing_passed(trial, victim, dead, now())?;
    }
    trial.agent(victim).launch()?;
    let ended = now();
    trial.agent(victim).wait_until_ready()?;
    ensure!(!others.exists() && ours.exists(), "the other layout is retired");
    Ok(Struck { ended, spared_near: victim == Victim::Callee })
}

/// The next launch is of the one that does not run.
fn prepare(agent: &mut Agent) -> Result<()> {
    let pid = agent.pid().context("the agent runs")?;
    let running = fs::read_link(format!("/proc/{pid}/exe")).context("asking what runs")?;
    let successor = successor(agent)?;
    let is_next = running != successor.canonicalize()?;
    let binary = if is_next { successor } else { find_binary("martlet-agent")? };
    agent.set_binary(&binary);
    agent.set_env(LINES, if is_next { "true" } else { "false" });
    Ok(())
}
