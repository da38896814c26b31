//! New connections at a steady rate, each of which asks once, until its input ends.
//!
//! Connections have their times from the beginning: whoever is late begins the next ones at once, so
//! that a slow answer does not make the load lighter.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::atomic::AtomicU64,
    thread,
    time::{Duration, Instant},
};

use clap::Args;

use crate::tally::Tally;

#[derive(Args)]
pub struct Calls {
    #[arg(long)]
    to: SocketAddr,
    /// How many to begin in a second.
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// The most at once.
    #[arg(long, default_value_t = 16)]
    at_once: usize,
    #[arg(long, default_value_t = 20_000)]
    timeout_ms: u64,
}

impl Calls {
    pub fn run(self) -> ! {
        let (tally, next, begun) = (Tally::default(), AtomicU64::new(0), Instant::now());
        thread::scope(|scope| {
            let work = || self.work(&tally, &next, begun);
            let workers: Vec<_> = (0..self.at_once).map(|_| scope.spawn(work)).collect();
            tally.say_until_ended(scope, &workers)
        })
    }

    fn work(&self, tally: &Tally, next: &AtomicU64, begun: Instant) {
        let pause = Duration::from_secs(1) / self.rate.max(1);
        while !tally.is_over() {
            let number = Tally::add(next);
            let time = pause.mul_f64(number as f64);
            thread::sleep(time.saturating_sub(begun.elapsed()));
            let one = Instant::now();
            match self.call(number) {
                Ok(()) => {
                    Tally::add(&tally.done);
                    tally.took(one.elapsed());
                }
                Err(error) => tally.failed(&error),
            }
        }
    }

    fn call(&self, number: u64) -> io::Result<()> {
        let timeout = Duration::from_millis(self.timeout_ms);
        let mut stream = TcpStream::connect_timeout(&self.to, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        let (asked, mut answer) = (number.to_be_bytes(), [0; 8]);
        stream.write_all(&asked)?;
        stream.read_exact(&mut answer)?;
        if answer == asked { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }
}
