//! `martlet-load`: many TCP connections, as server and as client, on one thread each.
//!
//! It knows nothing of what carries its connections.
//! The server prints `{"listening": …}` when it is up; the client prints its report when it ends.

mod client;
mod exchange;
mod histogram;
mod hold;
mod server;
mod tally;
mod usage;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

#[derive(Parser)]
#[command(about = "Load for benchmarks: TCP server and client")]
struct Args {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Answer connections until SIGTERM.
    Server(server::Server),
    /// Make connections for some seconds and report.
    Client(client::Client),
}

/// Who ends a connection, and so who keeps its ports in TIME_WAIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Closer {
    Client,
    Server,
}

fn main() -> Result<()> {
    let args = Args::parse();
    raise_open_files()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    match args.role {
        Role::Server(server) => runtime.block_on(server.run()),
        Role::Client(client) => runtime.block_on(client.run()),
    }
}

fn raise_open_files() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("reading the open-file limit")?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raising the open-file limit")
}
