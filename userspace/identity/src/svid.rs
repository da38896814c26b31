//! An X.509-SVID: a key and the certificate chain that proves whose it is.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use martlet_model::{Bearer, SpiffeId, report::CertificateReport};
use rustls::{pki_types::CertificateDer, sign::CertifiedKey};
use x509_parser::prelude::{FromDer as _, GeneralName, ParsedExtension, X509Certificate};

use crate::{IdentityError, PeerProblem, SigningKey, leaf};

/// A certificate chain, DER, leaf first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain(pub Vec<Vec<u8>>);

/// A key with its chain, ready for handshakes.
#[derive(Debug)]
pub struct Svid {
    pub(crate) certified: Arc<CertifiedKey>,
    key: SigningKey,
    bearer: Arc<Bearer>,
    chain: Chain,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Svid {
    /// Checks that the chain's leaf is for this key and this identity.
    pub fn new(key: &SigningKey, chain: Chain, expected: &SpiffeId) -> Result<Self, IdentityError> {
        let leaf = chain.0.first().ok_or(IdentityError::EmptyChain)?;
        let facts = leaf::read(leaf).map_err(IdentityError::Certificate)?;
        let found = &facts.bearer.identity;
        if found != expected {
            let (found, expected) = (found.clone(), expected.clone());
            return Err(IdentityError::WrongIdentity { found, expected });
        }
        let ders = chain.0.iter().map(|der| CertificateDer::from(der.clone())).collect();
        let certified = CertifiedKey::new(ders, key.for_tls());
        certified.keys_match().map_err(|_| IdentityError::WrongKey)?;
        Ok(Self {
            certified: Arc::new(certified),
            key: key.clone(),
            bearer: facts.bearer,
            chain,
            not_before: facts.not_before,
            not_after: facts.not_after,
        })
    }

    pub(crate) fn key(&self) -> &SigningKey {
        &self.key
    }

    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    pub fn identity(&self) -> &SpiffeId {
        &self.bearer.identity
    }

    pub fn bearer(&self) -> &Bearer {
        &self.bearer
    }

    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Half of the lifetime, and up to a tenth later: `jitter` is between 0 and 1.
    pub fn renews_at(&self, jitter: f64) -> SystemTime {
        let lifetime = self.not_after.duration_since(self.not_before).unwrap_or_default();
        self.not_before + lifetime / 2 + lifetime.mul_f64(jitter.clamp(0.0, 1.0) / 10.0)
    }

    /// In which quarter of its life it is, from 0 to 3; the last one, too, if that has ended.
    pub fn quarter(&self, now: SystemTime) -> usize {
        let lifetime = self.not_after.duration_since(self.not_before).unwrap_or_default();
        let age = now.duration_since(self.not_before).unwrap_or_default();
        (1..4).filter(|quarter| age >= lifetime / 4 * *quarter).count()
    }

    /// The chain as people read it.
    pub fn report(&self) -> Result<Vec<CertificateReport>, IdentityError> {
        let described: Result<_, _> = self.chain.0.iter().map(|der| describe(der)).collect();
        described.map_err(IdentityError::Certificate)
    }
}

/// A certificate as people read it.
pub fn describe(der: &[u8]) -> Result<CertificateReport, PeerProblem> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| PeerProblem::Unreadable)?;
    let uris = certificate.extensions().iter().filter_map(|extension| {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
            _ => None,
        }
    });
    let uris = uris.flatten().filter_map(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    });
    let digest = fingerprint(der);
    Ok(CertificateReport {
        subject: certificate.subject().to_string(),
        issuer: certificate.issuer().to_string(),
        uris: uris.collect(),
        serial: certificate.raw_serial_as_string().replace(':', ""),
        fingerprint: digest,
        not_before: seconds(certificate.validity().not_before.timestamp()),
        not_after: seconds(certificate.validity().not_after.timestamp()),
    })
}

/// SHA-256, in hex.
pub fn fingerprint(bytes: &[u8]) -> String {
    use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
    let hash = TLS13_AES_128_GCM_SHA256
        .tls13()
        .map(|suite| suite.common.hash_provider.hash(bytes).as_ref().to_vec());
    hash.unwrap_or_default().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn seconds(timestamp: i64) -> u64 {
    u64::try_from(timestamp).unwrap_or(0)
}

pub(crate) fn instant(timestamp: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds(timestamp))
}
