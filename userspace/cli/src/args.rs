//! The command line. The page docs/cli.md is written from it.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use martlet_model::TrustDomain;

/// Shows what the Martlet agent of this node does, and makes certificate authorities
#[derive(Debug, Parser)]
#[command(name = "martlet", version, after_help = EXIT_CODES)]
pub struct Args {
    /// The agent's Unix socket
    #[arg(
        long,
        value_name = "PATH",
        env = "MARTLET_SOCKET",
        default_value = "/run/martlet/agent.sock",
        hide_env_values = true,
        global = true,
        display_order = 100
    )]
    pub socket: PathBuf,

    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  the command did what it should, and `check` found no error
  1  the command failed, or `check` found an error
  2  the command line is wrong";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Whether the node is ready, and if not, why; its hooks and what they decided
    Status {
        #[command(flatten)]
        answer: Answer,
    },
    /// The workloads that the agent knows, their identities, and whether they are steered
    Workloads {
        #[command(flatten)]
        answer: Answer,
    },
    /// The connections that are open now
    Connections {
        /// Ask again every second, until interrupted
        #[arg(short, long)]
        watch: bool,
        #[command(flatten)]
        answer: Answer,
    },
    /// The certificates of this node's workloads and of their authorities
    Certificates {
        #[command(flatten)]
        answer: Answer,
    },
    /// Looks for what is wrong on this node, and says what to do about it
    Check {
        #[command(flatten)]
        answer: Answer,
    },
    /// The records of the connections that ended last
    Records {
        /// Wait for those to come, until interrupted
        #[arg(short, long)]
        follow: bool,
        #[command(flatten)]
        answer: Answer,
    },
    /// Certificate authorities for nodes without a cluster
    #[command(subcommand)]
    Authority(AuthorityCommand),
}

#[derive(Debug, Subcommand)]
pub enum AuthorityCommand {
    /// Makes a root and an issuer below it; never overwrites any
    Init {
        /// Where root.crt, root.key, issuer.crt and issuer.key go
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// The trust domain, such as prod.example.org: the first part of every identity
        #[arg(long, value_name = "DOMAIN")]
        trust_domain: TrustDomain,
    },
}

#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Answer {
    /// A table for people, or the agent's own answer for programs
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Output {
    #[default]
    Table,
    Json,
}

#[cfg(test)]
mod tests;
