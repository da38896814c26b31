//! Who may have a certificate: the question, and the answers to it.

use std::future::Future;

use martlet_model::{Label, Quarantine, SpiffeId, WorkloadName};
use thiserror::Error;

/// Knows what runs where: a directory file, or the API server of a cluster.
///
/// It is asked twice for each certificate, before and after it is made, and both answers must be the
/// same; so it answers from what it knows now, never from what it has said before. Whatever it does
/// not know for certain is [`Denied`].
pub trait Attestor: Send + Sync {
    /// Whether this workload runs on this node now, and as whom.
    fn attest(
        &self,
        node: &Label,
        workload: &WorkloadName,
    ) -> impl Future<Output = Result<Attested, Denied>> + Send;
}

/// What is known about a workload that may have a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attested {
    pub identity: SpiffeId,
    /// Where it runs; another one than that which asked is a refusal.
    pub node: Label,
    /// Which life of the name it is: two pods of one name differ in it.
    pub uid: Option<String>,
}

/// Why a workload may not have a certificate. Safe to tell the node that asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Denied {
    #[error("no such workload is known")]
    UnknownWorkload,
    #[error("the workload does not run on this node")]
    OtherNode,
    #[error("no such node is known")]
    UnknownNode,
    #[error("the workload is ending")]
    Ending,
    #[error("the workload is not enrolled")]
    NotEnrolled,
    #[error("it is cut off by the quarantine of {0}")]
    Quarantined(Quarantine),
    #[error("it cannot be known now: {0}")]
    Unavailable(String),
}

impl Denied {
    /// For logs and programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownWorkload => "unknown_workload",
            Self::OtherNode => "other_node",
            Self::UnknownNode => "unknown_node",
            Self::Ending => "workload_ending",
            Self::NotEnrolled => "not_enrolled",
            Self::Quarantined(_) => "quarantined",
            Self::Unavailable(_) => "attestor_unavailable",
        }
    }
}
