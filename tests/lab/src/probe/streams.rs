//! Long streams to an echo server, on which numbers go out and come back until its input ends.
//!
//! Numbers are sent without waiting for those before; each that comes back must be the next one, so
//! that a byte that is lost, doubled or of another stream is seen, whichever way it went.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use anyhow::Result;
use clap::Args;

use crate::tally::Tally;

/// Threads that only count need little.
const STACK: usize = 128 << 10;

#[derive(Args)]
pub struct Streams {
    #[arg(long)]
    to: SocketAddr,
    #[arg(long, default_value_t = 10)]
    streams: u32,
    /// Between two numbers of a stream.
    #[arg(long, default_value_t = 100)]
    pause_ms: u64,
    #[arg(long, default_value_t = 20_000)]
    timeout_ms: u64,
}

impl Streams {
    pub fn run(self) -> Result<()> {
        let tally = Tally::default();
        thread::scope(|scope| {
            let mut streams = Vec::new();
            for number in 0..self.streams {
                let (this, tally) = (&self, &tally);
                let stream = move || match this.stream(number, tally) {
                    Ok(()) => _ = Tally::add(&tally.finished),
                    Err(error) => tally.failed(&error),
                };
                let small = thread::Builder::new().stack_size(STACK);
                streams.push(small.spawn_scoped(scope, stream)?);
            }
            tally.say_until_ended(scope, &streams)
        })
    }

    fn stream(&self, number: u32, tally: &Tally) -> io::Result<()> {
        let timeout = Duration::from_millis(self.timeout_ms);
        let mut stream = TcpStream::connect_timeout(&self.to, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        let base = u64::from(number) << 32;
        let mut sending = stream.try_clone()?;
        thread::scope(|scope| {
            let small = thread::Builder::new().stack_size(STACK);
            let sender = small.spawn_scoped(scope, move || self.send(&mut sending, base, tally))?;
            let received = receive(&mut stream, base, tally)?;
            let sent = sender.join().unwrap_or(Err(io::ErrorKind::Other.into()))?;
            if sent == received { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
        })
    }

    /// Up to which number, when the input has ended.
    fn send(&self, stream: &mut TcpStream, base: u64, tally: &Tally) -> io::Result<u64> {
        let mut next = base;
        while !tally.is_over() {
            stream.write_all(&next.to_be_bytes())?;
            next += 1;
            thread::sleep(Duration::from_millis(self.pause_ms));
        }
        stream.shutdown(Shutdown::Write)?;
        Ok(next)
    }
}

/// Up to which number, when the other end has ended.
fn receive(stream: &mut TcpStream, base: u64, tally: &Tally) -> io::Result<u64> {
    let mut next = base;
    loop {
        let mut number = [0; 8];
        match stream.read(&mut number)? {
            0 => return Ok(next),
            first => stream.read_exact(&mut number[first..])?,
        }
        if number != next.to_be_bytes() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if next == base {
            Tally::add(&tally.opened);
        }
        Tally::add(&tally.done);
        next += 1;
    }
}
