//! Agents that run out of file descriptors, or of room on their disk.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{ErrorKind, Write as _},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use martlet_lab::{Agent, Stage, wait_for};
use rand::RngExt as _;

use crate::trial::{Struck, Trial, Victim, now};

const PATIENCE: Duration = Duration::from_secs(20);
const HOLD: Duration = Duration::from_millis(150);
/// Of the disk that holds a node's file, state, socket and access log.
const DISK: u64 = 32 << 20;

/// Nothing more than a few can be opened, while many connections come.
pub fn out_of_files(trial: &mut Trial) -> Result<Struck> {
    let victim = trial.any();
    let pid = trial.agent(victim).pid().context("the agent runs")?;
    let more = trial.rng.random_range(0..4);
    let said = complaints(trial.agent(victim))?;
    let before = limit_of_files(pid)?;
    limit_files(pid, limit_for(pid, more)?)?;
    let crowd = trial.crowd(100)?;
    let bitten = wait_for("the agent to run out of files", PATIENCE, || {
        Ok((complaints(trial.agent(victim))? > said).then_some(()))
    });
    let held = trial.hold(HOLD);
    limit_files(pid, before)?;
    bitten.and(held)?;
    let ended = now();
    drop(crowd);
    Ok(Struck { ended, spared_near: victim == Victim::Callee })
}

/// What says that there were no files left: the log of connections that could not be accepted, and
/// the records of those for which there was no second socket.
fn complaints(agent: &Agent) -> Result<usize> {
    let records = fs::read_to_string(agent.node().directory()?.join("access.log"))?;
    let log = agent.log();
    Ok(log.matches("Too many open files").count() + records.matches("limit_reached").count())
}

/// The soft limit; the hard one stays.
fn limit_files(pid: u32, limit: u64) -> Result<()> {
    let mut command = Command::new("prlimit");
    command.args(["--pid", &pid.to_string(), &format!("--nofile={limit}:")]);
    let output = command.output().context("running prlimit")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The soft one (proc_pid_limits(5)).
fn limit_of_files(pid: u32) -> Result<u64> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).context("reading its limits")?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    soft.context("it has a limit of open files")
}

/// With which so many more can be opened: new ones get the lowest free numbers, and the limit is
/// one of numbers (getrlimit(2)).
fn limit_for(pid: u32, more: usize) -> Result<u64> {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).context("listing its files")?;
    let numbers = files.flatten().filter_map(|file| file.file_name().to_str()?.parse().ok());
    let used: BTreeSet<u64> = numbers.collect();
    (0..).filter(|number| !used.contains(number)).nth(more).context("numbers do not end")
}

/// To be done before the agents start.
pub fn on_small_disks(stage: &mut Stage) -> Result<()> {
    for node in [stage.one.node().clone(), stage.two.node().clone()] {
        node.limit_directory(DISK)?;
    }
    stage.one = Agent::prepare(&stage.mesh, &stage.one.node().clone())?;
    stage.two = Agent::prepare(&stage.mesh, &stage.two.node().clone())?;
    Ok(())
}

/// Some agents are killed and started again while there is no room.
pub fn out_of_room(trial: &mut Trial) -> Result<Struck> {
    let victim = trial.any();
    let lost = ["cause=\"output_failed\""];
    let agent = trial.agent(victim);
    let before = agent.metric("martlet_records_dropped_total", &lost)?;
    let ballast = fill(agent)?;
    wait_for("records to be lost", PATIENCE, || {
        let agent = trial.agent(victim);
        Ok((agent.metric("martlet_records_dropped_total", &lost)? > before).then_some(()))
    })?;
    let is_restarted = trial.rng.random_ratio(1, 3);
    if is_restarted {
        trial.agent(victim).kill()?;
        trial.agent(victim).launch()?;
        let launched = now();
        trial.agent(victim).wait_until_ready().context("on a full disk")?;
        trial.wait_for_service(launched).context("on a full disk")?;
    } else {
        let full = now();
        let took = trial.wait_for_service(full).context("on a full disk")?;
        trial.measure("an answer on a full disk after", took);
    }
    fs::remove_file(&ballast).context("making room again")?;
    Ok(Struck { ended: now(), spared_near: victim == Victim::Callee })
}

/// What takes all the room that there is.
fn fill(agent: &Agent) -> Result<PathBuf> {
    let path = agent.node().directory()?.join("ballast");
    let mut file = File::create(&path).context("making the ballast")?;
    for size in [1 << 16, 512] {
        loop {
            match file.write(&vec![0; size]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => bail!("filling the disk: {error}"),
            }
        }
    }
    Ok(path)
}
