//! Many short connections, one after another.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::{facts, latency::percentile};

#[derive(Args)]
pub struct Row {
    #[arg(long)]
    to: SocketAddr,
    #[arg(long, default_value_t = 1000)]
    connections: usize,
    /// Who closes first, and so has to remember the connection in TIME_WAIT.
    #[arg(long, value_enum, default_value = "client")]
    closes: Closes,
    #[arg(long, default_value_t = 20_000)]
    timeout_ms: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Closes {
    /// For a server that echoes.
    Client,
    /// For a server that answers once.
    Server,
}

impl Row {
    pub fn run(self) -> Result<()> {
        let begun = Instant::now();
        let mut errors = BTreeMap::<String, u32>::new();
        let mut durations = Vec::with_capacity(self.connections);
        for _ in 0..self.connections {
            let one = Instant::now();
            match self.connect() {
                Ok(()) => durations.push(one.elapsed()),
                Err(error) => *errors.entry(facts::name(&error)).or_insert(0) += 1,
            }
        }
        let total = begun.elapsed();
        durations.sort_unstable();
        crate::print(&json!({
            "done": durations.len(),
            "errors": errors,
            "duration_us": facts::micros(total),
            "per_second": durations.len() as f64 / total.as_secs_f64(),
            "p50_us": percentile(&durations, 50).as_secs_f64() * 1e6,
            "p99_us": percentile(&durations, 99).as_secs_f64() * 1e6,
        }));
        Ok(())
    }

    fn connect(&self) -> io::Result<()> {
        let timeout = Duration::from_millis(self.timeout_ms);
        let mut stream = TcpStream::connect_timeout(&self.to, timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.write_all(b"x")?;
        let mut answer = [0; 1];
        stream.read_exact(&mut answer)?;
        if self.closes == Closes::Server && stream.read(&mut answer)? != 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(())
    }
}
