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
  1  the command failed, `check` found an error, or `coverage` what it was to fail on
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
    /// What was encrypted at the pods of this node, and what was not: pair by pair, since the
    /// kernel's maps were made
    Coverage {
        #[command(flatten)]
        filter: CoverageFilter,
        /// Exit with 1 if anything of this kind was counted; may be given several times
        #[arg(long, value_enum, value_name = "KIND")]
        fail_on: Vec<Kind>,
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

#[derive(Debug, Clone, Default, clap::Args)]
pub struct CoverageFilter {
    /// Only pairs with this workload at one end
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub workload: Option<String>,
    /// Only pairs with a workload of this namespace at one end
    #[arg(long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Only pairs with anything of this kind; may be given several times
    #[arg(long, value_enum, value_name = "KIND")]
    pub only: Vec<Kind>,
}

/// The columns of the coverage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// TCP through the agents
    Mtls,
    /// TCP in plaintext that was let through
    Plaintext,
    /// TCP that got around steering, and was refused by the guard
    Unseen,
    /// TCP that was refused
    Refused,
    /// UDP and other protocols that were let through
    Other,
    /// UDP and other protocols that were refused
    OtherRefused,
    /// What a strict workload would refuse of what was let through
    Strict,
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
