//! Development tasks. Has few dependencies, so that it works before anything else is installed.

mod doctor;
mod task;
mod tidy;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about = "Development tasks of Martlet")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Say what this machine lacks, which package has it, and why it is needed.
    Doctor {
        /// Install what is missing.
        #[arg(long)]
        yes: bool,
    },
    /// Build all binaries and the kernel programs.
    Build,
    /// Run every test: unit, property, and kernel tests (as root).
    Test {
        /// Install what is missing first.
        #[arg(long)]
        yes: bool,
    },
    /// Check formatting and lints, with warnings as errors.
    Lint,
    /// Check what the compiler does not: crate edges, who may name what, file sizes.
    Tidy,
}

fn main() -> Result<()> {
    match Args::parse().command {
        Command::Doctor { yes } => doctor::run(yes),
        Command::Build => task::build(),
        Command::Test { yes } => {
            doctor::run(yes)?;
            task::test()
        }
        Command::Lint => task::lint(),
        Command::Tidy => tidy::run(),
    }
}
