//! The demonstration: three nodes on one machine, unmodified nginx and curl, and what the wire shows.
//!
//! Read in this order: the place ([`stage`]), who talks and what must stay secret ([`errand`]),
//! what is seen on the wire ([`wire`]), the story ([`acts`]), and what is told in the end ([`page`]).

mod acts;
mod curtain;
mod errand;
mod facts;
mod keep;
mod page;
mod stage;
mod terminal;
mod wire;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use clap::Parser;

use crate::{curtain::Curtain, stage::Stage, terminal::Terminal};

/// Shows mutual TLS between pods on three nodes of one machine, and leaves the machine as it was.
#[derive(Parser)]
#[command(name = "martlet-demo")]
struct Args {
    /// Leave everything running until Ctrl-C, and say how to play with it.
    #[arg(long)]
    keep: bool,
    /// Print one JSON object as the last line; everything else goes to standard error.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let curtain = match Curtain::hang() {
        Ok(curtain) => curtain,
        Err(error) => return fail(&error),
    };
    let result = show(&args, &curtain);
    // A signal has ended the stage under the story's feet: its errors mean nothing then.
    curtain.wait_if_falling();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn show(args: &Args, curtain: &Curtain) -> Result<()> {
    let mut terminal = Terminal::new(args.json, curtain);
    terminal.title("Martlet: mutual TLS between pods that know nothing of it");
    let mut stage = terminal.step("three nodes, five pods, nginx in one of them", || {
        let lab = curtain.raise()?;
        Stage::set(lab)
    })?;
    let facts = acts::play(&mut stage, &mut terminal).inspect_err(|_| stage.explain(&terminal))?;
    page::print(&facts, &terminal);
    if args.keep {
        keep::print(&stage, &terminal)?;
    } else {
        page::print_outlook(&terminal);
    }
    if args.json {
        writeln!(io::stdout(), "{}", facts.to_json()).context("writing the JSON object")?;
    }
    if args.keep {
        curtain.wait_for_signal();
    }
    Ok(())
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("\nThe demonstration failed: {error:#}");
    ExitCode::FAILURE
}
