//! An agent that is replaced by another one, which is started from another path and has other
//! kernel programs: those of one of the two write a line for each verdict.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use martlet_lab::{Agent, Stage, find_binary};
use rand::RngExt as _;

use crate::{
    deaths::{ask_to_end, end_at_once, nothing_passed},
    files::nothing_was_interrupted,
    trial::{Struck, Trial, Victim, now},
};

const PATIENCE: Duration = Duration::from_secs(20);
const HOLD: Duration = Duration::from_millis(150);
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

/// In half of all cases the successor is started first while its predecessor runs, and refused.
pub fn replace(trial: &mut Trial) -> Result<Struck> {
    let victim = trial.any();
    prepare(trial.agent(victim))?;
    if trial.rng.random() {
        refused_beside_another(trial, victim)?;
    }
    ask_to_end(trial.agent(victim))?;
    let ended = end_at_once(trial.agent(victim))?;
    trial.hold(HOLD)?;
    nothing_passed(trial, victim, ended, now())?;
    let agent = trial.agent(victim);
    agent.launch()?;
    let launched = now();
    agent.wait_until_ready()?;
    let status = agent.get("/status")?;
    let hooks = status["hooks"].as_array().context("the status lists hooks")?;
    let is_adopted = hooks.iter().all(|hook| hook["adopted"] == true && hook["attached"] == true);
    ensure!(!hooks.is_empty() && is_adopted, "adopted with programs of its own: {status}");
    Ok(Struck { ended: launched, spared_near: victim == Victim::Callee })
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

fn refused_beside_another(trial: &mut Trial, victim: Victim) -> Result<()> {
    let began = now();
    let refused = trial.agent(victim).program()?.run_within(PATIENCE)?;
    let is_told = refused.stderr.contains("another agent");
    ensure!(!refused.status.success() && is_told, "{:?} {}", refused.status, refused.stderr);
    trial.wait_for_service(began)?;
    nothing_was_interrupted(trial)
}
