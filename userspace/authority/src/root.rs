//! The root, where its key can be reached: it signs issuers and nothing else.

use std::{
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use martlet_model::TrustDomain;
use rcgen::{Issuer, PublicKeyData};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use crate::{
    AuthorityError,
    key::{CommandKey, Key, LocalKey},
    template,
};

/// A root that can sign issuers.
pub struct Root {
    issuer: Issuer<'static, Key>,
    not_after: SystemTime,
}

/// From when to when a certificate is valid.
#[derive(Debug, Clone, Copy)]
pub struct Life {
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

impl Root {
    /// A new one, self-signed: with its certificate, DER, and its key, PEM.
    pub fn generate(
        domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<(Self, Vec<u8>, Zeroizing<String>), AuthorityError> {
        let key = LocalKey::generate().map_err(AuthorityError::Make)?;
        let certificate = template::root(domain, now)?.self_signed(&key);
        let certificate = certificate.map_err(AuthorityError::Make)?.der().to_vec();
        let pem = key.to_pem();
        Ok((Self::new(&certificate, Key(Box::new(key)))?, certificate, pem))
    }

    /// The key of one of these roots.
    pub fn local(roots: &[Vec<u8>], pem: &[u8], path: &Path) -> Result<Self, AuthorityError> {
        let unfit = |what| AuthorityError::RootUnfit { path: path.to_owned(), what };
        let key = LocalKey::from_pem(pem).map_err(|_| unfit("cannot be read as PEM"))?;
        let certificate = roots.iter().find(|der| is_for(der, &key));
        let certificate = certificate.ok_or_else(|| unfit("is that of none of the roots"))?;
        Self::new(certificate, Key(Box::new(key)))
    }

    /// The command signs for the first of the roots.
    pub fn behind(command: &[String], roots: &[Vec<u8>]) -> Result<Self, AuthorityError> {
        let root = roots.first().ok_or(AuthorityError::Trial)?;
        let (_, certificate) =
            X509Certificate::from_der(root).map_err(|_| AuthorityError::Trial)?;
        let key = CommandKey::new(command.to_vec(), certificate.public_key().raw)?;
        Self::new(root, Key(Box::new(key)))
    }

    fn new(certificate: &[u8], key: Key) -> Result<Self, AuthorityError> {
        let der = CertificateDer::from(certificate);
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(AuthorityError::Make)?;
        Ok(Self { issuer, not_after: Life::of(certificate)?.not_after })
    }

    /// DER.
    pub fn sign_issuer(
        &self,
        domain: &TrustDomain,
        key: &impl PublicKeyData,
        now: SystemTime,
    ) -> Result<Vec<u8>, AuthorityError> {
        let params = template::issuer(domain, now, self.not_after)?;
        let made = params.signed_by(key, &self.issuer).map_err(AuthorityError::Make)?;
        Ok(made.der().to_vec())
    }
}

impl Life {
    pub fn of(der: &[u8]) -> Result<Self, AuthorityError> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| AuthorityError::Trial)?;
        let instant = |timestamp: i64| {
            UNIX_EPOCH + Duration::from_secs(u64::try_from(timestamp).unwrap_or_default())
        };
        let validity = certificate.validity();
        Ok(Self {
            not_before: instant(validity.not_before.timestamp()),
            not_after: instant(validity.not_after.timestamp()),
        })
    }

    pub fn half(&self) -> SystemTime {
        self.not_before + self.whole() / 2
    }

    pub fn whole(&self) -> Duration {
        self.not_after.duration_since(self.not_before).unwrap_or_default()
    }
}

/// Whether a certificate is for this key.
pub fn is_for(der: &[u8], key: &impl PublicKeyData) -> bool {
    X509Certificate::from_der(der).is_ok_and(|(_, certificate)| {
        certificate.public_key().subject_public_key.data.as_ref() == key.der_bytes()
    })
}
