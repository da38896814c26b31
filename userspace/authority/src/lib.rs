//! The certificate authority: a root, an issuer below it, and leaves of a day.
//!
//! The authority computes every field of a leaf itself; from the request it takes the public key.

#![forbid(unsafe_code)]

mod files;
mod issue;
mod key;
mod template;

use std::path::PathBuf;

use thiserror::Error;

pub use issue::{Authority, LEAF_LIFETIME, LeafRequest};

#[derive(Debug, Error)]
pub enum AuthorityError {
    #[error("making a certificate")]
    Make(#[source] rcgen::Error),
    #[error("the request is refused: {0}")]
    Request(String),
    #[error("{path}: {what}")]
    File {
        path: PathBuf,
        what: &'static str,
        #[source]
        source: Option<std::io::Error>,
    },
    #[error("{path} cannot be read as PEM")]
    Pem { path: PathBuf },
    #[error("the issuer's certificate or key in {0} cannot be used")]
    Issuer(PathBuf, #[source] rcgen::Error),
    #[error("{path}: the issuer {what}")]
    IssuerUnfit { path: PathBuf, what: &'static str },
    #[error("the roots cannot be read, or no trial certificate could be asked for")]
    Trial,
    #[error("the issuer has expired; make a new one")]
    IssuerExpired,
}
