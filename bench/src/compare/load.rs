//! Runs the load generator in a subject's client pod.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, bail};
use martlet_bench::{Report, limits};
use martlet_lab::{Pod, Program, find_binary};

use crate::{
    row::{Closer, Work},
    settings::Settings,
    stand::{Pair, Service},
    together,
};

/// How long a load is to last.
#[derive(Debug, Clone, Copy)]
pub struct Length {
    pub warmup_seconds: f64,
    pub seconds: f64,
}

impl Length {
    /// A long run is measured from its first moment on: that is what its end is compared with.
    pub fn of(settings: &Settings, is_long: bool) -> Length {
        if is_long {
            Length { warmup_seconds: 0.0, seconds: settings.long_seconds }
        } else {
            Length { warmup_seconds: settings.warmup_seconds, seconds: settings.seconds }
        }
    }

    fn in_all(self) -> Duration {
        Duration::from_secs_f64(self.warmup_seconds + self.seconds)
    }
}

/// One load from start to end.
pub fn run(pair: &Pair, work: Work, length: Length) -> Result<Report> {
    finish(program(pair, work, length)?, length)
}

/// The same loads of two builds at the same time, each for half of it.
pub fn run_together(pairs: [&Pair; 2], work: Work, length: Length) -> Result<[Report; 2]> {
    let length = Length { seconds: 2.0 * length.seconds, ..length };
    let [first, second] = pairs.map(|pair| program(pair, work, length));
    together::run([first?.spawn()?, second?.spawn()?], length.in_all())
}

fn program(pair: &Pair, work: Work, length: Length) -> Result<Program> {
    let (mode, connections, service) = match work {
        Work::Bulk(connections) => ("bulk", connections, Service::Sink),
        Work::RoundTrips(connections) => ("rr", connections, Service::Echo),
        Work::Connections(connections, Closer::Client) => ("crr", connections, Service::Echo),
        Work::Connections(connections, Closer::Server) => {
            ("crr", connections, Service::EchoAndClose)
        }
        Work::Idle(_) | Work::ConnectHook => bail!("{work:?} is no load of its own"),
    };
    let address = pair.address(service).to_string();
    let mut program = client(pair.client(), mode, &address)?
        .args(["--connections", &connections.to_string()])
        .args(["--warmup", &length.warmup_seconds.to_string()])
        .args(["--seconds", &length.seconds.to_string()]);
    if let Work::Connections(_, Closer::Server) = work {
        program = program.args(["--close", "server"]);
    }
    Ok(program)
}

/// A client whose target is anything at all.
pub fn client(pod: &Pod, mode: &str, address: &str) -> Result<Program> {
    let program = pod.command(find_binary("martlet-load")?).arg("client");
    Ok(program.args(["--mode", mode, "--connect", address]))
}

pub fn finish(program: Program, length: Length) -> Result<Report> {
    let running = program.spawn()?;
    // Looking whether it has ended costs time of the processors that are being measured.
    thread::sleep(length.in_all());
    let finished = running.wait(limits::STALL + limits::LOAD_EXTRA)?;
    parse(&finished.success()?)
}

/// The report is the last line.
pub fn parse(output: &str) -> Result<Report> {
    let last = output.lines().last().context("the load generator said nothing")?;
    serde_json::from_str(last).with_context(|| format!("reading the load's report: {last}"))
}
