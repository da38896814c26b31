//! Whom a handshake is to meet, and whose word is taken for it.
//!
//! A lane is between workloads, the control plane between parts of Martlet: neither believes who
//! belongs to the other.

use std::{fmt, str::FromStr, sync::Arc};

use martlet_model::{Part, SpiffeId, TrustDomain};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use crate::{PeerProblem, TrustBundle, fingerprint};

/// Who may be met.
#[derive(Debug, Clone)]
pub enum Expected {
    /// Whoever calls a workload.
    AnyWorkload,
    Workload(SpiffeId),
    /// Whoever serves a bundle of a trust domain: workload, part, or something else.
    Exactly(SpiffeId),
    /// Workload or part: an authority asks what others would think of what it has certified.
    Anybody,
    /// By a node.
    ControllerOf(TrustDomain),
    /// By a controller; or nobody, who has no certificate yet.
    NodeOf(TrustDomain),
}

/// Which roots are believed.
#[derive(Debug)]
pub enum Roots {
    Bundle(Arc<TrustBundle>),
    /// Those that the peer shows, if they have one of these fingerprints.
    Pinned(Vec<RootPin>),
}

/// The SHA-256 of a root's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RootPin(Arc<str>);

impl Expected {
    pub fn check(&self, found: &SpiffeId) -> Result<(), PeerProblem> {
        let is_of = |domain: &TrustDomain| found.trust_domain_str() == domain.as_str();
        let is_met = match (self, Part::of(found)) {
            (Self::AnyWorkload | Self::Workload(_), _) if Part::is_reserved(found) => {
                return Err(PeerProblem::Reserved(found.clone()));
            }
            (Self::Workload(expected) | Self::Exactly(expected), _) if expected != found => {
                let (expected, found) = (expected.clone(), found.clone());
                return Err(PeerProblem::Unexpected { expected, found });
            }
            (Self::Anybody | Self::AnyWorkload | Self::Workload(_) | Self::Exactly(_), _) => true,
            (Self::ControllerOf(domain), Some(Part::Controller)) => is_of(domain),
            (Self::NodeOf(domain), Some(Part::Node(_))) => is_of(domain),
            (Self::ControllerOf(_) | Self::NodeOf(_), _) => false,
        };
        if is_met { Ok(()) } else { Err(PeerProblem::NotAPart(found.clone())) }
    }

    /// Whether nobody may be met, too.
    pub fn is_certificate_demanded(&self) -> bool {
        !matches!(self, Self::NodeOf(_))
    }
}

impl Roots {
    /// Those that are believed whatever a peer shows.
    pub fn own(&self) -> Option<&TrustBundle> {
        match self {
            Self::Bundle(trust) => Some(trust),
            Self::Pinned(_) => None,
        }
    }

    /// The roots to be asked about somebody of `domain` who has shown these certificates.
    pub fn bundle<'a>(
        &self,
        domain: &TrustDomain,
        shown: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Arc<TrustBundle>, PeerProblem> {
        let pins = match self {
            Self::Bundle(trust) => return Ok(trust.clone()),
            Self::Pinned(pins) => pins,
        };
        let pinned: Vec<_> =
            shown.filter(|der| pins.contains(&RootPin::of(der))).map(<[u8]>::to_vec).collect();
        if pinned.is_empty() {
            return Err(PeerProblem::NotPinned);
        }
        let roots = TrustBundle::new([(domain.clone(), pinned)]);
        roots.map(Arc::new).map_err(|error| PeerProblem::Chain(error.to_string()))
    }
}

impl RootPin {
    pub fn of(der: &[u8]) -> Self {
        Self(fingerprint(der).into())
    }

    /// Of all certificates in a PEM text; `None` if one of them cannot be read.
    pub fn of_pem(text: &[u8]) -> Option<Vec<Self>> {
        let pins = CertificateDer::pem_slice_iter(text).map(|der| der.map(|der| Self::of(&der)));
        pins.collect::<Result<_, _>>().ok()
    }
}

impl FromStr for RootPin {
    type Err = ();

    /// 64 digits and letters from a to f.
    fn from_str(text: &str) -> Result<Self, ()> {
        let is_digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        (text.len() == 64 && text.bytes().all(is_digit)).then(|| Self(text.into())).ok_or(())
    }
}

impl fmt::Display for RootPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
