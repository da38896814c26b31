//! A program in a pod that keeps a server busy, and what came of it so far.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::{limits, pod::Pod, program::Running, wait::wait_for};

/// Goes on until it is ended or dropped.
#[derive(Debug)]
pub struct Load {
    name: String,
    running: Running,
    /// How much of its output was read.
    read: u64,
    latest: Done,
}

/// Since the beginning.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Done {
    /// Microseconds since the Unix epoch.
    pub at: u64,
    /// Streams that were answered at least once.
    pub opened: u64,
    /// New connections that were answered, or numbers that came back over streams.
    pub done: u64,
    /// Streams that ended in order, with all that was sent.
    pub finished: u64,
    /// The longest that a new connection and its answer took.
    pub slowest_us: u64,
    pub errors: BTreeMap<String, u64>,
}

impl Load {
    /// New connections to an echo server, so many in a second.
    pub fn calls(from: &Pod, to: SocketAddr, rate: u32) -> Result<Load> {
        Load::start(from, to, &["calls", "--rate", &rate.to_string()])
    }

    /// So many streams to an echo server.
    pub fn streams(from: &Pod, to: SocketAddr, count: u32) -> Result<Load> {
        Load::start(from, to, &["streams", "--streams", &count.to_string()])
    }

    fn start(from: &Pod, to: SocketAddr, arguments: &[&str]) -> Result<Load> {
        let program = from.probe(arguments)?.arg("--to").arg(to.to_string());
        let running = program.with_input().spawn()?;
        let name = format!("{} from {} to {to}", arguments[0], from.name());
        Ok(Load { name, running, read: 0, latest: Done::default() })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// As it was a moment ago.
    pub fn done(&mut self) -> Result<&Done> {
        if let Some(line) = self.running.new_lines(&mut self.read)?.last() {
            self.latest = serde_json::from_str(line).with_context(|| format!("parsing {line}"))?;
        }
        Ok(&self.latest)
    }

    pub fn wait_for(&mut self, what: &str, wanted: impl Fn(&Done) -> bool) -> Result<Done> {
        let found = wait_for(what, limits::PATIENCE, || {
            Ok(Some(self.done()?).filter(|done| wanted(done)).cloned())
        });
        found.with_context(|| format!("{}: {:?}", self.name, self.latest))
    }

    /// Everything ends in order.
    pub fn end(mut self, within: Duration) -> Result<Done> {
        self.running.close_input();
        let finished = self.running.wait(within)?;
        let line = finished.stdout.lines().next_back().context("it has said nothing")?;
        serde_json::from_str(line).with_context(|| format!("parsing {line}"))
    }
}
