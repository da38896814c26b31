//! Whom the nodes of a trust domain trust, how that changes, and who is cut off.
//!
//! ```text
//!            rotate                all nodes know both              nobody needs the old root
//!  Steady ───────────▶ Staged ──────────────────────────▶ Switched ──────────────────────────▶ Steady
//!                        │ back                            │   ▲                        (retired)
//!                        └────────────────────────────────▶┘   └─ back: old and new change places
//! ```
//!
//! *Staged*: both roots are trusted, the old one issues. *Switched*: both are trusted, the new one
//! issues. Going back is the same step with the roots in each other's places, so it is as careful as
//! going on. Only when the old root is retired is its key removed.
//!
//! Steps are decided by a pure function of what the nodes have said ([`Obstacle`]s are what is left
//! to wait for), and are on the disk before they have any effect ([`Store`]).

mod changes;
mod document;
mod foreign;
mod generation;
mod issuer;
mod report;
mod rotation;
mod store;

use std::{collections::BTreeMap, time::SystemTime};

use martlet_model::{Label, QuarantineError, TrustDomain};
use thiserror::Error;

use crate::AuthorityError;

pub use foreign::Foreign;
pub use issuer::Whose;
pub use rotation::{Obstacle, Step};
pub use store::Store;

/// What a node said last. The controller gives all that ever joined, also those that are away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub name: Label,
    /// When it last said what follows.
    pub last_seen: SystemTime,
    /// Which version of the trust it has put into effect.
    pub trust_version: u64,
    /// How many certificates it has in use, its own one too, by the SHA-256 of their issuers'
    /// certificates.
    pub leaves: BTreeMap<String, u64>,
    /// How many connections live, by the digest of the key of the root that proves the other end
    /// (`RootKey::digest`).
    pub connections: BTreeMap<String, u64>,
    pub oldest_expiry: Option<SystemTime>,
    /// Its certificates by the quarter of their life that they are in.
    pub quarters: [u64; 4],
    /// When the next of them is to be renewed.
    pub next_renewal: Option<SystemTime>,
}

/// What cannot be done, or not now.
#[derive(Debug, Error)]
pub enum TrustError {
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("{0}")]
    State(String),
    #[error("a rotation is under way; finish it, or take it back (martlet trust back)")]
    Rotating,
    #[error("no rotation is under way")]
    NotRotating,
    #[error(
        "that root has no issuer that is valid now, and its key is elsewhere: `martlet trust csr` asks for one, `martlet trust install` takes it"
    )]
    NoIssuer,
    #[error(
        "the key of that root is reached from here, so that its issuers are made by themselves"
    )]
    KeyIsHere,
    #[error("the new root has the key of {0}; a root is rotated to another key")]
    SameKey(String),
    #[error("{0} is the own trust domain: nobody else may say whom it trusts")]
    OwnDomain(TrustDomain),
    #[error("the bundle of {domain} is refused: {why}")]
    Bundle { domain: TrustDomain, why: String },
    #[error(
        "{0} was removed by hand; what its endpoint says is taken again after `martlet trust import`"
    )]
    Removed(TrustDomain),
    #[error("{0} is not among the trusted domains")]
    NotTrusted(TrustDomain),
    #[error(transparent)]
    Quarantine(#[from] QuarantineError),
    #[error("{0} is the own trust domain: that would cut off everybody")]
    Everybody(TrustDomain),
    #[error("{0} is not cut off")]
    NotCutOff(String),
    #[error("there are {0} already, and no more are kept")]
    TooMany(usize),
    #[error("it could not be kept where it has to outlive this process, and was taken back: {0}")]
    NotKept(String),
}

#[cfg(test)]
mod tests;
