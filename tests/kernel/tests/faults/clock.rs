//! An agent whose wall clock jumps, by libfaketime: what it proves itself with is not valid for
//! others then, or theirs not for it.

use std::time::Duration;

use anyhow::{Result, ensure};
use martlet_lab::{Agent, Clock, Stage, wait_for};
use rand::RngExt as _;

use crate::trial::{Struck, Trial, now};

const HOLD: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(20);
const HOUR: i64 = 3600;
const YEAR: i64 = 365 * 24 * HOUR;

fn of(agent: &Agent) -> Result<Clock> {
    Clock::in_file(&agent.node().directory()?.join("clock"))
}

/// To be done before the agents start.
pub fn with_own_clocks(stage: &mut Stage) -> Result<()> {
    for agent in [&mut stage.one, &mut stage.two] {
        set(agent, 0)?;
        agent.set_clock(&of(agent)?);
    }
    Ok(())
}

pub fn set(agent: &Agent, seconds: i64) -> Result<()> {
    of(agent)?.set(seconds)
}

/// By hours to decades, forwards or backwards: beyond the part of a certificate's life after which
/// it is renewed, or beyond the life of the authority itself.
pub fn jump(trial: &mut Trial) -> Result<Struck> {
    let victim = trial.any();
    let sizes = [15 * HOUR, 25 * HOUR, YEAR, 30 * YEAR, -2 * HOUR, -25 * HOUR, -YEAR];
    let seconds = sizes[trial.rng.random_range(0..sizes.len())];
    jump_to(trial.agent(victim), seconds)?;
    trial.hold(HOLD)?;
    let agent = trial.agent(victim);
    ensure!(agent.is_running(), "it has ended: {}", agent.log());
    if seconds < 0 {
        // What was issued in the past is valid still, at the same time in the past once more, too.
        jump_to(agent, 25 * HOUR)?;
    }
    // The time is right from here on; that of noticing counts.
    let ended = now();
    jump_to(agent, 0)?;
    Ok(Struck { ended, spared_near: false })
}

/// Sets a clock, and waits until the agent has noticed: it renews what its clock calls old or not
/// valid yet. Also if it fails, for want of a valid authority.
fn jump_to(agent: &Agent, seconds: i64) -> Result<()> {
    let before = renewals(agent)?;
    set(agent, seconds)?;
    wait_for("the agent to renew what its clock calls old", PATIENCE, || {
        Ok((renewals(agent)? > before).then_some(()))
    })
}

fn renewals(agent: &Agent) -> Result<f64> {
    agent.metric("martlet_certificate_renewals_total", &[])
}
