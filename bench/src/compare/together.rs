//! Two builds at the same time, their clients in short turns: whatever else the machine does hits both
//! alike, also where it does it for a second only.
//!
//! A client whose turn it is not is stopped by SIGSTOP. What it has under way then is finished in the
//! other's turn, and the other way around.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use martlet_bench::{Report, limits};
use martlet_lab::Running;
use nix::sys::signal::Signal;

/// Runs both to their ends; of each report the seconds are those of its client's turns.
pub fn run(mut clients: [Running; 2], in_all: Duration) -> Result<[Report; 2]> {
    let had = take_turns(&mut clients, in_all);
    // A client that stands still would outlive this process.
    for client in &mut clients {
        if client.is_running() {
            client.signal(Signal::SIGCONT)?;
        }
    }
    let [first, second] = had?.map(|had| had.as_secs_f64());
    let shares = [first / (first + second), second / (first + second)];
    let mut reports = Vec::new();
    for (client, share) in clients.into_iter().zip(shares) {
        let finished = client.wait(limits::STALL + limits::LOAD_EXTRA)?;
        let mut report = super::load::parse(&finished.success()?)?;
        report.seconds *= share;
        // What all processors were busy for was for both.
        report.machine_cpu_seconds = 0.0;
        reports.push(report);
    }
    let Ok(reports) = reports.try_into() else { bail!("there are two clients") };
    Ok(reports)
}

/// How long each had.
fn take_turns(clients: &mut [Running; 2], in_all: Duration) -> Result<[Duration; 2]> {
    let mut had = [Duration::ZERO; 2];
    let begun = Instant::now();
    clients[1].signal(Signal::SIGSTOP)?;
    for turn in (0..2).cycle() {
        let since = Instant::now();
        thread::sleep(limits::TURN);
        had[turn] += since.elapsed();
        if begun.elapsed() >= in_all || !clients.iter_mut().all(Running::is_running) {
            break;
        }
        clients[turn].signal(Signal::SIGSTOP)?;
        clients[1 - turn].signal(Signal::SIGCONT)?;
    }
    Ok(had)
}
