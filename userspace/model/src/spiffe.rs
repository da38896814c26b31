//! SPIFFE identities, parsed strictly.
//!
//! The grammar is that of the SPIFFE ID standard, section 2: lower-case trust domain of
//! `[a-z0-9.-_]`, path segments of `[a-zA-Z0-9.-_]`, no empty, `.` or `..` segment, no query,
//! fragment, port, user information or percent-encoding, at most 2048 bytes in all.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use thiserror::Error;

const SCHEME: &str = "spiffe://";
/// SPIFFE ID standard, section 2.3.
const MAX_ID_LENGTH: usize = 2048;
/// SPIFFE ID standard, section 2.1.
const MAX_TRUST_DOMAIN_LENGTH: usize = 255;

/// The name of a trust domain, such as `prod.example.org`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(Arc<str>);

/// A SPIFFE ID with a non-empty path, such as `spiffe://prod.example.org/ns/shop/sa/cart`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    uri: Arc<str>,
    /// Length of the trust domain within `uri`.
    domain_length: u16,
}

/// Why a text is not a SPIFFE ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SpiffeIdError {
    #[error("a SPIFFE ID starts with spiffe://")]
    Scheme,
    #[error("the identity is longer than 2048 bytes")]
    TooLong,
    #[error("the trust domain is empty")]
    EmptyTrustDomain,
    #[error("the trust domain is longer than 255 bytes")]
    TrustDomainTooLong,
    #[error("the trust domain may hold only a-z, 0-9, '.', '-' and '_'")]
    TrustDomainCharacter,
    #[error("a workload's identity needs a path")]
    EmptyPath,
    #[error("a path segment is empty")]
    EmptySegment,
    #[error("a path segment is '.' or '..'")]
    DotSegment,
    #[error("a path segment may hold only a-z, A-Z, 0-9, '.', '-' and '_'")]
    SegmentCharacter,
}

impl TrustDomain {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SpiffeId {
    /// The identity of a Kubernetes-shaped workload: `spiffe://<domain>/ns/<namespace>/sa/<account>`.
    pub fn for_workload(
        domain: &TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, SpiffeIdError> {
        format!("{SCHEME}{domain}/ns/{namespace}/sa/{service_account}").parse()
    }

    pub fn as_str(&self) -> &str {
        &self.uri
    }

    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain(Arc::from(self.trust_domain_str()))
    }

    pub fn trust_domain_str(&self) -> &str {
        &self.uri[SCHEME.len()..SCHEME.len() + usize::from(self.domain_length)]
    }

    /// The path, starting with `/`.
    pub fn path(&self) -> &str {
        &self.uri[SCHEME.len() + usize::from(self.domain_length)..]
    }

    /// Namespace and service account, if the path has the form `/ns/<namespace>/sa/<account>`.
    pub fn workload_names(&self) -> Option<(&str, &str)> {
        let mut segments = self.path()[1..].split('/');
        match (segments.next(), segments.next(), segments.next(), segments.next(), segments.next())
        {
            (Some("ns"), Some(namespace), Some("sa"), Some(account), None) => {
                Some((namespace, account))
            }
            _ => None,
        }
    }
}

fn check_trust_domain(text: &str) -> Result<(), SpiffeIdError> {
    if text.is_empty() {
        return Err(SpiffeIdError::EmptyTrustDomain);
    }
    if text.len() > MAX_TRUST_DOMAIN_LENGTH {
        return Err(SpiffeIdError::TrustDomainTooLong);
    }
    let allowed = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    if text.bytes().all(allowed) { Ok(()) } else { Err(SpiffeIdError::TrustDomainCharacter) }
}

fn check_segment(text: &str) -> Result<(), SpiffeIdError> {
    match text {
        "" => return Err(SpiffeIdError::EmptySegment),
        "." | ".." => return Err(SpiffeIdError::DotSegment),
        _ => {}
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if text.bytes().all(allowed) { Ok(()) } else { Err(SpiffeIdError::SegmentCharacter) }
}

impl FromStr for TrustDomain {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        check_trust_domain(text)?;
        Ok(Self(Arc::from(text)))
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        if text.len() > MAX_ID_LENGTH {
            return Err(SpiffeIdError::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?;
        let (domain, path) = rest
            .split_once('/')
            .ok_or_else(|| check_trust_domain(rest).err().unwrap_or(SpiffeIdError::EmptyPath))?;
        check_trust_domain(domain)?;
        if path.is_empty() {
            return Err(SpiffeIdError::EmptyPath);
        }
        path.split('/').try_for_each(check_segment)?;
        let domain_length = u16::try_from(domain.len()).map_err(|_| SpiffeIdError::TooLong)?;
        Ok(Self { uri: Arc::from(text), domain_length })
    }
}

macro_rules! text_like {
    ($type:ty, $text:ident) => {
        impl TryFrom<String> for $type {
            type Error = SpiffeIdError;
            fn try_from(text: String) -> Result<Self, SpiffeIdError> {
                text.parse()
            }
        }
        impl From<$type> for String {
            fn from(value: $type) -> String {
                value.as_str().to_owned()
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
text_like!(TrustDomain, text);
text_like!(SpiffeId, text);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_identity_has_its_parts() {
        let domain: TrustDomain = "prod.example.org".parse().unwrap();
        let id = SpiffeId::for_workload(&domain, "shop", "cart").unwrap();
        assert_eq!(id.as_str(), "spiffe://prod.example.org/ns/shop/sa/cart");
        assert_eq!(id.trust_domain(), domain);
        assert_eq!(id.path(), "/ns/shop/sa/cart");
        assert_eq!(id.workload_names(), Some(("shop", "cart")));
    }

    #[test]
    fn whatever_is_not_a_spiffe_id_is_refused_with_its_reason() {
        use SpiffeIdError::*;
        let long = format!("spiffe://a/{}", "x".repeat(2048));
        let long_domain = format!("spiffe://{}/x", "a".repeat(256));
        for (text, reason) in [
            ("", Scheme),
            ("https://a/b", Scheme),
            ("SPIFFE://a/b", Scheme),
            ("spiffe://", EmptyTrustDomain),
            ("spiffe:///b", EmptyTrustDomain),
            ("spiffe://a", EmptyPath),
            ("spiffe://a/", EmptyPath),
            ("spiffe://A/b", TrustDomainCharacter),
            ("spiffe://a:1/b", TrustDomainCharacter),
            ("spiffe://u@a/b", TrustDomainCharacter),
            ("spiffe://a%62/b", TrustDomainCharacter),
            ("spiffe://a?/b", TrustDomainCharacter),
            ("spiffe://a//b", EmptySegment),
            ("spiffe://a/b/", EmptySegment),
            ("spiffe://a/./b", DotSegment),
            ("spiffe://a/../b", DotSegment),
            ("spiffe://a/b%2f", SegmentCharacter),
            ("spiffe://a/b\0", SegmentCharacter),
            ("spiffe://a/bü", SegmentCharacter),
            ("spiffe://a/b?q", SegmentCharacter),
            ("spiffe://a/b#f", SegmentCharacter),
            (long.as_str(), TooLong),
            (long_domain.as_str(), TrustDomainTooLong),
        ] {
            assert_eq!(text.parse::<SpiffeId>(), Err(reason), "{text:?}");
        }
    }
}
