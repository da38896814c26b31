//! What carries the connections that are measured.

use std::fmt::{self, Display};

use clap::ValueEnum;
use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// TCP as it is, between pods of nodes that have no agent.
    Direct,
    /// A HAProxy in each pod, with mTLS between the two.
    Haproxy,
    /// An agent on each node.
    Martlet,
    /// TCP between pods that are not enrolled, of the nodes that have agents.
    Outside,
    /// Agents of another build, on nodes of their own.
    #[value(skip)]
    Earlier,
}

impl Subject {
    /// Those that are measured unless told otherwise.
    pub const ALL: [Subject; 4] =
        [Subject::Direct, Subject::Haproxy, Subject::Martlet, Subject::Outside];

    /// Failures of what we compare with are shown; failures of our own end the run badly.
    pub fn is_ours(self) -> bool {
        matches!(self, Subject::Martlet | Subject::Outside | Subject::Earlier)
    }

    /// Whether agents of ours carry its connections.
    pub fn has_agents(self) -> bool {
        matches!(self, Subject::Martlet | Subject::Earlier)
    }

    /// The part of names of pods and files that stands for it.
    pub fn word(self) -> &'static str {
        match self {
            Subject::Direct => "direct",
            Subject::Haproxy => "haproxy",
            Subject::Martlet => "martlet",
            Subject::Outside => "outside",
            Subject::Earlier => "earlier",
        }
    }
}

impl Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Subject::Direct => "direct",
            Subject::Haproxy => "HAProxy",
            Subject::Martlet => "Martlet",
            Subject::Outside => "outside the mesh",
            Subject::Earlier => "the other build",
        })
    }
}
