//! The client: workers that do one thing over and over until the window is over.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use martlet_bench::limits;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout_at},
};

use crate::{
    Closer,
    exchange::{Exchange, Failure, at, connect, read_end},
    hold,
    tally::{Tally, Window},
    usage::Usage,
};

#[derive(Args)]
pub struct Client {
    #[arg(long)]
    connect: SocketAddr,
    #[arg(long, value_enum)]
    mode: Mode,
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// How long the measured window is.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// How long the same is done before the window.
    #[arg(long, default_value_t = 0.0)]
    warmup: f64,
    /// Bytes of a message.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(8..1 << 20))]
    size: u64,
    /// Who closes first in `crr`; the server must be told the same.
    #[arg(long, value_enum, default_value_t = Closer::Client)]
    close: Closer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Send as much as goes, in writes of 128 KiB, to a sink.
    Bulk,
    /// Round trips on connections that stay.
    Rr,
    /// Connect, one round trip, close.
    Crr,
    /// Open, one round trip, hold until standard input ends; then one round trip more.
    Idle,
}

/// What each worker needs to know.
#[derive(Clone, Copy)]
struct Work {
    to: SocketAddr,
    window: Window,
    size: usize,
    close: Closer,
}

impl Client {
    pub async fn run(self) -> Result<()> {
        let begin = Instant::now() + Duration::from_secs_f64(self.warmup);
        let window = Window { begin, end: begin + Duration::from_secs_f64(self.seconds) };
        let work = Work { to: self.connect, window, size: self.size as usize, close: self.close };
        if self.mode == Mode::Idle {
            return hold::run(self.connect, self.connections, work.size).await;
        }
        let mut workers = JoinSet::new();
        for _ in 0..self.connections {
            workers.spawn(work.run(self.mode));
        }
        let usage = measure(window).await?;
        let mut sum = Tally::new(window);
        while let Some(tally) = workers.join_next().await {
            sum.merge(&tally.context("a worker panicked")?);
        }
        println!("{}", serde_json::to_string(&sum.report(usage))?);
        Ok(())
    }
}

async fn measure(window: Window) -> Result<Usage> {
    sleep_until(window.begin).await;
    let before = Usage::now()?;
    sleep_until(window.end).await;
    Ok(Usage::now()?.since(before))
}

impl Work {
    async fn run(self, mode: Mode) -> Tally {
        let mut tally = Tally::new(self.window);
        let repeat = async {
            while !self.window.is_over() {
                let result = match mode {
                    Mode::Bulk => self.bulk(&mut tally).await,
                    Mode::Rr | Mode::Idle => self.round_trips(&mut tally).await,
                    Mode::Crr => self.connections(&mut tally).await,
                };
                if let Err(Failure { step, error }) = result {
                    tally.error(step, &error);
                    sleep(limits::PAUSE_AFTER_ERROR).await;
                }
            }
        };
        let stalled = timeout_at(self.window.end + limits::STALL, repeat).await.is_err();
        if stalled {
            tally.failure("stalled");
        }
        tally
    }

    async fn bulk(&self, tally: &mut Tally) -> Result<(), Failure> {
        let mut stream = connect(self.to).await?;
        let block = vec![0x5a; limits::BULK_WRITE];
        let mut sent = 0;
        while !self.window.is_over() {
            let length = stream.write(&block).await.map_err(at("write"))?;
            tally.bytes(length);
            sent += length as u64;
        }
        stream.shutdown().await.map_err(at("shutdown"))?;
        if stream.read_u64().await.map_err(at("read the count"))? != sent {
            tally.failure("bytes lost");
        }
        Ok(())
    }

    async fn round_trips(&self, tally: &mut Tally) -> Result<(), Failure> {
        let mut stream = connect(self.to).await?;
        let mut exchange = Exchange::new(self.size);
        while !self.window.is_over() {
            let begun = Instant::now();
            exchange.round_trip(&mut stream).await?;
            tally.exchange(begun);
        }
        Ok(())
    }

    async fn connections(&self, tally: &mut Tally) -> Result<(), Failure> {
        let mut exchange = Exchange::new(self.size);
        while !self.window.is_over() {
            let begun = Instant::now();
            let mut stream = connect(self.to).await?;
            exchange.round_trip(&mut stream).await?;
            if self.close == Closer::Server {
                read_end(&mut stream).await?;
            }
            drop(stream);
            tally.exchange(begun);
        }
        Ok(())
    }
}
