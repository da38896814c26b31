//! What can be wrong with an authority, and with what it is asked.

use std::{io, path::PathBuf};

use thiserror::Error;

use crate::limits::CSR_BYTES;

/// The authority, or one of its files, cannot be used.
#[derive(Debug, Error)]
pub enum AuthorityError {
    #[error("making a certificate")]
    Make(#[source] rcgen::Error),
    #[error("the request is refused: {0}")]
    Request(#[from] BadRequest),
    #[error("the identity belongs to another trust domain")]
    ForeignIdentity,
    #[error("{path}: {what}")]
    File {
        path: PathBuf,
        what: &'static str,
        #[source]
        source: Option<io::Error>,
    },
    #[error("{path} cannot be read as PEM")]
    Pem { path: PathBuf },
    #[error("{path} cannot be read: {what}")]
    Settings { path: PathBuf, what: String },
    #[error("the issuer's certificate or key in {0} cannot be used")]
    Issuer(PathBuf, #[source] rcgen::Error),
    #[error("{path}: the issuer {what}")]
    IssuerUnfit { path: PathBuf, what: &'static str },
    #[error("{path}: the root's key {what}")]
    RootUnfit { path: PathBuf, what: &'static str },
    #[error("the roots cannot be read, or no trial certificate could be asked for")]
    Trial,
    #[error(
        "the issuer is not valid now; with root.key it would be renewed, without it sign a new one (martlet authority csr)"
    )]
    IssuerExpired,
    #[error("the command {command}")]
    Command {
        command: String,
        #[source]
        source: CommandError,
    },
}

/// What went wrong with a command that signs, encrypts or decrypts.
#[derive(Debug, Error)]
pub enum CommandError {
    #[error("cannot be started")]
    Start(#[source] io::Error),
    #[error("its input or output failed")]
    Io(#[source] io::Error),
    #[error("gave no answer within {0} s")]
    Deadline(u64),
    #[error("gave more than {0} bytes")]
    TooMuch(usize),
    #[error("ended with {status}: {complaint}")]
    Failed { status: String, complaint: String },
    #[error("gave a signature that is not by the key of the certificate")]
    Signature,
}

/// Why a certificate signing request is not taken. Each is safe to tell whoever asks.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BadRequest {
    #[error("it has {0} bytes, and may have {CSR_BYTES}")]
    TooLong(usize),
    #[error("it cannot be read as a PKCS #10 request")]
    Unreadable,
    #[error("its key is Ed25519, which many peers' TLS cannot verify; use ECDSA P-256 or P-384")]
    Ed25519,
    #[error("its key is RSA; use ECDSA P-256 or P-384")]
    Rsa,
    #[error("its key is on P-521; use P-256 or P-384")]
    P521,
    #[error("its key is on another curve; use P-256 or P-384")]
    Curve,
    #[error("its key is of a kind that is not known; use ECDSA P-256 or P-384")]
    Kind,
    #[error("the point of its key is not in uncompressed form")]
    Point,
    #[error("it is not signed by its own key, so that possession is not proven")]
    NotProven,
}

impl BadRequest {
    /// For logs and programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLong(_) => "csr_too_long",
            Self::Unreadable => "csr_unreadable",
            Self::Ed25519 => "key_ed25519",
            Self::Rsa => "key_rsa",
            Self::P521 => "key_p521",
            Self::Curve => "key_curve",
            Self::Kind => "key_kind",
            Self::Point => "key_point",
            Self::NotProven => "csr_not_proven",
        }
    }
}
