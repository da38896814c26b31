//! Identities: keys, SVIDs, trust bundles, and the TLS handshakes that prove them. The only crate
//! that names rustls, and the one place for TLS parameters.
//!
//! A [`Peer`] exists only after a handshake whose certificate was verified: a chain to a root of
//! the trust domain that the certificate itself names, with exactly one SPIFFE ID, and on the
//! caller's side the one that the route expects.

#![forbid(unsafe_code)]

mod bundle;
mod credentials;
mod error;
mod handshake;
mod key;
mod leaf;
pub mod limits;
mod parameters;
mod svid;
mod verify;

pub use bundle::{RootKey, TrustBundle};
pub use credentials::Credentials;
pub use error::{HandshakeError, IdentityError, PeerProblem};
pub use handshake::{
    Peer, Secured, originate, originate_at, refused_by_peer, terminate, terminate_at,
};
pub use key::{Csr, SigningKey};
pub use parameters::LANE_PROTOCOL;
pub use svid::{Chain, Svid, describe, fingerprint};
pub use verify::verify_chain;
