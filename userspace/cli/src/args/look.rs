//! What agents can be asked to show: each of these is a page of one agent, and a page of a cluster.

use clap::{Subcommand, ValueEnum};

use super::Answer;

#[derive(Debug, Subcommand)]
pub enum Look {
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
        /// Only this workload's, with all that its chain says
        #[arg(value_name = "NAMESPACE/NAME")]
        workload: Option<String>,
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
    /// The records of the connections that ended last
    Records {
        /// Wait for those to come, until interrupted
        #[arg(short, long)]
        follow: bool,
        #[command(flatten)]
        answer: Answer,
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
