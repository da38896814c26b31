//! A program in a pod that asks a server all the time, and what came of each time.

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::{limits, pod::Pod, program::Running, wait::wait_for};

/// Asks until it is dropped.
#[derive(Debug)]
pub struct Patrol {
    name: String,
    running: Running,
    /// How much of its output was read.
    read: u64,
    outcomes: Vec<Outcome>,
}

/// What came of asking once. Times are microseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Outcome {
    /// Over the connection that stays open, as opposed to one of its own.
    pub stays_open: bool,
    /// The connection was opened for this.
    pub fresh: bool,
    pub began: u64,
    pub ended: u64,
    /// None if there was an answer.
    pub error: Option<String>,
    /// The answer was none of those that the server gives.
    pub wrong: bool,
}

impl Patrol {
    pub fn start(
        from: &Pod,
        to: SocketAddr,
        questions: &Path,
        replies: &Path,
        patience: Duration,
    ) -> Result<Patrol> {
        let (to, timeout) = (to.to_string(), patience.as_millis().to_string());
        let program = from.probe(&["patrol", "--to", &to, "--timeout-ms", &timeout])?;
        let program = program.arg("--canaries").arg(questions).arg("--replies").arg(replies);
        let running = program.with_input().spawn()?;
        let name = format!("{} to {to}", from.name());
        Ok(Patrol { name, running, read: 0, outcomes: Vec::new() })
    }

    /// In the time of outcomes.
    pub fn now() -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// All that is known by now and was not taken before.
    pub fn outcomes(&mut self) -> Result<&[Outcome]> {
        for line in self.running.new_lines(&mut self.read)? {
            let outcome = serde_json::from_str(&line).with_context(|| format!("parsing {line}"))?;
            self.outcomes.push(outcome);
        }
        Ok(&self.outcomes)
    }

    /// The same, and forgets it.
    pub fn take_outcomes(&mut self) -> Result<Vec<Outcome>> {
        self.outcomes()?;
        Ok(std::mem::take(&mut self.outcomes))
    }

    /// The first outcome of this kind that began after a time.
    pub fn wait_for(
        &mut self,
        what: &str,
        after: u64,
        wanted: impl Fn(&Outcome) -> bool,
    ) -> Result<Outcome> {
        let name = self.name.clone();
        let found = wait_for(what, limits::PATIENCE, || {
            let mut outcomes = self.outcomes()?.iter();
            Ok(outcomes.find(|outcome| outcome.began >= after && wanted(outcome)).cloned())
        });
        found.with_context(|| {
            let latest = self.outcomes.iter().rev().take(4).collect::<Vec<_>>();
            format!("{name}; latest first: {latest:?}")
        })
    }
}

impl Outcome {
    pub fn is_success(&self) -> bool {
        self.error.is_none()
    }
}
