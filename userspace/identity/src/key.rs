//! A workload's key: made in memory, and never written anywhere else.

use std::{fmt, sync::Arc};

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use crate::{IdentityError, parameters::provider};

/// A certificate signing request (RFC 2986), DER.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Csr(pub Vec<u8>);

/// An ECDSA P-256 key.
pub struct SigningKey {
    pair: KeyPair,
}

impl SigningKey {
    pub fn generate() -> Result<Self, IdentityError> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(IdentityError::Key)?;
        Ok(Self { pair })
    }

    /// Asks for nothing but a certificate for this key: the authority decides the rest.
    pub fn csr(&self) -> Result<Csr, IdentityError> {
        let request = CertificateParams::default().serialize_request(&self.pair);
        Ok(Csr(request.map_err(IdentityError::Key)?.der().to_vec()))
    }

    pub(crate) fn for_tls(&self) -> Result<Arc<dyn rustls::sign::SigningKey>, IdentityError> {
        let der = Zeroizing::new(self.pair.serialize_der());
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der.as_slice()));
        // The provider wants to own the bytes only while it parses them.
        provider().key_provider.load_private_key(der.clone_key()).map_err(IdentityError::KeyUse)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(P-256)")
    }
}
