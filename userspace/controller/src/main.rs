//! `martlet-controller`: tells the agents of several nodes what there is and whom to trust, and
//! certifies their workloads.
//!
//! Read in this order: what it is started with ([`files`]), how its parts are put together
//! ([`app`]), how several replicas are one controller ([`standby`]), what it knows ([`book`]), from a cluster
//! if there is one ([`cluster`]), who its nodes are ([`members`]), whom it certifies
//! ([`office`]), what it writes into the cluster ([`scribe`], [`programming`]), which other domains it exchanges roots with ([`federate`]), and what it can be asked
//! ([`admin`]).

#![forbid(unsafe_code)]

mod admin;
mod app;
mod book;
mod bundles;
mod cluster;
mod cut_off;
mod federate;
mod files;
mod limits;
mod members;
mod mesh_config;
mod metrics;
mod mirror;
mod office;
mod places;
mod programming;
mod scribe;
mod standby;
mod standings;
mod statuses;
mod taints;
mod web;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};
use martlet_standalone::{ControllerFile, DirectoryFile, Knows};
use martlet_telemetry::{Format, logs};

/// What all nodes of a mesh are told, and who certifies them.
///
/// SIGHUP reads the directory file again. SIGTERM ends it; nothing changes on any node while it is
/// away.
#[derive(Parser)]
#[command(name = "martlet-controller", version)]
struct Args {
    /// Without a cluster: what there is on all nodes stands in a directory file.
    #[arg(long)]
    standalone: bool,
    /// The controller file (docs/controller-file.md).
    #[arg(long, value_name = "FILE", default_value = "/etc/martlet/controller.yaml")]
    config: PathBuf,
    /// Only say whether both files are good.
    #[arg(long)]
    check: bool,
    /// Print the JSON schema of one of the files.
    #[arg(long, value_enum, value_name = "FILE")]
    print_schema: Option<Document>,
    /// How log lines look.
    #[arg(long, env = "MARTLET_LOG_FORMAT", value_enum, default_value = "text")]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Document {
    Controller,
    Directory,
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
    match args.print_schema {
        Some(Document::Controller) => println!("{:#}", ControllerFile::schema()),
        Some(Document::Directory) => println!("{:#}", DirectoryFile::schema()),
        None => {}
    }
    if args.print_schema.is_some() {
        return Ok(());
    }
    let file = files::controller(&args.config)?;
    let read = match (&file.knows, args.standalone) {
        (Knows::Directory(path), true) => Some(files::directory(path, &file.trust_domain)?),
        (Knows::Cluster(_), false) => None,
        (Knows::Directory(path), false) => bail!(
            "{} names the directory file {}; that is for --standalone",
            args.config.display(),
            path.display()
        ),
        (Knows::Cluster(_), true) => bail!(
            "{} has `kubernetes`, and with --standalone there is no cluster; give `directory`",
            args.config.display()
        ),
    };
    let federation = federate::Plan::of(&file)?;
    if let Some(hosts) = &file.hosts {
        files::hosts(hosts)?;
    }
    if args.check {
        println!("{}: in order", args.config.display());
        if let Knows::Directory(path) = &file.knows {
            println!("{}: in order", path.display());
        }
        return Ok(());
    }
    logs::init(match args.log_format {
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(app::run(file, read, federation))
}
