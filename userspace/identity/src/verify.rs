//! Our verifier, the same on both sides.
//!
//! The certificate names its trust domain; only that domain's roots are asked. Names other than
//! the one SPIFFE ID mean nothing.

use std::{
    sync::{Arc, OnceLock},
    time::{SystemTime, UNIX_EPOCH},
};

use martlet_model::{Bearer, SpiffeId, WorkloadName};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::prelude::{
    AttributeTypeAndValue, FromDer as _, GeneralName, ParsedExtension, X509Certificate,
};

use crate::{
    Chain, PeerProblem, TrustBundle, bundle::RootKey, parameters::provider, svid::instant,
};

/// What a certificate says about itself; nothing is proven by reading it.
pub struct Facts {
    pub bearer: Arc<Bearer>,
    pub subject: String,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

/// Verifies peers against a bundle, and on the caller's side against the expected identity.
#[derive(Debug)]
pub struct Verifier {
    trust: Arc<TrustBundle>,
    expected: Option<SpiffeId>,
    /// What the peer's chain led to; a verifier serves one handshake.
    root: OnceLock<RootKey>,
}

/// Reads a leaf and checks the form that SPIFFE demands (X509-SVID, sections 2 to 5).
pub fn read(der: &[u8]) -> Result<Facts, PeerProblem> {
    let (rest, certificate) =
        X509Certificate::from_der(der).map_err(|_| PeerProblem::Unreadable)?;
    if !rest.is_empty() {
        return Err(PeerProblem::Unreadable);
    }
    let mut uris = Vec::new();
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => {
                uris.extend(names.general_names.iter().filter_map(|name| match name {
                    GeneralName::URI(uri) => Some(*uri),
                    _ => None,
                }));
            }
            ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
                return Err(PeerProblem::Usage("it is an authority's"));
            }
            ParsedExtension::KeyUsage(usage) if !usage.digital_signature() => {
                return Err(PeerProblem::Usage("its key is not for signatures"));
            }
            ParsedExtension::KeyUsage(usage) if usage.key_cert_sign() || usage.crl_sign() => {
                return Err(PeerProblem::Usage("its key is for signing certificates"));
            }
            ParsedExtension::ParseError { .. } => return Err(PeerProblem::Unreadable),
            _ => {}
        }
    }
    let [uri] = uris.as_slice() else { return Err(PeerProblem::UriCount(uris.len())) };
    let validity = certificate.validity();
    Ok(Facts {
        bearer: Arc::new(Bearer {
            identity: uri.parse().map_err(PeerProblem::NotSpiffe)?,
            workload: only(certificate.subject().iter_common_name()).and_then(workload_name),
            node: only(certificate.subject().iter_organizational_unit())
                .and_then(|text| text.parse().ok()),
        }),
        subject: certificate.subject().to_string(),
        not_before: instant(validity.not_before.timestamp()),
        not_after: instant(validity.not_after.timestamp()),
    })
}

/// What an attribute says that is there once, and is a text.
fn only<'a>(
    mut attributes: impl Iterator<Item = &'a AttributeTypeAndValue<'a>>,
) -> Option<&'a str> {
    let first = attributes.next()?;
    attributes.next().is_none().then(|| first.as_str().ok())?
}

fn workload_name(text: &str) -> Option<WorkloadName> {
    let (namespace, name) = text.split_once('/')?;
    Some(WorkloadName { namespace: namespace.parse().ok()?, name: name.parse().ok()? })
}

/// Judges a chain as a peer would at `now`, for an authority that wants to know before it issues.
pub fn verify_chain(
    chain: &Chain,
    trust: Arc<TrustBundle>,
    now: SystemTime,
) -> Result<(), PeerProblem> {
    let ders: Vec<_> = chain.0.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let (leaf, issuers) = ders.split_first().ok_or(PeerProblem::Unreadable)?;
    let since = now.duration_since(UNIX_EPOCH).map_err(|_| PeerProblem::NotYetValid)?;
    let now = UnixTime::since_unix_epoch(since);
    Verifier::new(trust, None).verify(leaf, issuers, KeyUsage::server_auth(), now)
}

impl Verifier {
    pub fn new(trust: Arc<TrustBundle>, expected: Option<SpiffeId>) -> Self {
        Self { trust, expected, root: OnceLock::new() }
    }

    /// The root of the peer that was believed.
    pub fn root(&self) -> Option<RootKey> {
        self.root.get().cloned()
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: KeyUsage,
        now: UnixTime,
    ) -> Result<(), PeerProblem> {
        let facts = read(leaf)?;
        let identity = &facts.bearer.identity;
        let domain = identity.trust_domain();
        let Some(anchors) = self.trust.anchors(&domain) else {
            return Err(PeerProblem::TrustDomain(domain));
        };
        let certificate = EndEntityCert::try_from(leaf).map_err(chain_problem)?;
        let algorithms = provider().signature_verification_algorithms;
        let path = certificate
            .verify_for_usage(algorithms.all, anchors, intermediates, now, usage, None, None)
            .map_err(chain_problem)?;
        self.root.get_or_init(|| RootKey::of(path.anchor()));
        if let Some(expected) = self.expected.as_ref().filter(|expected| *expected != identity) {
            let (expected, found) = (expected.clone(), identity.clone());
            return Err(PeerProblem::Unexpected { expected, found });
        }
        match self.trust.quarantine_of(&facts.bearer) {
            Some(quarantine) => Err(PeerProblem::Quarantined(quarantine.clone())),
            None => Ok(()),
        }
    }
}

fn chain_problem(error: webpki::Error) -> PeerProblem {
    match error {
        webpki::Error::CertExpired { .. } => PeerProblem::Expired,
        webpki::Error::CertNotValidYet { .. } => PeerProblem::NotYetValid,
        other => PeerProblem::Chain(other.to_string()),
    }
}

/// Carries the problem through rustls, to be found again by the handshake.
fn refused(problem: PeerProblem) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(problem))))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(leaf, intermediates, KeyUsage::server_auth(), now).map_err(refused)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = provider().signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(leaf, intermediates, KeyUsage::client_auth(), now).map_err(refused)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls12_signature(self, message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls13_signature(self, message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(self)
    }
}
