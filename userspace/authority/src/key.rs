//! A key that signs certificates, wherever it is: in this process, or behind a command.
//!
//! The border is rcgen's trait `SigningKey`: whoever has the public key and signs the bytes of a
//! certificate can be the root. [`LocalKey`] and [`CommandKey`] are the two that there are.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey,
    VerificationAlgorithm,
};
use rcgen::{
    Error, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256, PublicKeyData,
    SignatureAlgorithm, SigningKey, SubjectPublicKeyInfo,
};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};
use zeroize::{Zeroize as _, Zeroizing};

use crate::{AuthorityError, CommandError, command};

/// A key of either kind.
pub type AnyKey = Box<dyn SigningKey + Send + Sync>;

/// rcgen wants a sized key.
pub struct Key(pub AnyKey);

/// In this process, and overwritten when it is dropped: rcgen keeps it in serialized form too.
pub struct LocalKey(KeyPair);

/// Behind a command that gets the bytes to be signed on its standard input, and writes the
/// signature to its standard output, in DER for ECDSA. Only the public key is here.
pub struct CommandKey {
    command: Vec<String>,
    public: SubjectPublicKeyInfo,
    verification: &'static dyn VerificationAlgorithm,
}

impl LocalKey {
    pub fn generate() -> Result<Self, Error> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map(Self)
    }

    pub fn from_pem(text: &[u8]) -> Result<Self, Error> {
        let mut der =
            PrivateKeyDer::from_pem_slice(text).map_err(|_| Error::CouldNotParseKeyPair)?;
        let pair = KeyPair::try_from(&der);
        der.zeroize();
        pair.map(Self)
    }

    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.0.serialize_pem())
    }
}

impl Drop for LocalKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl PublicKeyData for LocalKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for LocalKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        self.0.sign(message)
    }
}

impl CommandKey {
    /// `public` is the key's SubjectPublicKeyInfo, DER, as in its certificate. Signs once, to know
    /// that the command has this key.
    pub fn new(command: Vec<String>, public: &[u8]) -> Result<Self, AuthorityError> {
        let public = SubjectPublicKeyInfo::from_der(public).map_err(AuthorityError::Make)?;
        let algorithm = public.algorithm();
        let verification: &'static dyn VerificationAlgorithm =
            if algorithm == &PKCS_ECDSA_P256_SHA256 {
                &ECDSA_P256_SHA256_ASN1
            } else if algorithm == &PKCS_ECDSA_P384_SHA384 {
                &ECDSA_P384_SHA384_ASN1
            } else if algorithm == &PKCS_RSA_SHA256 {
                &RSA_PKCS1_2048_8192_SHA256
            } else {
                return Err(AuthorityError::Make(Error::UnsupportedSignatureAlgorithm));
            };
        let key = Self { command, public, verification };
        key.signature(b"martlet asks whether this command has the key of the certificate")?;
        Ok(key)
    }

    fn signature(&self, message: &[u8]) -> Result<Vec<u8>, AuthorityError> {
        let signature = command::run(&self.command, message)?;
        let public = UnparsedPublicKey::new(self.verification, self.public.der_bytes());
        match public.verify(message, &signature) {
            Ok(()) => Ok(signature.to_vec()),
            Err(_) => Err(AuthorityError::Command {
                command: self.command.join(" "),
                source: CommandError::Signature,
            }),
        }
    }
}

impl PublicKeyData for CommandKey {
    fn der_bytes(&self) -> &[u8] {
        self.public.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.public.algorithm()
    }
}

impl SigningKey for CommandKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        // rcgen's errors are a closed list; this one carries a text.
        self.signature(message).map_err(|error| Error::X509(chain(&error)))
    }
}

/// An error with its sources, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        self.0.sign(message)
    }
}
