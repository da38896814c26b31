//! A key that is made to be handed to its workload, which wants to speak TLS itself. The key of the
//! workload's lanes is another one, and never leaves the agent.

use aws_lc_rs::signature::EcdsaKeyPair;
use martlet_model::SpiffeId;
use zeroize::Zeroizing;

use crate::{Chain, Csr, IdentityError, SigningKey, Svid};

/// An ECDSA P-256 key for the Workload API.
#[derive(Debug, Clone)]
pub struct HandedKey(SigningKey);

impl HandedKey {
    pub fn generate() -> Result<Self, IdentityError> {
        SigningKey::generate().map(Self)
    }

    /// Asks for a certificate for this key.
    pub fn csr(&self) -> Result<Csr, IdentityError> {
        self.0.csr()
    }

    /// With its certificate, which has to be for this key and this identity.
    pub fn certified(&self, chain: Chain, expected: &SpiffeId) -> Result<Svid, IdentityError> {
        Svid::new(&self.0, chain, expected)
    }

    /// PKCS #8 (RFC 5958), DER; overwritten when it is dropped.
    pub fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
        let pair: &EcdsaKeyPair = self.0.pair();
        let document = pair.to_pkcs8v1().map_err(|_| IdentityError::Key)?;
        Ok(Zeroizing::new(document.as_ref().to_vec()))
    }
}
