//! `martlet-agent`: steers, proves, checks and encrypts the connections of one node's workloads.

#![forbid(unsafe_code)]

mod accept;
mod app;
mod arrivals;
mod certificates;
mod check;
mod closing;
mod configuration;
mod coverage;
mod deserted;
mod failing;
mod handing;
mod issuer;
mod limits;
mod outside;
mod probing;
mod renewal;
mod reports;
mod standing;
mod takeover;
mod told;
mod uninstall;
mod upkeep;
mod workloads;

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand, ValueEnum};
use martlet_kernel::{Feature, Places, confine};
use martlet_model::Label;
use martlet_standalone::{AccessLog, Settings, Source};
use martlet_telemetry::{Format, logs};

use crate::{app::Options, configuration::Loaded, issuer::Issuer, uninstall::Uninstall};

/// Transparent mutual TLS for the workloads of this node.
///
/// SIGHUP reads the node file again. SIGTERM waits for what is open; the kernel programs stay attached,
/// so that nothing goes out in plaintext while no agent runs. An agent that starts while another one
/// lives on its node takes over from it.
#[derive(Parser)]
#[command(name = "martlet-agent", version)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// The node file (docs/node-file.md).
    #[arg(long, global = true, value_name = "FILE", default_value = "/etc/martlet/node.yaml")]
    config: PathBuf,
    /// This node's name, instead of the node file's `node.name`: where all nodes have one file.
    #[arg(long, global = true, env = "MARTLET_NODE_NAME", value_name = "NAME")]
    node_name: Option<Label>,
    /// Only say whether the node file and the authority that it names are good.
    #[arg(long)]
    check: bool,
    /// Print the JSON schema of the node file.
    #[arg(long)]
    print_schema: bool,
    /// How log lines look.
    #[arg(long, env = "MARTLET_LOG_FORMAT", value_enum, default_value = "text")]
    log_format: LogFormat,
    /// Log what the kernel programs decide: for debugging only, it costs time in every `connect()`.
    #[arg(long, env = "MARTLET_BPF_LOG")]
    bpf_log: bool,
    /// What starts this agent again when it has ended, as a pod. An agent that was taken over from then
    /// waits until it is told to stop, and does not take over again.
    #[arg(long, env = "MARTLET_INSTANCE", hide = true)]
    instance: Option<String>,
    /// Kernel features to take as missing.
    #[arg(long, env = "MARTLET_WITHOUT_FEATURES", value_delimiter = ',', hide = true)]
    without_features: Vec<Feature>,
    /// How long certificates live, instead of 24 hours.
    #[arg(long, env = "MARTLET_LEAF_SECONDS", hide = true)]
    leaf_seconds: Option<u64>,
}

/// What else it can do than run.
#[derive(Debug, Subcommand)]
enum Command {
    Uninstall(Uninstall),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<()> {
    if let Some(Command::Uninstall(uninstall)) = args.command {
        return uninstall.run(&args.config, args.node_name.as_ref());
    }
    if args.print_schema {
        println!("{:#}", martlet_standalone::schema());
        return Ok(());
    }
    let loaded = configuration::read(&args.config, args.node_name.as_ref())?;
    if args.check {
        return check_only(&loaded);
    }
    logs::init(match args.log_format {
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
    })?;
    let open_files =
        martlet_kernel::raise_open_files().context("raising the limit of open files")?;
    let way = way(&loaded, args.instance.as_ref())?;
    let confinement = confine(&places(&loaded.file.settings))?;
    let options = Options {
        path: args.config,
        node: args.node_name,
        without: args.without_features,
        instance: args.instance,
        leaf_lifetime: args.leaf_seconds.map(Duration::from_secs),
        verbose_kernel: args.bpf_log,
        open_files,
        confinement,
        way,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(app::run(options, loaded))
}

/// For an agent in a pod: see [`takeover::make_way`].
fn way(loaded: &Loaded, instance: Option<&String>) -> Result<Option<takeover::Way>> {
    let Some(instance) = instance else { return Ok(None) };
    let claim = takeover::Claim::of(&loaded.file, Some(instance.clone()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("starting the runtime")?;
    runtime.block_on(takeover::make_way(&loaded.file, &claim))
}

/// Each of these changes only with a restart, and so does what the agent may write to.
fn places(settings: &Settings) -> Places {
    let beside = settings.socket.parent().unwrap_or(Path::new("/"));
    let log = match &settings.access_log {
        AccessLog::File(path) => Some(path.clone()),
        AccessLog::Off | AccessLog::Stdout => None,
    };
    let directories = vec![settings.state.clone(), beside.to_owned()];
    Places { pin: settings.pin.clone(), directories, log }
}

fn check_only(loaded: &Loaded) -> Result<()> {
    let file = &loaded.file;
    if let Source::Authority(directory) = &file.source {
        Issuer::open(directory, &file.trust_domain, None)?;
    }
    app::traces::traces(file)?;
    let all: HashSet<_> = file.directory.workload_addresses().map(|(_, w)| &w.name).collect();
    println!("good: {} workloads on this node, {} in the mesh", file.local.len(), all.len());
    Ok(())
}
