//! Agents that are killed, stopped, asked to end, or run out of memory.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use martlet_lab::{Agent, wait_for};
use nix::sys::signal::Signal;
use rand::RngExt as _;

use crate::{
    memory::Memory,
    trial::{Struck, Trial, Victim, now},
};

const PATIENCE: Duration = Duration::from_secs(20);
/// A second is promised, for 99 of 100; a busy machine may look later.
const RESET: Duration = Duration::from_secs(5);
/// The same for service after a start.
pub const BACK: Duration = Duration::from_secs(5);
/// How long agents stay dead.
const DEAD: Duration = Duration::from_millis(150);
/// Within this an agent is somewhere between its first instruction and its first connections.
const START: Duration = Duration::from_millis(250);

/// Either agent, or both, or one that is started while the other one is still dead; some are
/// killed again while they start.
pub fn kill(trial: &mut Trial) -> Result<Struck> {
    let first = trial.any();
    let also_other = trial.rng.random_ratio(1, 3);
    let second = also_other.then_some(other(first));
    let killed = now();
    for victim in [Some(first), second].into_iter().flatten() {
        ended_by(&trial.agent(victim).kill()?, Signal::SIGKILL)?;
    }
    let dead = now();
    trial.hold(DEAD)?;
    connections_were_reset(trial, first, killed)?;
    nothing_passed(trial, first, dead, now())?;
    if trial.rng.random_ratio(1, 3) {
        trial.agent(first).launch()?;
        trial.hold(START)?;
        // Of what passed until here nothing can be said: it may have been ready.
        trial.agent(first).kill()?;
        let dead = now();
        trial.hold(DEAD)?;
        nothing_passed(trial, first, dead, now())?;
    }
    for victim in [Some(first), second].into_iter().flatten() {
        trial.agent(victim).launch()?;
    }
    let launched = now();
    for victim in [Some(first), second].into_iter().flatten() {
        trial.agent(victim).wait_until_ready()?;
    }
    Ok(Struck { ended: launched, spared_near: first == Victim::Callee && !also_other })
}

/// Asked to end, and asked again while it waits for what is open.
pub fn terminate(trial: &mut Trial) -> Result<Struck> {
    let victim = trial.any();
    ask_to_end(trial.agent(victim))?;
    trial.hold(DEAD)?;
    let ended = end_at_once(trial.agent(victim))?;
    trial.hold(DEAD)?;
    nothing_passed(trial, victim, ended, now())?;
    trial.agent(victim).launch()?;
    let launched = now();
    trial.agent(victim).wait_until_ready()?;
    Ok(Struck { ended: launched, spared_near: victim == Victim::Callee })
}

/// It drains from then on.
pub fn ask_to_end(agent: &mut Agent) -> Result<()> {
    agent.signal(Signal::SIGTERM)?;
    // Two signals of a kind at once are one (signal(7)).
    wait_for("the agent to begin to stop", PATIENCE, || {
        Ok((!agent.is_running() || agent.log().contains("stopping when what is open has ended"))
            .then_some(()))
    })
}

/// Of one that was asked before; gives the time.
pub fn end_at_once(agent: &mut Agent) -> Result<u64> {
    // It may have found nothing open.
    if agent.is_running() {
        agent.signal(Signal::SIGTERM)?;
    }
    agent.wait_for_end()?.success()?;
    Ok(now())
}

/// Some for longer than applications wait.
pub fn stop(trial: &mut Trial) -> Result<Struck> {
    let victim = trial.any();
    trial.agent(victim).signal(Signal::SIGSTOP)?;
    wait_until_stopped(trial, victim)?;
    let stopped = now();
    let at_most = if trial.rng.random_ratio(1, 6) { 1500 } else { 150 };
    trial.hold(Duration::from_millis(at_most))?;
    nothing_passed(trial, victim, stopped, now())?;
    trial.agent(victim).signal(Signal::SIGCONT)?;
    Ok(Struck { ended: now(), spared_near: victim == Victim::Callee })
}

/// The kernel kills it for what it takes next.
pub fn out_of_memory(trial: &mut Trial) -> Result<Struck> {
    let victim = trial.any();
    let agent = trial.agent(victim);
    let pid = agent.pid().context("the agent runs")?;
    let memory = Memory::limit(agent.node().cgroup(), pid)?;
    let crowd = trial.crowd(200)?;
    let agent = trial.agent(victim);
    wait_for("the kernel to kill the agent", PATIENCE, || Ok((!agent.is_running()).then_some(())))?;
    let dead = now();
    ended_by(&trial.agent(victim).wait_for_end()?, Signal::SIGKILL)?;
    ensure!(memory.kills()? > 0, "the kernel says that it killed nobody");
    drop(crowd);
    nothing_passed(trial, victim, dead, now())?;
    trial.agent(victim).launch()?;
    let launched = now();
    trial.agent(victim).wait_until_ready()?;
    memory.remove()?;
    Ok(Struck { ended: launched, spared_near: victim == Victim::Callee })
}

fn other(victim: Victim) -> Victim {
    match victim {
        Victim::Caller => Victim::Callee,
        Victim::Callee => Victim::Caller,
    }
}

fn ended_by(finished: &martlet_lab::Finished, signal: Signal) -> Result<()> {
    use std::os::unix::process::ExitStatusExt as _;
    let by = finished.status.signal();
    ensure!(by == Some(signal as i32), "it ended by {:?}: {}", finished.status, finished.stderr);
    Ok(())
}

/// The connections that stayed open over the dead agent, by which the application learns it.
fn connections_were_reset(trial: &mut Trial, victim: Victim, killed: u64) -> Result<()> {
    let mut after = Vec::new();
    for patrol in trial.patrols_of(victim) {
        let broken = patrol.wait_for("the open connection to break", 0, |outcome| {
            outcome.stays_open && outcome.ended >= killed && outcome.error.is_some()
        })?;
        let error = broken.error.as_deref().unwrap_or_default();
        ensure!(["ECONNRESET", "EPIPE"].contains(&error), "{}: {broken:?}", patrol.name());
        let took = Duration::from_micros(broken.ended - killed);
        ensure!(took < RESET, "{}: reset after {took:?}", patrol.name());
        after.push(took);
    }
    after.into_iter().for_each(|after| trial.measure("open connections reset after", after));
    Ok(())
}

/// Nobody was answered between two points in time.
pub fn nothing_passed(trial: &mut Trial, victim: Victim, since: u64, until: u64) -> Result<()> {
    for patrol in trial.patrols_of(victim) {
        let name = patrol.name().to_owned();
        let passed = patrol.outcomes()?.iter().find(|outcome| {
            outcome.began >= since && outcome.ended < until && outcome.is_success()
        });
        ensure!(passed.is_none(), "without an agent, {name}: {passed:?}");
    }
    Ok(())
}

/// Every thread has stopped (proc_pid_stat(5)).
fn wait_until_stopped(trial: &mut Trial, victim: Victim) -> Result<()> {
    let pid = trial.agent(victim).pid().context("the agent runs")?;
    wait_for("the agent to stand still", PATIENCE, || {
        let mut threads = std::fs::read_dir(format!("/proc/{pid}/task"))?;
        let all = threads.all(|thread| {
            let stat =
                thread.and_then(|thread| std::fs::read_to_string(thread.path().join("stat")));
            stat.is_ok_and(|stat| {
                stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
            })
        });
        Ok(all.then_some(()))
    })
}
