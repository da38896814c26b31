//! The one-time token with which a node joins: the secret, and what the node needs to know that it
//! speaks to the right controller.
//!
//! Its text is `martlet-join-1:<node>:<fingerprint>[,<fingerprint>]:<secret>`, the last two in hex.

use std::{fmt, str::FromStr};

use martlet_identity::{RootPin, fingerprint};
use martlet_model::Label;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::limits;

const PREFIX: &str = "martlet-join-1";

/// What proves that a node may join. Not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

/// The token of a service account of Kubernetes: a JWT in its compact form (RFC 7515, section 7.1).
/// Not shown by `Debug`. Only the API server can say whose it is.
#[derive(Clone, PartialEq, Eq)]
pub struct AccountToken(Zeroizing<String>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// The node that may join with it.
    pub node: Label,
    /// Of the roots, one of which the controller is certified by.
    pub pins: Vec<RootPin>,
    pub secret: Secret,
}

/// Why a text is not a token.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("it is no join token as `martlet node join` prints it: {0}")]
pub struct TokenError(&'static str);

impl Secret {
    pub fn new() -> Self {
        Self(Zeroizing::new(rand::random::<[u8; limits::SECRET_BYTES]>().to_vec()))
    }

    pub fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        let bytes = Zeroizing::new(bytes);
        (bytes.len() == limits::SECRET_BYTES).then_some(Self(bytes))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What whoever checks it keeps of it. 256 random bits need no salt and no slow hash.
    pub fn digest(&self) -> String {
        fingerprint(&self.0)
    }
}

impl Default for Secret {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl AccountToken {
    /// `None` if the text cannot be one.
    pub fn new(text: &str) -> Option<Self> {
        let is_part = |part: &str| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            !part.is_empty() && part.bytes().all(fits)
        };
        let parts: Vec<_> = text.split('.').collect();
        let is_one = text.len() <= limits::ACCOUNT_TOKEN_BYTES
            && parts.len() == 3
            && parts.into_iter().all(is_part);
        is_one.then(|| Self(Zeroizing::new(text.to_owned())))
    }

    /// The token in full, for the one who is to check it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for AccountToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccountToken")
    }
}

impl JoinToken {
    /// The token in full, for the one who is to have it.
    pub fn reveal(&self) -> Zeroizing<String> {
        let pins: Vec<_> = self.pins.iter().map(RootPin::to_string).collect();
        let secret: String =
            self.secret.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        Zeroizing::new(format!("{PREFIX}:{}:{}:{secret}", self.node, pins.join(",")))
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let mut parts = text.trim().split(':');
        if parts.next() != Some(PREFIX) {
            return Err(TokenError("it begins with martlet-join-1:"));
        }
        let (Some(node), Some(pins), Some(secret), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError("it has four parts with colons between them"));
        };
        let node = node.parse().map_err(|_| TokenError("its second part is a node's name"))?;
        let pins = pins.split(',').map(str::parse).collect::<Result<Vec<_>, ()>>();
        let pins = pins.map_err(|()| TokenError("its third part is fingerprints of roots"))?;
        let secret = unhex(secret).and_then(Secret::from_bytes);
        let secret = secret.ok_or(TokenError("its last part is 64 digits and letters a to f"))?;
        match pins.len() <= limits::ROOTS {
            true => Ok(Self { node, pins, secret }),
            false => Err(TokenError("it has too many fingerprints")),
        }
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| (byte as char).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    text.as_bytes().chunks(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        let pins = vec![RootPin::of(b"one"), RootPin::of(b"two")];
        JoinToken { node: "worker-1.rack".parse().unwrap(), pins, secret: Secret::new() }
    }

    #[test]
    fn a_token_is_read_as_it_is_written() {
        let token = token();
        assert_eq!(token.reveal().parse::<JoinToken>().unwrap(), token);
        assert_eq!(format!("  {}\n", *token.reveal()).parse::<JoinToken>().unwrap(), token);
    }

    #[test]
    fn two_tokens_have_two_secrets_that_are_not_shown() {
        let (one, two) = (token(), token());
        assert_ne!(one.secret.digest(), two.secret.digest());
        let hex = one.reveal().rsplit(':').next().unwrap().to_owned();
        assert!(!format!("{one:?}").contains(&hex));
    }

    #[test]
    fn what_is_no_token_says_why() {
        let good = token().reveal().to_string();
        let bad = |text: &str| text.parse::<JoinToken>().unwrap_err().to_string();
        assert!(bad("").contains("begins with"));
        assert!(bad("eyJhbGciOi").contains("begins with"));
        assert!(bad(&good.replace("worker", "Worker")).contains("node's name"));
        assert!(bad(&format!("{good}:")).contains("four parts"));
        assert!(bad(&good[..good.len() - 1]).contains("last part"));
        assert!(bad(&format!("{good}00")).contains("last part"));
        assert!(bad(&good.replace(',', ";")).contains("fingerprints"));
    }
}
