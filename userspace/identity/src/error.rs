//! What can be wrong with our own material, and with a peer's.

use martlet_model::{Closed, Quarantine, SpiffeId, SpiffeIdError, TrustDomain};
use thiserror::Error;

/// Our own keys, certificates or roots are not usable.
#[derive(Debug, Error)]
pub enum IdentityError {
    #[error("the cryptographic library made no key")]
    Key,
    #[error("what was kept of an earlier process is no SVID of this workload")]
    Kept,
    #[error("the stored key is no PKCS #8 key of ECDSA P-256")]
    StoredKey,
    #[error("the request for a certificate cannot be read")]
    UnreadableRequest,
    #[error("asking for a certificate")]
    Request(#[source] rcgen::Error),
    #[error("a root certificate of {0} cannot be used: {1}")]
    Root(TrustDomain, String),
    #[error("the trust domain {0} has no root certificate")]
    NoRoot(TrustDomain),
    #[error("certificates or keys of the web cannot be used: {0}")]
    Web(String),
    #[error("the certificate chain is empty")]
    EmptyChain,
    #[error("our certificate cannot be used")]
    Certificate(#[source] PeerProblem),
    #[error("our certificate is for {found}, not for {expected}")]
    WrongIdentity { found: SpiffeId, expected: SpiffeId },
    #[error("our certificate is for another key")]
    WrongKey,
}

/// What is wrong with a peer's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PeerProblem {
    #[error("the certificate cannot be read")]
    Unreadable,
    #[error("the certificate has {0} URI names instead of one")]
    UriCount(usize),
    #[error("the URI name is no SPIFFE ID: {0}")]
    NotSpiffe(SpiffeIdError),
    #[error("the certificate is not meant for this: {0}")]
    Usage(&'static str),
    #[error("the certificate breaks the rules of its form: {0}")]
    Form(&'static str),
    #[error("the certificate's key is not accepted: {0}")]
    Key(&'static str),
    #[error("the trust domain {0} is not trusted")]
    TrustDomain(TrustDomain),
    #[error("the chain does not lead to a root of its trust domain: {0}")]
    Chain(String),
    #[error("the certificate has expired")]
    Expired,
    #[error("the certificate is not valid yet")]
    NotYetValid,
    #[error("the root of the chain is out of its time")]
    RootOutOfTime,
    #[error("it is cut off by the quarantine of {0}")]
    Quarantined(Quarantine),
    #[error("{0} belongs to a part of Martlet itself, which is no workload")]
    Reserved(SpiffeId),
    #[error("{0} is not one of the parts of Martlet that belong here")]
    NotAPart(SpiffeId),
    #[error("none of its roots has a fingerprint that was expected")]
    NotPinned,
    #[error("expected {expected}, met {found}")]
    Unexpected { expected: SpiffeId, found: SpiffeId },
}

/// Why a handshake did not lead to a [`crate::Peer`].
#[derive(Debug, Error)]
pub enum HandshakeError {
    #[error("this workload has no certificate yet")]
    OwnMissing,
    #[error("this workload's certificate has expired")]
    OwnExpired,
    #[error("this workload is cut off by the quarantine of {0}")]
    OwnQuarantined(Quarantine),
    #[error("the handshake took too long")]
    TimedOut,
    #[error("the peer was refused")]
    Peer(#[source] PeerProblem),
    #[error("the peer presented no certificate")]
    NoCertificate,
    #[error("the peer does not speak the protocol that is spoken here")]
    NoProtocol,
    #[error("the peer refused us")]
    RefusedByPeer(#[source] rustls::Error),
    #[error("TLS failed")]
    Tls(#[source] rustls::Error),
    #[error("the connection failed during the handshake")]
    Io(#[source] std::io::Error),
    #[error("TLS cannot be configured")]
    Configuration(#[source] rustls::Error),
}

impl HandshakeError {
    /// The reason that the record of the connection gives.
    pub fn closed(&self) -> Closed {
        match self {
            Self::OwnMissing => Closed::OwnCertificateMissing,
            Self::OwnExpired => Closed::OwnCertificateExpired,
            Self::OwnQuarantined(_) => Closed::Quarantined,
            Self::TimedOut => Closed::HandshakeTimedOut,
            Self::Peer(problem) => problem.closed(),
            Self::NoCertificate => Closed::PeerWithoutCertificate,
            Self::NoProtocol => Closed::PeerWithoutProtocol,
            Self::RefusedByPeer(_) => Closed::RefusedByPeer,
            Self::Tls(_) | Self::Io(_) | Self::Configuration(_) => Closed::HandshakeFailed,
        }
    }
}

impl PeerProblem {
    pub fn closed(&self) -> Closed {
        match self {
            Self::Expired | Self::NotYetValid | Self::RootOutOfTime => Closed::PeerExpired,
            Self::UriCount(_) | Self::NotSpiffe(_) | Self::Reserved(_) => {
                Closed::PeerIdentityInvalid
            }
            Self::TrustDomain(_) => Closed::PeerWrongTrustDomain,
            Self::Unexpected { .. } | Self::NotAPart(_) => Closed::PeerUnexpected,
            Self::Quarantined(_) => Closed::Quarantined,
            Self::Unreadable
            | Self::Form(_)
            | Self::Key(_)
            | Self::Usage(_)
            | Self::Chain(_)
            | Self::NotPinned => Closed::PeerUntrusted,
        }
    }
}
