//! Certificates that hosts have already, of an authority that their owner runs for machines: by one, a
//! host vouches for the key of the node that it wants to become.
//!
//! The authorities of hosts mean nothing for lanes: they say which machine somebody is, once.

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use martlet_model::Label;
use rustls::{
    RootCertStore, SignatureScheme,
    crypto::{WebPkiSupportedAlgorithms, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject as _},
    sign::CertifiedKey,
};
use thiserror::Error;
use webpki::{EndEntityCert, KeyUsage};

use crate::{Chain, Csr};

/// Signed before everything else, so that the signature is good for nothing else. As in TLS 1.3, 64
/// spaces come first (RFC 8446, section 4.4.3).
const CONTEXT: &str = "Martlet, the key of a node";

/// By preference; what a host's certificate in use today has a key for.
const SCHEMES: &[SignatureScheme] = &[
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PSS_SHA256,
];

/// A host's chain and its key.
pub struct HostCertificate(CertifiedKey);

/// A host's word that a key is its node's. Good for that node and that key only, so whoever sees it
/// can do nothing with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vouched {
    pub chain: Chain,
    /// The number of its signature scheme in TLS 1.3 (RFC 8446, section 4.2.3).
    pub scheme: u16,
    pub signature: Vec<u8>,
}

/// Who certifies hosts, and what their names end in.
#[derive(Debug, Clone)]
pub struct HostAuthorities {
    roots: RootCertStore,
    domain: Option<String>,
}

/// What is wrong with a host's certificate, or with its authorities.
#[derive(Debug, Error)]
pub enum HostProblem {
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    #[error("it has no certificate")]
    Empty,
    #[error("the key is not the certificate's")]
    WrongKey,
    #[error("its key can sign by no scheme that is taken (ECDSA P-256 or P-384, Ed25519, RSA)")]
    Scheme,
    #[error("it does not lead to one of the authorities of hosts: {0}")]
    Chain(String),
    #[error("it is for {found}, not for {wanted}")]
    OtherHost { wanted: String, found: String },
    #[error("the signature is not by its key, or for something else")]
    Signature,
}

impl HostCertificate {
    /// Of PEM: the chain, leaf first, and its key.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, HostProblem> {
        let unreadable = |error: &dyn fmt::Display| HostProblem::Unreadable(error.to_string());
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
        let chain = chain.map_err(|error| unreadable(&error))?;
        if chain.is_empty() {
            return Err(HostProblem::Empty);
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| unreadable(&error))?;
        let key = aws_lc_rs::sign::any_supported_type(&key).map_err(|error| unreadable(&error))?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|_| HostProblem::WrongKey)?;
        Ok(Self(certified))
    }

    /// Says that the key of this request is the node's.
    pub fn vouch(&self, node: &Label, csr: &Csr) -> Result<Vouched, HostProblem> {
        let signer = self.0.key.choose_scheme(SCHEMES).ok_or(HostProblem::Scheme)?;
        let signature = signer.sign(&message(node, csr)).map_err(|_| HostProblem::Scheme)?;
        let chain = Chain(self.0.cert.iter().map(|der| der.to_vec()).collect());
        Ok(Vouched { chain, scheme: signer.scheme().into(), signature })
    }
}

impl fmt::Debug for HostCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HostCertificate")
    }
}

impl HostAuthorities {
    /// Of PEM. A host has the name of its node, with `domain` behind it if there is one.
    pub fn from_pem(text: &[u8], domain: Option<&str>) -> Result<Self, HostProblem> {
        let unreadable = |error: &dyn fmt::Display| HostProblem::Unreadable(error.to_string());
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(text) {
            let certificate = certificate.map_err(|error| unreadable(&error))?;
            roots.add(certificate).map_err(|error| unreadable(&error))?;
        }
        match roots.is_empty() {
            true => Err(HostProblem::Empty),
            false => Ok(Self { roots, domain: domain.map(str::to_owned) }),
        }
    }

    /// Whether the host of this node has said that the request's key is its node's.
    pub fn check(
        &self,
        vouched: &Vouched,
        node: &Label,
        csr: &Csr,
        now: SystemTime,
    ) -> Result<(), HostProblem> {
        let broken = |error: webpki::Error| HostProblem::Chain(error.to_string());
        let ders: Vec<_> =
            vouched.chain.0.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
        let (leaf, issuers) = ders.split_first().ok_or(HostProblem::Empty)?;
        let certificate = EndEntityCert::try_from(leaf).map_err(broken)?;
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let WebPkiSupportedAlgorithms { all, mapping } = algorithms();
        certificate
            .verify_for_usage(
                all,
                &self.roots.roots,
                issuers,
                UnixTime::since_unix_epoch(since),
                KeyUsage::client_auth(),
                None,
                None,
            )
            .map_err(broken)?;
        self.check_name(&certificate, node)?;
        let message = message(node, csr);
        let is_signed = mapping
            .iter()
            .filter(|(scheme, _)| SCHEMES.contains(scheme) && u16::from(*scheme) == vouched.scheme)
            .flat_map(|(_, algorithms)| *algorithms)
            .any(|by| certificate.verify_signature(*by, &message, &vouched.signature).is_ok());
        if is_signed { Ok(()) } else { Err(HostProblem::Signature) }
    }

    /// Whole names only: one with a wildcard would be good for all nodes.
    fn check_name(&self, leaf: &EndEntityCert<'_>, node: &Label) -> Result<(), HostProblem> {
        let wanted = match &self.domain {
            Some(domain) => format!("{node}.{domain}"),
            None => node.to_string(),
        };
        let names: Vec<_> = leaf.valid_dns_names().collect();
        if names.iter().any(|name| name.eq_ignore_ascii_case(&wanted)) {
            return Ok(());
        }
        let found = match names.is_empty() {
            true => "no host's name".to_owned(),
            false => names.join(", "),
        };
        Err(HostProblem::OtherHost { wanted, found })
    }
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    aws_lc_rs::default_provider().signature_verification_algorithms
}

fn message(node: &Label, csr: &Csr) -> Vec<u8> {
    let parts: [&[u8]; 5] = [&[b' '; 64], CONTEXT.as_bytes(), &[0], node.as_str().as_bytes(), &[0]];
    let mut message = parts.concat();
    message.extend_from_slice(&csr.0);
    message
}

#[cfg(test)]
mod tests;
