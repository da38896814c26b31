//! A node's own key, the one key that outlives its process: it is what the node's membership rests
//! on, and an agent that starts without its controller has nothing else to show.

use std::{fmt, sync::Arc};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer as _};
use zeroize::Zeroizing;

use crate::{Csr, IdentityError, SigningKey, fingerprint};

/// An ECDSA P-256 key that can be stored.
#[derive(Debug, Clone)]
pub struct NodeKey(SigningKey);

/// The SHA-256 of a public key (SubjectPublicKeyInfo, RFC 5280, section 4.1.2.7), in hex.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyDigest(Arc<str>);

impl NodeKey {
    pub fn generate() -> Result<Self, IdentityError> {
        SigningKey::generate().map(Self)
    }

    /// From what [`NodeKey::to_der`] has made.
    pub fn from_der(der: &[u8]) -> Result<Self, IdentityError> {
        let read = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der);
        read.map(SigningKey::of).map(Self).map_err(|_| IdentityError::StoredKey)
    }

    /// PKCS #8, for a file that only its owner may read.
    pub fn to_der(&self) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
        let document = self.0.pair().to_pkcs8v1().map_err(|_| IdentityError::Key)?;
        Ok(Zeroizing::new(document.as_ref().to_vec()))
    }

    pub fn signing(&self) -> &SigningKey {
        &self.0
    }
}

impl KeyDigest {
    /// Of a SubjectPublicKeyInfo, DER.
    pub(crate) fn of(info: &[u8]) -> Self {
        Self(fingerprint(info).into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Csr {
    /// Of the key that a certificate is asked for. Whether the asker holds it is not proven by this.
    pub fn key(&self) -> Result<KeyDigest, IdentityError> {
        match X509CertificationRequest::from_der(&self.0) {
            Ok(([], request)) => {
                Ok(KeyDigest::of(request.certification_request_info.subject_pki.raw))
            }
            _ => Err(IdentityError::UnreadableRequest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_key_is_the_same_key() {
        let key = NodeKey::generate().unwrap();
        let again = NodeKey::from_der(&key.to_der().unwrap()).unwrap();
        let digest = |key: &NodeKey| key.signing().csr().unwrap().key().unwrap();
        assert_eq!(digest(&key), digest(&again));
        assert_ne!(digest(&key), digest(&NodeKey::generate().unwrap()));
        assert!(!format!("{key:?}").contains(&format!("{:?}", key.to_der().unwrap())));
    }

    #[test]
    fn what_is_no_key_and_no_request_is_refused() {
        let key = NodeKey::generate().unwrap();
        let mut der = key.to_der().unwrap().to_vec();
        der.truncate(40);
        assert!(NodeKey::from_der(&der).is_err() && NodeKey::from_der(&[]).is_err());
        let mut csr = key.signing().csr().unwrap();
        csr.0.push(0);
        assert!(csr.key().is_err() && Csr(Vec::new()).key().is_err());
    }
}
