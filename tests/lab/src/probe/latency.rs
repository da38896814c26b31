//! Round trips to several echo servers in turns, so that the machine's moods hit all alike.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;

#[derive(Args)]
pub struct Latency {
    #[arg(long, required = true)]
    to: Vec<SocketAddr>,
    #[arg(long, default_value_t = 2000)]
    rounds: usize,
    /// Rounds before the measured ones.
    #[arg(long, default_value_t = 200)]
    warmup: usize,
    #[arg(long, default_value_t = 64)]
    size: usize,
}

impl Latency {
    pub fn run(self) -> Result<()> {
        let mut streams = Vec::new();
        for to in &self.to {
            let stream = TcpStream::connect_timeout(to, Duration::from_secs(10))
                .with_context(|| format!("connecting to {to}"))?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            streams.push((stream, Vec::with_capacity(self.rounds)));
        }
        let question = vec![b'x'; self.size];
        let mut answer = question.clone();
        for round in 0..self.warmup + self.rounds {
            for (stream, durations) in &mut streams {
                let begun = Instant::now();
                stream.write_all(&question)?;
                stream.read_exact(&mut answer)?;
                if round >= self.warmup {
                    durations.push(begun.elapsed());
                }
            }
        }
        let lines = self.to.iter().zip(&mut streams).map(|(to, (_, durations))| {
            durations.sort_unstable();
            let [p50, p99] = [50, 99].map(|p| percentile(durations, p).as_secs_f64() * 1e6);
            json!({ "to": to.to_string(), "rounds": durations.len(), "p50_us": p50, "p99_us": p99 })
        });
        crate::print(&json!({ "latency": lines.collect::<Vec<_>>() }));
        Ok(())
    }
}

/// Of sorted durations.
pub fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted
        .get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}
