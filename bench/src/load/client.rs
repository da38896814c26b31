//! The client: workers that do one thing over and over until the window is over.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use martlet_bench::limits;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout_at},
};

use crate::{
    Closer,
    exchange::{Exchange, Failure, at, connect, read_end},
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
    /// Open, one round trip, hold; one round trip more at the end.
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
        let work =
            Work { to: self.connect, window, size: self.size as usize, close: self.close };
        let mut workers = JoinSet::new();
        match self.mode {
            Mode::Idle => drop(workers.spawn(hold(work, self.connections))),
            mode => {
                for _ in 0..self.connections {
                    workers.spawn(work.run(mode));
                }
            }
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

/// Opens one after another, so that none waits in a queue, and says when all are open.
async fn hold(work: Work, connections: usize) -> Tally {
    let mut tally = Tally::new(work.window);
    let mut exchange = Exchange::new(work.size);
    let mut open = Vec::with_capacity(connections);
    for _ in 0..connections {
        match open_one(work, &mut exchange).await {
            Ok(stream) => open.push(stream),
            Err(Failure { step, error }) => tally.error(step, &error),
        }
    }
    println!("{}", json!({ "open": open.len() }));
    sleep_until(work.window.end).await;
    for stream in &mut open {
        match timeout_at(work.window.end + limits::STALL, exchange.round_trip(stream)).await {
            Ok(Ok(())) => {}
            Ok(Err(Failure { step, error })) => tally.error(step, &error),
            Err(_) => tally.failure("stalled"),
        }
    }
    tally
}

async fn open_one(work: Work, exchange: &mut Exchange) -> Result<TcpStream, Failure> {
    let mut stream = connect(work.to).await?;
    exchange.round_trip(&mut stream).await?;
    Ok(stream)
}
