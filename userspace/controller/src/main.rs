//! `martlet-controller`: tells the agents of several nodes what there is and whom to trust, and
//! certifies their workloads.
//!
//! Read in this order: what it is started with ([`files`]), how its parts are put together
//! ([`app`]), what it knows ([`book`]), who its nodes are ([`members`]), whom it certifies
//! ([`office`]), and what it can be asked ([`admin`]).

#![forbid(unsafe_code)]

mod admin;
mod app;
mod book;
mod files;
mod limits;
mod members;
mod metrics;
mod office;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};
use martlet_standalone::{ControllerFile, DirectoryFile};
use martlet_telemetry::{Format, logs};

/// What all nodes of a mesh are told, and who certifies them.
///
/// SIGHUP reads the directory file again. SIGTERM ends it; nothing changes on any node while it is
/// away.
#[derive(Parser)]
#[command(name = "martlet-controller", version)]
struct Args {
    /// Without a cluster: what there is on all nodes stands in a directory file. The one way to run
    /// it today.
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
    if !args.standalone {
        bail!("only --standalone is there: without it, the controller would need a cluster");
    }
    let file = files::controller(&args.config)?;
    let (directory, digest) = files::directory(&file.directory, &file.trust_domain)?;
    if args.check {
        println!("{}: in order", args.config.display());
        println!("{}: in order", file.directory.display());
        return Ok(());
    }
    logs::init(match args.log_format {
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(app::run(file, directory, digest))
}
