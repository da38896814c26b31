//! Development tasks. Has few dependencies, so that it works before anything else is installed.

mod build;
mod cluster;
mod command;
mod debian;
mod demo;
mod doctor;
mod fuzz;
mod image;
mod kind;
mod lint;
mod programs;
mod promises;
mod test;
mod tidy;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::doctor::Group;

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about = "Development tasks of Martlet")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Say what this machine lacks, which package has it, and why it is needed.
    Doctor {
        /// Install what is missing (Debian).
        #[arg(long)]
        yes: bool,
        /// Look only at what these need.
        #[arg(long = "for", value_enum, value_delimiter = ',')]
        groups: Vec<Group>,
    },
    /// Build all binaries and the kernel programs.
    Build {
        #[arg(long)]
        release: bool,
    },
    /// Run the tests: unit and property tests, the lab's, then those on the running kernel.
    Test(test::Args),
    /// Run the tests on other kernels, in virtual machines with an emulated processor.
    Vm(vm::Args),
    /// A Kubernetes cluster of several nodes on this machine.
    Cluster(cluster::Args),
    /// Build, and write an image with all binaries for clusters, without a daemon.
    Image(image::Args),
    /// The same as `cluster` with kind, for machines that have Docker.
    Kind(kind::Args),
    /// Build, and show the main job on this machine. Leaves nothing behind.
    Demo(demo::Args),
    /// Read the demonstration's output, and fail unless its last line says what it must.
    #[command(hide = true)]
    DemoVerdict,
    /// Build, and measure beside direct TCP and HAProxy.
    Bench {
        /// Only name what is missing, instead of installing it first.
        #[arg(long)]
        no_install: bool,
        /// Handed on to the benchmark (`--smoke`, `--help`, ...).
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run the fuzz targets, each for some seconds.
    Fuzz {
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Write `docs/promises.md`: what is promised, which tests show it, what they measured.
    Promises {
        /// Change nothing; fail if the page is not what the list says.
        #[arg(long)]
        check: bool,
    },
    /// Format all sources.
    Fmt {
        /// Change nothing; fail if something would change.
        #[arg(long)]
        check: bool,
    },
    /// Run clippy with warnings as errors.
    Lint,
    /// Check what the compiler does not: crate edges, who may name what, file sizes.
    Tidy,
}

fn main() -> ExitCode {
    let args = Args::parse();
    command::enter_workspace().and_then(|()| run(args.task)).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Doctor { yes, groups } => doctor::run(&groups, yes)?,
        Task::Build { release } => build::all(release)?,
        Task::Test(args) => return test::run(&args),
        Task::Vm(args) => return vm::run(&args),
        Task::Cluster(args) => return cluster::run(&args),
        Task::Image(args) => image::run(&args)?,
        Task::Kind(args) => kind::run(&args)?,
        Task::Demo(args) => return demo::demo(&args),
        Task::DemoVerdict => demo::judge()?,
        Task::Bench { no_install, arguments } => return demo::bench(!no_install, &arguments),
        Task::Fuzz { seconds } => fuzz::all(seconds)?,
        Task::Promises { check } => promises::run(check)?,
        Task::Fmt { check } => lint::format(check)?,
        Task::Lint => lint::clippy()?,
        Task::Tidy => tidy::run()?,
    }
    Ok(ExitCode::SUCCESS)
}
