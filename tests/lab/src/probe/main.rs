//! Says what a program in a pod sees: connects, serves, exchanges bytes, and prints facts as JSON.
//!
//! Every end of a connection does one [`exchange::Exchange`]; each prints one line when it has ended.

mod calls;
mod crowd;
mod dial;
mod exchange;
mod facts;
mod flood;
mod insist;
mod latency;
mod patrol;
mod pattern;
mod reopen;
mod row;
mod serve;
mod streams;
mod tally;

use clap::{Parser, Subcommand};
use serde_json::Value;

#[derive(Parser)]
#[command(name = "lab-probe", about = "What a program in a pod sees, as JSON")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Listens, and does the same exchange on every connection.
    Serve(serve::Serve),
    /// Listens without SO_REUSEADDR, for one connection after another.
    Reopen(reopen::Reopen),
    /// Connects once and does one exchange.
    Connect(exchange::Connect),
    /// Holds many connections open at once to an echo server.
    Crowd(crowd::Crowd),
    /// Makes many short connections, one after another.
    Row(row::Row),
    /// Asks again and again, over new connections and over one that stays open.
    Patrol(patrol::Patrol),
    /// Dials until it is answered.
    Insist(insist::Insist),
    /// Does one thing as hard as it can until it is killed.
    Flood(flood::Flood),
    /// Makes new connections at a steady rate.
    Calls(calls::Calls),
    /// Holds streams open on which numbers go out and come back.
    Streams(streams::Streams),
    /// Measures round trips to several echo servers, in turns.
    Latency(latency::Latency),
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    facts::raise_file_limit()?;
    match arguments.command {
        Command::Serve(serve) => serve.run(),
        Command::Reopen(reopen) => reopen.run(),
        Command::Connect(connect) => connect.run(),
        Command::Crowd(crowd) => crowd.run(),
        Command::Row(row) => row.run(),
        Command::Patrol(patrol) => patrol.run(),
        Command::Insist(insist) => insist.run(),
        Command::Flood(flood) => flood.run(),
        Command::Calls(calls) => calls.run(),
        Command::Streams(streams) => streams.run(),
        Command::Latency(latency) => latency.run(),
    }
}

/// One line at once: whoever waits for it reads lines.
fn print(value: &Value) {
    println!("{value}");
}
