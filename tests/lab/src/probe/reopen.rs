//! A server as many are written by hand: without SO_REUSEADDR, and with one connection at a time.

use std::{
    io::{self, Read as _},
    net::{SocketAddr, TcpListener},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::{exchange::Exchange, facts};

/// Between two attempts to listen.
const PAUSE: Duration = Duration::from_micros(50);

/// Serves one connection, and goes on when its input ends.
#[derive(Args)]
pub struct Reopen {
    #[arg(long)]
    listen: SocketAddr,
    #[command(flatten)]
    exchange: Exchange,
    /// Listens no more as soon as it has accepted.
    #[arg(long)]
    early: bool,
    /// Listens no more, listens again at once, and serves one more connection.
    #[arg(long)]
    again: bool,
    /// How long to try while the port is in use.
    #[arg(long, default_value_t = 0)]
    insist_ms: u64,
}

impl Reopen {
    pub fn run(self) -> Result<()> {
        let listener = self.serve()?;
        io::stdin().read_to_end(&mut Vec::new()).context("waiting for the end of the input")?;
        drop(listener);
        if self.again {
            self.serve()?;
        }
        Ok(())
    }

    fn serve(&self) -> Result<Option<TcpListener>> {
        let listener = self.insist().with_context(|| format!("listening on {}", self.listen))?;
        let (stream, from) = listener.accept().context("accepting")?;
        let listener = (!self.early).then_some(listener);
        let mut line = self.exchange.perform(stream, 0)?.to_json();
        line["accepted"] = from.to_string().into();
        crate::print(&line);
        Ok(listener)
    }

    /// Says how often it had to try, and how long the port was in use.
    fn insist(&self) -> io::Result<TcpListener> {
        let (begun, mut attempts) = (Instant::now(), 0_u64);
        loop {
            attempts += 1;
            match listen(self.listen) {
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse
                        && begun.elapsed() < Duration::from_millis(self.insist_ms) =>
                {
                    thread::sleep(PAUSE);
                }
                Err(error) => return Err(error),
                Ok(listener) => {
                    let taken_us = facts::micros(begun.elapsed());
                    let at = self.listen.to_string();
                    crate::print(
                        &json!({ "listening": at, "attempts": attempts, "taken_us": taken_us }),
                    );
                    return Ok(listener);
                }
            }
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.bind(&address.into())?;
    socket.listen(16)?;
    Ok(socket.into())
}
