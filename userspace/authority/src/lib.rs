//! The certificate authority: a root, an issuer of a week below it, and leaves of a day.
//!
//! The authority computes every field of a certificate itself; from a request it takes the public
//! key, and only if the request proves that whoever asks has the private one.
//!
//! Read in this order: what an authority can do ([`Authority`]), how it comes to be ([`NewRoot`]),
//! and who may have a certificate ([`Attestor`], [`Registrar`]).

#![forbid(unsafe_code)]

mod attest;
mod command;
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

pub use attest::{Attested, Attestor, Denied};
pub use error::{AuthorityError, BadRequest, CommandError};
pub use issue::{Authority, Lasting, LeafRequest, Part};
pub use limits::{ISSUER_LIFETIME, LEAF_LIFETIME};
pub use make::{NewRoot, sign_issuer};
pub use registrar::{Ask, Refusal, Registrar};
