//! The lab's probe as a server in a pod: what it listens on, and what it saw of each connection.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    limits,
    pod::Pod,
    program::{Finished, Running},
    wait::wait_for,
};

/// Serves until it is dropped.
#[derive(Debug)]
pub struct Server {
    running: Running,
}

impl Server {
    /// On these addresses; `arguments` say what it does with each connection.
    pub(crate) fn start(pod: &Pod, listen: &[SocketAddr], arguments: &[&str]) -> Result<Server> {
        let listen: Vec<String> = listen.iter().map(SocketAddr::to_string).collect();
        let mut all = vec!["serve"];
        listen.iter().for_each(|address| all.extend(["--listen", address]));
        all.extend(arguments);
        let mut running = pod.probe(&all)?.spawn()?;
        running.wait_until_listening()?;
        Ok(Server { running })
    }

    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    pub fn be_last(&self) -> Result<()> {
        self.running.be_last()
    }

    /// What it saw of the connections that have ended so far.
    pub fn seen(&self) -> Vec<Value> {
        self.running.json_lines().into_iter().skip(1).collect()
    }

    /// What it saw of the connection that came from this address, once that has ended.
    pub fn saw(&self, from: SocketAddr) -> Result<Value> {
        let found = wait_for("the server to see the connection end", limits::PATIENCE, || {
            Ok(self.seen().into_iter().rev().find(|line| address(&line["accepted"]) == Some(from)))
        });
        found.with_context(|| format!("from {from}; it has seen {:#?}", self.seen()))
    }

    /// What it saw of its nth connection to end, counted from 0.
    pub fn saw_nth(&self, number: usize) -> Result<Value> {
        let found = wait_for("the server to see a connection end", limits::PATIENCE, || {
            Ok(self.seen().into_iter().nth(number))
        });
        found.with_context(|| format!("number {number}; it has seen {:#?}", self.seen()))
    }

    pub fn kill(self) -> Result<Finished> {
        self.running.kill()
    }
}

/// An address as the probe or a record gives it; a v4-mapped one as the IPv4 address that it is.
pub fn address(value: &Value) -> Option<SocketAddr> {
    let address: SocketAddr = value.as_str()?.parse().ok()?;
    let ip: IpAddr = address.ip().to_canonical();
    Some(SocketAddr::new(ip, address.port()))
}
