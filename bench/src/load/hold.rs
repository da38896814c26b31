//! Connections that are opened and then left alone, until whoever weighs them is done.

use std::{io::Read as _, net::SocketAddr};

use anyhow::{Context as _, Result};
use martlet_bench::limits;
use serde_json::json;
use tokio::{
    net::TcpStream,
    task::spawn_blocking,
    time::{Instant, timeout_at},
};

use crate::{
    exchange::{Exchange, Failure, connect},
    tally::{Tally, Window},
    usage::Usage,
};

/// Opens one after another, so that none waits in a queue, and says when all are open.
/// Once standard input has ended, each must still answer.
pub async fn run(to: SocketAddr, connections: usize, size: usize) -> Result<()> {
    let begin = Instant::now();
    let before = Usage::now()?;
    let mut exchange = Exchange::new(size);
    let mut failures = Vec::new();
    let mut open = Vec::with_capacity(connections);
    for _ in 0..connections {
        match open_one(to, &mut exchange).await {
            Ok(stream) => open.push(stream),
            Err(failure) => failures.push(failure),
        }
    }
    let mut tally = Tally::new(Window { begin, end: Instant::now() });
    let usage = Usage::now()?.since(before);
    println!("{}", json!({ "open": open.len() }));
    spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()))
        .await
        .context("waiting for the end of standard input")?
        .context("reading standard input")?;
    let deadline = Instant::now() + limits::STALL;
    for stream in &mut open {
        match timeout_at(deadline, exchange.round_trip(stream)).await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => failures.push(failure),
            Err(_) => tally.failure("stalled"),
        }
    }
    for Failure { step, error } in &failures {
        tally.error(step, error);
    }
    println!("{}", serde_json::to_string(&tally.report(usage))?);
    Ok(())
}

async fn open_one(to: SocketAddr, exchange: &mut Exchange) -> Result<TcpStream, Failure> {
    let mut stream = connect(to).await?;
    exchange.round_trip(&mut stream).await?;
    Ok(stream)
}
