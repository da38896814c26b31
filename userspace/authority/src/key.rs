//! An authority's key, overwritten when it is dropped: rcgen keeps it in serialized form too.

use rcgen::{
    Error, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm, SigningKey,
};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};
use zeroize::{Zeroize as _, Zeroizing};

pub struct AuthorityKey(KeyPair);

impl AuthorityKey {
    pub fn generate() -> Result<Self, Error> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map(Self)
    }

    pub fn from_pem(text: &str) -> Result<Self, Error> {
        let mut der = PrivateKeyDer::from_pem_slice(text.as_bytes())
            .map_err(|_| Error::CouldNotParseKeyPair)?;
        let pair = KeyPair::try_from(&der);
        der.zeroize();
        pair.map(Self)
    }

    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.0.serialize_pem())
    }
}

impl Drop for AuthorityKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl PublicKeyData for AuthorityKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for AuthorityKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        self.0.sign(message)
    }
}
