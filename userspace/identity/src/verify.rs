//! Our verifier, the same on both sides, for lanes and for the control plane.
//!
//! The certificate names its trust domain; only that domain's roots are asked. Names other than
//! the one SPIFFE ID mean nothing.

use std::{
    cell::OnceCell,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use martlet_model::TrustDomain;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use crate::{
    Chain, PeerProblem, TrustBundle,
    bundle::RootKey,
    expected::{Expected, Roots},
    leaf::{self, may_sign_certificates},
    parameters::provider,
    svid,
    verified::{Shown, VerifiedChain},
};

/// Verifies that a peer is proven, and is one that was to be met.
#[derive(Debug)]
pub struct Verifier {
    roots: Roots,
    expected: Expected,
    /// Who was believed; a verifier serves one handshake.
    verified: OnceLock<Arc<VerifiedChain>>,
}

/// Judges a chain as a peer would at `now`, for an authority that wants to know before it issues.
pub fn verify_chain(
    chain: &Chain,
    trust: Arc<TrustBundle>,
    now: SystemTime,
) -> Result<(), PeerProblem> {
    root_of(chain, trust, now).map(|_| ())
}

/// The same, and which root it leads to.
pub(crate) fn root_of(
    chain: &Chain,
    trust: Arc<TrustBundle>,
    now: SystemTime,
) -> Result<RootKey, PeerProblem> {
    let ders: Vec<_> = chain.0.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let (leaf, issuers) = ders.split_first().ok_or(PeerProblem::Unreadable)?;
    let since = now.duration_since(UNIX_EPOCH).map_err(|_| PeerProblem::NotYetValid)?;
    let now = UnixTime::since_unix_epoch(since);
    let verifier = Verifier::new(Roots::Bundle(trust), Expected::Anybody);
    verifier.verify(leaf, issuers, KeyUsage::server_auth(), now)?;
    verifier.verified().map(|chain| chain.root.clone()).ok_or(PeerProblem::Unreadable)
}

impl Verifier {
    pub fn new(roots: Roots, expected: Expected) -> Self {
        Self { roots, expected, verified: OnceLock::new() }
    }

    /// Of the peer that was believed.
    pub fn verified(&self) -> Option<Arc<VerifiedChain>> {
        self.verified.get().cloned()
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: KeyUsage,
        now: UnixTime,
    ) -> Result<(), PeerProblem> {
        let shown = Shown::new(usage, leaf, intermediates);
        let known = self.roots.own().and_then(|own| own.verified().find(&shown, instant(now)));
        let chain = match known {
            Some(known) => known,
            None => {
                let chain = Arc::new(self.prove(leaf, intermediates, usage, now)?);
                if let Some(own) = self.roots.own() {
                    own.verified().keep(shown, chain.clone());
                }
                chain
            }
        };
        self.expected.check(&chain.leaf.bearer.identity)?;
        let quarantine = self.roots.own().and_then(|own| own.quarantine_of(&chain.leaf.bearer));
        if let Some(quarantine) = quarantine {
            return Err(PeerProblem::Quarantined(quarantine.clone()));
        }
        self.verified.get_or_init(|| chain);
        Ok(())
    }

    /// The chain leads to a root of the trust domain that its leaf names.
    fn prove(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: KeyUsage,
        now: UnixTime,
    ) -> Result<VerifiedChain, PeerProblem> {
        let facts = leaf::read(leaf)?;
        let domain = facts.bearer.identity.trust_domain();
        let trust = self.roots.bundle(&domain, intermediates.iter().map(AsRef::as_ref))?;
        let Some(anchors) = trust.anchors(&domain) else {
            return Err(PeerProblem::TrustDomain(domain));
        };
        let certificate = EndEntityCert::try_from(leaf).map_err(chain_problem)?;
        let objection = OnceCell::new();
        let judge = |path: &VerifiedPath<'_>| match check_path(&trust, &domain, path, now) {
            Ok(_) => Ok(()),
            Err(problem) => {
                objection.get_or_init(|| problem);
                // Only says to look for another path.
                Err(webpki::Error::UnknownIssuer)
            }
        };
        let algorithms = provider().signature_verification_algorithms.all;
        let path = certificate
            .verify_for_usage(algorithms, anchors, intermediates, now, usage, None, Some(&judge))
            .map_err(|error| match objection.get() {
                Some(problem) => problem.clone(),
                None => chain_problem(error),
            })?;
        let until = check_path(&trust, &domain, &path, now)?.min(facts.not_after);
        Ok(VerifiedChain {
            leaf: facts,
            root: RootKey::of(path.anchor()),
            since: instant(now),
            until,
        })
    }
}

/// What webpki leaves open: whether the issuers' keys may sign certificates, and what the root
/// says about itself. Until when all of them are valid.
fn check_path(
    trust: &TrustBundle,
    domain: &TrustDomain,
    path: &VerifiedPath<'_>,
    now: UnixTime,
) -> Result<SystemTime, PeerProblem> {
    let (mut issuers, mut until) = (0, None);
    for issuer in path.intermediate_certificates() {
        issuers += 1;
        let (der, problem) = (issuer.der(), "the key of an issuer is not for signing certificates");
        if !may_sign_certificates(&der) {
            return Err(PeerProblem::Chain(problem.to_owned()));
        }
        let not_after = leaf::parse(&der)?.validity().not_after.timestamp();
        until = [until, Some(svid::instant(not_after))].into_iter().flatten().min();
    }
    let root = trust.check_root(domain, path.anchor(), issuers, instant(now))?;
    Ok(until.map_or(root, |until| until.min(root)))
}

fn instant(now: UnixTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(now.as_secs())
}

fn chain_problem(error: webpki::Error) -> PeerProblem {
    use webpki::Error;
    match error {
        Error::CertExpired { .. } => PeerProblem::Expired,
        Error::CertNotValidYet { .. } => PeerProblem::NotYetValid,
        Error::RequiredEkuNotFoundContext(_) => {
            PeerProblem::Usage("its extended key usage does not have this side")
        }
        // Their context is a dump of the certificate.
        Error::UnsupportedSignatureAlgorithmContext(_) => {
            PeerProblem::Chain("UnsupportedSignatureAlgorithm".to_owned())
        }
        Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
            PeerProblem::Chain("UnsupportedSignatureAlgorithmForPublicKey".to_owned())
        }
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

    fn client_auth_mandatory(&self) -> bool {
        self.expected.is_certificate_demanded()
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
