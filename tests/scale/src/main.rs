//! `martlet-scale`: a controller in a large cluster, and what it costs: memory, the time until all
//! agents know everything, and what one pod's change takes.
//!
//! | file | what it does |
//! |---|---|
//! | `cluster` | the objects of the cluster |
//! | `controller` | the program that is measured |
//! | `agents` | thousands of connections that listen |

#![forbid(unsafe_code)]

mod agents;
mod cluster;
mod controller;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use martlet_played::Played;
use tokio::time::sleep;

use agents::Agents;
use controller::{Controller, Usage};

/// What a controller costs in a large cluster.
#[derive(Parser)]
#[command(name = "martlet-scale")]
struct Args {
    /// Pods of the cluster, all of them enrolled; a twentieth of them has a service.
    #[arg(long, default_value_t = 100_000)]
    pods: usize,
    /// Nodes, each with an agent's pod.
    #[arg(long, default_value_t = 5_000)]
    nodes: usize,
    /// Of them, those whose agents are connected.
    #[arg(long, default_value_t = 5_000)]
    agents: usize,
    /// Pods that come and go, one after the other, while that is measured.
    #[arg(long, default_value_t = 20)]
    changes: usize,
    /// The controller; by default, the one beside this program.
    #[arg(long, value_name = "FILE")]
    controller: Option<PathBuf>,
    /// How long anything may take, in seconds.
    #[arg(long, default_value_t = 1_800)]
    patience: u64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.agents <= args.nodes, "an agent needs a node");
    raise_open_files().context("allowing more open files")?;
    let patience = Duration::from_secs(args.patience);
    let program = match &args.controller {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("martlet-controller"),
    };
    println!("{} pods, {} nodes, {} agents", args.pods, args.nodes, args.agents);
    let api = Played::start();
    cluster::fill(&api, args.pods, args.nodes);
    let mut controller = Controller::start(&program, &api)?;
    let measured = measure(&args, &api, &mut controller, patience).await;
    measured.with_context(|| format!("the controller says:\n{}", controller.log()))
}

async fn measure(
    args: &Args,
    api: &Played,
    controller: &mut Controller,
    patience: Duration,
) -> Result<()> {
    let began = Instant::now();
    controller.until_listening(patience).await?;
    let known = controller.usage()?;
    println!("knows the cluster after {:.1} s, {known}", began.elapsed().as_secs_f64());

    let began = Instant::now();
    let agents = Agents::start(controller, args.agents)?;
    agents.until_told(1, patience).await?;
    let told = controller.usage()?;
    let (seconds, bytes) = (began.elapsed().as_secs_f64(), agents.bytes());
    println!("all agents have their first directory after {seconds:.1} s, {told}");
    println!(
        "  {:.1} MiB for each agent, {:.1} ms of CPU",
        mebibytes(bytes) / args.agents as f64,
        (told.cpu - known.cpu).as_secs_f64() * 1e3 / args.agents as f64,
    );

    sleep(Duration::from_secs(20)).await;
    let (before, began) = (controller.usage()?, Instant::now());
    sleep(Duration::from_secs(20)).await;
    let idle = (controller.usage()?.cpu - before.cpu).as_secs_f64() / began.elapsed().as_secs_f64();
    println!("when nothing changes: {:.2} % of a CPU, {}", idle * 100.0, controller.usage()?);

    let mut taken = Vec::new();
    let (before, sent) = (controller.usage()?, agents.bytes());
    for number in 0..args.changes {
        let (version, began) = (agents.version(), Instant::now());
        cluster::change(api, number, args.nodes);
        agents.until_told(version + 1, patience).await?;
        taken.push(began.elapsed());
    }
    changes(&taken, before, controller.usage()?, agents.bytes() - sent, args.agents);
    ensure!(agents.ended() == 0, "{} agents lost their connection", agents.ended());
    Ok(())
}

fn changes(taken: &[Duration], before: Usage, after: Usage, bytes: u64, agents: usize) {
    let mut taken = taken.to_vec();
    taken.sort_unstable();
    let Some(last) = taken.last() else { return };
    let many = taken.len() as f64;
    println!(
        "one pod comes or goes: all agents know after {:.0} ms (median; at most {:.0})",
        taken[taken.len() / 2].as_secs_f64() * 1e3,
        last.as_secs_f64() * 1e3,
    );
    println!(
        "  {:.1} ms of CPU, {:.0} bytes for each agent; {after}",
        (after.cpu - before.cpu).as_secs_f64() * 1e3 / many,
        bytes as f64 / many / agents as f64,
    );
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Each agent has a socket here, and one in the controller, which inherits the limit.
fn raise_open_files() -> Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?)
}
