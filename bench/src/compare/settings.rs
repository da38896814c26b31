//! How long and how often things are measured.

use anyhow::{Context as _, Result};
use martlet_bench::limits;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;

/// The crowd that a bar speaks of.
pub const MANY_CONNECTIONS: usize = 20_000;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Settings {
    pub rounds: u32,
    /// Of a row of each round.
    pub seconds: f64,
    pub long_seconds: f64,
    /// Before each row but the long ones, uncounted.
    pub warmup_seconds: f64,
    pub few_connections: usize,
    pub many_connections: usize,
    /// How long memory may take to be given back before it counts.
    pub settle_seconds: f64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            rounds: 5,
            seconds: 3.0,
            long_seconds: 60.0,
            warmup_seconds: 0.5,
            few_connections: 1000,
            many_connections: MANY_CONNECTIONS,
            settle_seconds: 3.0,
        }
    }
}

impl Settings {
    /// As little as shows that everything works; the numbers say nothing.
    pub fn smoke() -> Settings {
        Settings {
            rounds: 1,
            seconds: 0.6,
            long_seconds: 2.0,
            warmup_seconds: 0.1,
            few_connections: 200,
            many_connections: 500,
            settle_seconds: 0.2,
        }
    }

    /// A proxy has two files open for each connection; where the machine does not allow that many,
    /// there are fewer connections. Programs inherit the new limit, but must raise their own to it.
    pub fn fit_open_files(&mut self) -> Result<()> {
        let kind = Resource::RLIMIT_NOFILE;
        let (soft, hard) = getrlimit(kind).context("reading the open-file limit")?;
        let wanted = hard.max(limits::OPEN_FILES);
        let allowed = if setrlimit(kind, soft, wanted).is_ok() { wanted } else { hard };
        let most = allowed.saturating_sub(limits::OTHER_FILES) / 2;
        self.many_connections = self.many_connections.min(most as usize);
        Ok(())
    }
}
