//! `martlet`: asks the agent of this node or those of a cluster what they do, a controller about
//! nodes and trust, and makes authorities.
//!
//! Read in this order: the command line ([`args`]), where somebody is asked ([`place`]), how an agent
//! is ([`agent`]), what is printed of its answers ([`show`]), and of those of a cluster
//! ([`cluster`]), how a controller is asked ([`controller`]) and about what ([`trust`]), what an
//! authority is asked for ([`authority`]), how a cluster gets Martlet ([`install`]), and what shells
//! and manuals are told ([`pages`]). [`relay`] is the far end of what is asked in a pod.

#![forbid(unsafe_code)]

mod agent;
mod args;
mod authority;
mod cluster;
mod controller;
mod human;
mod install;
mod json;
mod limits;
mod pages;
mod paint;
mod place;
mod relay;
mod show;
mod table;
mod trust;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::FromArgMatches as _;

use agent::{Agent, AgentError};
use args::{Args, Ask, Command, Reach, RelayTo};
use cluster::Cluster;
use controller::{Controller, ControllerError};
use paint::{Tone, paint};

fn main() -> ExitCode {
    let args = Args::from_arg_matches(&pages::command().get_matches());
    match run(args.unwrap_or_else(|error| error.exit())) {
        Ok(code) => code,
        Err(error) if reader_has_left(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let told = tell(&error);
            // There is nobody left to tell.
            let _ = anstream::stderr().write_all(told.as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<ExitCode> {
    let Args { reach, command } = args;
    match command {
        Command::Authority(command) => {
            let (said, code) = authority::run(&command)?;
            write(&said)?;
            Ok(code)
        }
        Command::Completion { shell } => {
            write(&pages::completion(shell)?)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { directory } => {
            let count = pages::manual(&directory)?;
            write(&format!("{count} pages are in {}\n", directory.display()))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Relay { to } => relay::run(match to {
            RelayTo::Agent => reach.agent(),
            RelayTo::Controller => reach.controller(),
        }),
        Command::Ask(asked) => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting the runtime")?
            .block_on(ask(&reach, asked)),
    }
}

async fn ask(reach: &Reach, asked: Ask) -> Result<ExitCode> {
    let here = || Agent::at(reach.agent().to_owned());
    match asked {
        Ask::Look(look) if reach.is_far() => {
            cluster::show(&Cluster::open(reach).await?, look).await
        }
        Ask::Look(look) => show::show(&here(), look).await,
        Ask::Check { pre, answer } if pre || reach.is_far() => {
            cluster::check(reach, pre, answer.output).await
        }
        Ask::Check { pre: _, answer } => show::look_for_trouble(&here(), answer.output).await,
        Ask::Install(options) => install::install(reach, options).await,
        Ask::Upgrade(options) => install::upgrade(reach, options).await,
        Ask::Uninstall(options) => install::uninstall(reach, options).await,
        Ask::Nodes { answer } => trust::nodes(&controller(reach).await?, answer.output).await,
        Ask::Node(command) => trust::node(&controller(reach).await?, command).await,
        Ask::Trust(command) => trust::trust(&controller(reach).await?, command).await,
        Ask::Policy { namespace, answer } => {
            let cluster = Cluster::open(reach).await?;
            cluster::policy(&cluster, namespace.as_ref(), answer.output).await
        }
        Ask::Top { once, answer } if reach.is_far() => {
            let cluster = Cluster::open(reach).await?;
            cluster::top(cluster::Looked::Cluster(&cluster), once, answer.output).await
        }
        Ask::Top { once, answer } => {
            cluster::top(cluster::Looked::Here(&here()), once, answer.output).await
        }
        Ask::Bugreport { file } => {
            cluster::bugreport(&Cluster::open(reach).await?, file.as_deref()).await
        }
        Ask::Explain { from, to, answer } => {
            let cluster = Cluster::open(reach).await?;
            cluster::explain(&cluster, &from, &to, answer.output).await
        }
    }
}

async fn controller(reach: &Reach) -> Result<Controller> {
    match reach.controller_is_far() {
        true => Cluster::open(reach).await?.controller().await,
        false => Ok(Controller::at(reach.controller().to_owned())),
    }
}

/// Writes to standard output: with colors on a terminal, without them elsewhere.
fn write(text: &str) -> Result<()> {
    let mut to = anstream::stdout().lock();
    to.write_all(text.as_bytes()).and_then(|()| to.flush()).context("writing the answer")
}

/// As in `martlet records | head`.
fn reader_has_left(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn tell(error: &anyhow::Error) -> String {
    let mut told = format!("{} {error:#}\n", paint("error:", Tone::Bad));
    let agent = error.downcast_ref::<AgentError>().and_then(AgentError::hint);
    let controller = error.downcast_ref::<ControllerError>().and_then(ControllerError::hint);
    if let Some(hint) = agent.or(controller) {
        told.push_str(&format!("{} {hint}\n", paint(" hint:", Tone::Faint)));
    }
    told
}
