//! System calls of a running agent that fail, by strace.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use martlet_lab::wait_for;
use nix::sys::signal::Signal;
use rand::{RngExt as _, seq::IndexedRandom as _};

use crate::trial::{Struck, Trial, Victim, now};

const STRACE: &str = "/usr/bin/strace";
const PATIENCE: Duration = Duration::from_secs(20);
const HOLD: Duration = Duration::from_millis(200);

/// Calls, and errors that they can give (the manual page of each). Not setsockopt(2): what is set
/// here cannot fail on a socket that is open, and there is no other way to reset a connection.
const CALLS: [(&str, &[&str]); 9] = [
    ("accept4", &["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "ECONNABORTED"]),
    ("socket", &["EMFILE", "ENFILE", "ENOBUFS", "EACCES"]),
    ("connect", &["ECONNREFUSED", "EADDRNOTAVAIL", "ENETUNREACH", "EAGAIN"]),
    ("setns", &["EPERM", "ENOMEM"]),
    ("bpf", &["EPERM", "ENOMEM", "E2BIG"]),
    ("recvfrom", &["ECONNRESET", "ENOMEM", "ETIMEDOUT"]),
    ("sendto", &["EPIPE", "ENOBUFS", "ECONNRESET"]),
    ("openat", &["EMFILE", "ENOENT", "EACCES"]),
    ("epoll_ctl", &["ENOMEM", "ENOSPC"]),
];

/// Every nth call of one kind, while new connections come.
pub fn failing(trial: &mut Trial) -> Result<Struck> {
    let victim = trial.any();
    let (call, errors) = CALLS.choose(&mut trial.rng).context("there are calls")?;
    let error = errors.choose(&mut trial.rng).context("there are errors")?;
    let (first, step) = (trial.rng.random_range(1..3), trial.rng.random_range(1..4));
    println!("{call} gives {error} at {first}+{step} to {victim:?}");
    let node = trial.agent(victim).node().clone();
    let pid = trial.agent(victim).pid().context("the agent runs")?.to_string();
    let log = node.directory()?.join("strace");
    let inject = format!("inject={call}:error={error}:when={first}+{step}");
    let strace = node.command_in("strace", STRACE).args(["-f", "-qq", "-p", &pid, "-e", &inject]);
    let mut strace = strace.args(["-e", &format!("trace={call}"), "-o"]).arg(&log).spawn()?;
    let crowd = trial.crowd(20)?;
    let bitten = wait_for(&format!("{call} to fail"), PATIENCE, || {
        let is_injected = fs::read_to_string(&log).is_ok_and(|log| log.contains("(INJECTED)"));
        Ok(is_injected.then_some(()))
    });
    let held = trial.hold(HOLD);
    // Now it lets go of the agent; killed, it would leave it stopped.
    strace.signal(Signal::SIGTERM)?;
    wait_for("strace to let go of the agent", PATIENCE, || {
        // Of a process that dies just then strace 6.1 waits for the first thread for ever: that one
        // is the last to be had.
        if is_dead(&pid)? && strace.is_running() {
            strace.signal(Signal::SIGKILL)?;
        }
        Ok((!strace.is_running()).then_some(()))
    })?;
    let mut ended = now();
    drop(crowd);
    bitten.and(held)?;
    let is_gone = wait_for("service, or the agent's end", PATIENCE, || {
        let is_gone = !trial.agent(victim).is_running();
        Ok((is_gone || trial.served(ended)?.is_some()).then_some(is_gone))
    })?;
    if is_gone {
        // It ends rather than go on in a wrong namespace; then whoever watches over it starts it.
        trial.agent(victim).launch()?;
        ended = now();
        trial.agent(victim).wait_until_ready()?;
    }
    fs::remove_file(&log).context("removing strace's log")?;
    Ok(Struck { ended, spared_near: victim == Victim::Callee })
}

/// Whether its first thread has ended.
fn is_dead(pid: &str) -> Result<bool> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    let stat = stat.with_context(|| format!("reading the state of process {pid}"))?;
    // The name comes before, in parentheses.
    Ok(stat.rsplit(')').next().is_some_and(|after| after.trim_start().starts_with('Z')))
}
