//! Peers of other make see what we claim: TLS 1.3 and nothing older, no resumption, no early data,
//! our protocol and a client certificate demanded, the post-quantum key exchange where the peer
//! prefers it, and no server name needed or sent.

#![allow(clippy::unwrap_used)]

mod fixture;
mod gnutls;
mod hello;
mod openssl;
mod rustls_peers;
