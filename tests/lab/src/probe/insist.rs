//! Dials from its first instruction on, until it is answered.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::facts;

/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(2);

#[derive(Args)]
pub struct Insist {
    #[arg(long)]
    to: SocketAddr,
    /// What is said on each connection; it is answered if all of it comes back.
    #[arg(long)]
    say: String,
    /// The longest that one try may take.
    #[arg(long, default_value_t = 10_000)]
    timeout_ms: u64,
    /// When to give up.
    #[arg(long, default_value_t = 60_000)]
    patience_ms: u64,
}

impl Insist {
    pub fn run(self) -> Result<()> {
        let begun = Instant::now();
        let mut errors = BTreeMap::<String, u32>::new();
        let (mut first, mut answered, mut said) = (None, false, 0_u32);
        while !answered && begun.elapsed() < Duration::from_millis(self.patience_ms) {
            let outcome = self.attempt(&mut said);
            answered = outcome.is_ok();
            if let Err(error) = outcome {
                let name = facts::name(&error);
                first.get_or_insert_with(|| name.clone());
                *errors.entry(name).or_insert(0) += 1;
                thread::sleep(PAUSE);
            }
        }
        crate::print(&json!({
            "answered": answered,
            "said": said,
            "first": first,
            "errors": errors,
            "duration_us": facts::micros(begun.elapsed()),
        }));
        Ok(())
    }

    /// Counts in `said` how often all was handed to the kernel.
    fn attempt(&self, said: &mut u32) -> io::Result<()> {
        let timeout = Duration::from_millis(self.timeout_ms);
        let mut stream = TcpStream::connect_timeout(&self.to, timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.write_all(self.say.as_bytes())?;
        *said += 1;
        let mut answer = vec![0; self.say.len()];
        stream.read_exact(&mut answer)?;
        match answer == self.say.as_bytes() {
            true => Ok(()),
            false => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}
