//! A workload's key: made in memory, gone from there with its last user, and serialized only for the
//! kernel's keyring, in `kept`. Of a node's own key, which is `stored`, the same but that.
//!
//! It exists once, in memory of the cryptographic library, which overwrites what it gives back:
//! `OPENSSL_free` in <https://github.com/aws/aws-lc/blob/v5.12.0/crypto/mem.c>.

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use rcgen::{CertificateParams, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls::{
    SignatureScheme,
    pki_types::{SubjectPublicKeyInfoDer, alg_id},
    sign::{self, Signer, public_key_to_spki},
};

use crate::IdentityError;

const SCHEME: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;

/// A certificate signing request (RFC 2986), DER.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Csr(pub Vec<u8>);

/// An ECDSA P-256 key.
#[derive(Clone)]
pub struct SigningKey {
    pair: Arc<EcdsaKeyPair>,
}

impl SigningKey {
    pub fn generate() -> Result<Self, IdentityError> {
        let made = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING);
        made.map(Self::of).map_err(|_| IdentityError::Key)
    }

    /// Asks for nothing but a certificate for this key: the authority decides the rest.
    pub fn csr(&self) -> Result<Csr, IdentityError> {
        let request = CertificateParams::default().serialize_request(self);
        Ok(Csr(request.map_err(IdentityError::Request)?.der().to_vec()))
    }

    pub(crate) fn of(pair: EcdsaKeyPair) -> Self {
        Self { pair: Arc::new(pair) }
    }

    pub(crate) fn pair(&self) -> &EcdsaKeyPair {
        &self.pair
    }

    pub(crate) fn for_tls(&self) -> Arc<dyn sign::SigningKey> {
        Arc::new(self.clone())
    }

    fn signature(&self, message: &[u8]) -> Option<Vec<u8>> {
        let signed = self.pair.sign(&SystemRandom::new(), message);
        signed.ok().map(|signature| signature.as_ref().to_vec())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(P-256)")
    }
}

impl PublicKeyData for SigningKey {
    fn der_bytes(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for SigningKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.signature(message).ok_or(rcgen::Error::RingUnspecified)
    }
}

impl sign::SigningKey for SigningKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered.contains(&SCHEME).then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(public_key_to_spki(&alg_id::ECDSA_P256, self.der_bytes()))
    }

    fn algorithm(&self) -> rustls::SignatureAlgorithm {
        rustls::SignatureAlgorithm::ECDSA
    }
}

impl Signer for SigningKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let failed = || rustls::Error::General("signing failed".to_owned());
        self.signature(message).ok_or_else(failed)
    }

    fn scheme(&self) -> SignatureScheme {
        SCHEME
    }
}
