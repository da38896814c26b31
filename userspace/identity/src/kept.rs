//! An SVID as bytes, for a process that starts again to go on with. They hold the private key: whoever
//! keeps them must keep them where nobody reads but that process.

use aws_lc_rs::{
    encoding::{AsBigEndian as _, EcPrivateKeyBin},
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use martlet_model::SpiffeId;
use zeroize::Zeroizing;

use crate::{Chain, IdentityError, SigningKey, Svid};

/// Tells this form from later ones.
const FORM: u8 = 1;
/// Of a scalar of P-256.
const SECRET_BYTES: usize = 32;

impl Svid {
    pub fn to_secret(&self) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
        let count = u8::try_from(self.chain().0.len()).map_err(|_| IdentityError::Kept)?;
        let mut bytes = Zeroizing::new(vec![FORM, count]);
        push(&mut bytes, &both_keys(self.key().pair())?)?;
        for certificate in &self.chain().0 {
            push(&mut bytes, certificate)?;
        }
        Ok(bytes)
    }

    /// Refuses what is not an SVID of this identity with its own key, whole.
    pub fn from_secret(bytes: &[u8], expected: &SpiffeId) -> Result<Self, IdentityError> {
        let [FORM, count, rest @ ..] = bytes else { return Err(IdentityError::Kept) };
        let (secret, mut rest) = split(rest)?;
        let mut chain = Vec::new();
        for _ in 0..*count {
            let (certificate, after) = split(rest)?;
            chain.push(certificate.to_vec());
            rest = after;
        }
        if !rest.is_empty() {
            return Err(IdentityError::Kept);
        }
        Self::new(&key(secret)?, Chain(chain), expected)
    }
}

/// The private key (SEC 1, section 3.6), and the public one after it.
fn both_keys(pair: &EcdsaKeyPair) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    let secret: Result<EcPrivateKeyBin<'_>, _> = pair.private_key().as_be_bytes();
    let secret = secret.map_err(|_| IdentityError::Key)?;
    Ok(Zeroizing::new([secret.as_ref(), pair.public_key().as_ref()].concat()))
}

fn key(bytes: &[u8]) -> Result<SigningKey, IdentityError> {
    let (secret, public) = bytes.split_at_checked(SECRET_BYTES).ok_or(IdentityError::Kept)?;
    let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
    let pair = EcdsaKeyPair::from_private_key_and_public_key(algorithm, secret, public);
    pair.map(SigningKey::of).map_err(|_| IdentityError::Kept)
}

/// The length, two bytes, then the part.
fn push(bytes: &mut Vec<u8>, part: &[u8]) -> Result<(), IdentityError> {
    let length = u16::try_from(part.len()).map_err(|_| IdentityError::Kept)?;
    // A buffer that grows would leave a copy behind.
    let mut grown = Vec::with_capacity(bytes.len() + 2 + part.len());
    grown.extend_from_slice(bytes);
    grown.extend_from_slice(&length.to_be_bytes());
    grown.extend_from_slice(part);
    drop(Zeroizing::new(std::mem::replace(bytes, grown)));
    Ok(())
}

fn split(bytes: &[u8]) -> Result<(&[u8], &[u8]), IdentityError> {
    let (length, rest) = bytes.split_first_chunk::<2>().ok_or(IdentityError::Kept)?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length))).ok_or(IdentityError::Kept)
}
