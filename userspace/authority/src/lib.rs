//! The certificate authority: a root, an issuer of a week below it, and leaves of a day.
//!
//! The authority computes every field of a certificate itself; from a request it takes the public
//! key, and only if the request proves that whoever asks has the private one.
//!
//! Read in this order: what an authority can do ([`Authority`]), how it comes to be ([`NewRoot`]),
//! who may have a certificate ([`Attestor`], [`Registrar`]), what is kept of that ([`log`]), and whom
//! nodes are told to trust ([`trust`]).

#![forbid(unsafe_code)]

mod attest;
mod command;
mod cut;
mod error;
mod files;
mod issue;
mod key;
mod limits;
pub mod log;
mod make;
mod rate;
mod registrar;
mod request;
mod root;
mod settings;
mod template;
pub mod trust;

pub use attest::{Attested, Attestor, Denied};
pub use error::{AuthorityError, BadRequest, CommandError};
pub use issue::{Authority, Lasting, LeafRequest};
pub use limits::{ISSUER_LIFETIME, LEAF_LIFETIME, REFRESH_HINT};
pub use make::{NewRoot, pem, sign_issuer};
pub use registrar::{Ask, Refusal, Registrar};
