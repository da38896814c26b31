//! Identities: keys, SVIDs, trust bundles, and the TLS handshakes that prove them. The only crate
//! that names rustls, and the one place for TLS parameters.
//!
//! A [`Peer`] exists only after a handshake whose certificate was verified: a chain to a root of
//! the trust domain that the certificate itself names, with exactly one SPIFFE ID, and on the
//! caller's side the one that the route expects.

#![forbid(unsafe_code)]

mod bundle;
pub mod control;
mod credentials;
mod document;
pub mod endpoint;
mod error;
mod expected;
mod flight;
mod handed;
mod handshake;
mod host;
mod kept;
mod key;
mod leaf;
pub mod limits;
mod parameters;
mod stored;
mod svid;
mod verified;
mod verify;

pub use bundle::{RootKey, TrustBundle};
pub use credentials::Credentials;
pub use document::{BundleDocument, DocumentError};
pub use error::{HandshakeError, IdentityError, PeerProblem};
pub use expected::RootPin;
pub use handed::HandedKey;
pub use handshake::{
    Peer, Secured, originate, originate_at, originate_saying, refused_by_peer, terminate,
    terminate_at,
};
pub use host::{HostAuthorities, HostCertificate, HostProblem, Vouched};
pub use key::{Csr, SigningKey};
pub use parameters::{CONTROL_PROTOCOL, LANE_PROTOCOL};
pub use stored::{KeyDigest, NodeKey};
pub use svid::{Chain, Svid, describe, fingerprint};
pub use verify::verify_chain;
