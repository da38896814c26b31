//! Many connections open at once, each of which answers.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::{facts, pattern::Pattern};

#[derive(Args)]
pub struct Crowd {
    #[arg(long)]
    to: SocketAddr,
    #[arg(long, default_value_t = 100)]
    connections: usize,
    /// Holds them until its input ends.
    #[arg(long)]
    until_input_ends: bool,
    #[arg(long, default_value_t = 60_000)]
    timeout_ms: u64,
}

impl Crowd {
    /// Prints one line when all are open and have answered, and one when they have answered again.
    pub fn run(self) -> Result<()> {
        let begun = Instant::now();
        let mut errors = BTreeMap::new();
        let mut streams = Vec::with_capacity(self.connections);
        for _ in 0..self.connections {
            match self.open() {
                Ok(stream) => streams.push(stream),
                Err(error) => *errors.entry(facts::name(&error)).or_insert(0) += 1,
            }
        }
        let echoed = ask_all(&mut streams, 1, &mut errors);
        let opened = streams.len();
        let duration = facts::micros(begun.elapsed());
        crate::print(
            &json!({ "opened": opened, "echoed": echoed, "errors": errors, "duration_us": duration }),
        );
        if self.until_input_ends {
            io::stdin().read_to_end(&mut Vec::new())?;
            let echoed = ask_all(&mut streams, 2, &mut errors);
            crate::print(&json!({ "opened": opened, "echoed": echoed, "errors": errors }));
        }
        Ok(())
    }

    fn open(&self) -> io::Result<TcpStream> {
        let timeout = Duration::from_millis(self.timeout_ms);
        let stream = TcpStream::connect_timeout(&self.to, timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(stream)
    }
}

/// All are asked before the first answer is read.
fn ask_all(streams: &mut [TcpStream], seed: u64, errors: &mut BTreeMap<String, u32>) -> usize {
    let mut pattern = Pattern::new(seed);
    let mut questions = Vec::with_capacity(streams.len());
    for stream in streams.iter_mut() {
        let question: [u8; 32] = pattern.next(32).try_into().unwrap_or([7; 32]);
        pattern.advance(32);
        if let Err(error) = stream.write_all(&question) {
            *errors.entry(facts::name(&error)).or_insert(0) += 1;
        }
        questions.push(question);
    }
    let mut echoed = 0;
    for (stream, question) in streams.iter_mut().zip(questions) {
        let mut answer = [0; 32];
        match stream.read_exact(&mut answer) {
            Ok(()) if answer == question => echoed += 1,
            Ok(()) => *errors.entry("wrong answer".into()).or_insert(0) += 1,
            Err(error) => *errors.entry(facts::name(&error)).or_insert(0) += 1,
        }
    }
    echoed
}
