//! Programs that open connections without a pause, and others that hold some with numbers on them.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use martlet_lab::{Load, PORT, Pod, Server, Stage, wait_for};

const PATIENCE: Duration = Duration::from_secs(30);
/// A second, of each pair of pods.
const CALLS: u32 = 60;
/// Of each pair.
const STREAMS: u32 = 5;

pub struct Traffic {
    calls: Vec<Load>,
    streams: Vec<Load>,
    _servers: Vec<Server>,
}

/// What was done without a failure.
pub struct Done {
    pub calls: u64,
    pub numbers: u64,
    pub slowest_us: u64,
}

impl Traffic {
    /// Between the nodes in both directions, by pod and by service, and within a node.
    pub fn start(stage: &Stage) -> Result<Traffic> {
        let echo = ["--then", "echo", "--quiet"];
        let servers = [&stage.caller, &stage.near, &stage.far].map(|pod| pod.serve(&echo));
        let servers = servers.into_iter().collect::<Result<Vec<_>>>()?;
        let far = stage.ways_to(&stage.far);
        let pairs = [
            (&stage.caller, far[0].to),
            (&stage.caller, far[3].to),
            (&stage.caller, SocketAddr::new(stage.near.v4(), PORT)),
            (&stage.far, SocketAddr::new(stage.caller.v6(), PORT)),
        ];
        Traffic::between(&pairs, servers)
    }

    pub fn between(pairs: &[(&Pod, SocketAddr)], servers: Vec<Server>) -> Result<Traffic> {
        let mut traffic = Traffic { calls: Vec::new(), streams: Vec::new(), _servers: servers };
        for &(from, to) in pairs {
            let mut streams = Load::streams(from, to, STREAMS)?;
            streams.wait_for("all streams to be open", |done| done.opened == u64::from(STREAMS))?;
            traffic.streams.push(streams);
            traffic.calls.push(Load::calls(from, to, CALLS)?);
        }
        traffic.goes_on("at first")?;
        Ok(traffic)
    }

    /// All of it does, without a failure so far.
    pub fn goes_on(&mut self, when: &str) -> Result<()> {
        advances(self.calls.iter_mut().chain(&mut self.streams), when)
    }

    pub fn calls_go_on(&mut self, when: &str) -> Result<()> {
        advances(self.calls.iter_mut(), when)
    }

    /// How many streams were reset, when that has happened to one.
    pub fn wait_for_resets(&mut self) -> Result<u64> {
        wait_for("streams to be reset", PATIENCE, || {
            let mut reset = 0;
            for load in &mut self.streams {
                reset += load.done()?.errors.get("ECONNRESET").copied().unwrap_or(0);
            }
            Ok((reset > 0).then_some(reset))
        })
    }

    /// Everything ends in order.
    pub fn end(self) -> Result<Done> {
        let mut all = Done { calls: 0, numbers: 0, slowest_us: 0 };
        for load in self.calls {
            let done = load.end(PATIENCE)?;
            ensure!(done.errors.is_empty(), "calls: {done:?}");
            all.calls += done.done;
            all.slowest_us = all.slowest_us.max(done.slowest_us);
        }
        for load in self.streams {
            let done = load.end(PATIENCE)?;
            ensure!(done.errors.is_empty(), "streams: {done:?}");
            ensure!(done.finished == u64::from(STREAMS), "streams: {done:?}");
            all.numbers += done.done;
        }
        Ok(all)
    }
}

fn advances<'a>(loads: impl Iterator<Item = &'a mut Load>, when: &str) -> Result<()> {
    let mut loads: Vec<_> = loads.collect();
    let before = loads.iter_mut().map(|load| Ok(load.done()?.done));
    let before = before.collect::<Result<Vec<_>>>()?;
    for (load, before) in loads.into_iter().zip(before) {
        let what = format!("{} {when}", load.name());
        let done =
            load.wait_for(&what, |done| done.done > before + 20 || !done.errors.is_empty())?;
        ensure!(done.errors.is_empty(), "{what}: {done:?}");
    }
    Ok(())
}
