//! From a request to a chain.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use martlet_identity::{Chain, Csr, SigningKey, TrustBundle, describe, verify_chain};
use martlet_model::{Label, SpiffeId, TrustDomain, WorkloadName, report::CertificateReport};
use rcgen::{
    CertificateSigningRequestParams, CertifiedIssuer, Issuer, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, PublicKeyData as _,
};
use rustls_pki_types::CertificateSigningRequestDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::{AuthorityError, files, key::AuthorityKey, template};

/// How long a leaf lives unless the request says less.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// A trust domain's authority, ready to issue.
pub struct Authority {
    domain: TrustDomain,
    roots: Vec<Vec<u8>>,
    issuer: Issuer<'static, AuthorityKey>,
    issuer_der: Vec<u8>,
    issuer_expires: SystemTime,
}

/// Whom a leaf is for; decided by the caller, never by the request's own fields.
#[derive(Debug, Clone)]
pub struct LeafRequest {
    pub identity: SpiffeId,
    pub workload: WorkloadName,
    pub node: Label,
    pub lifetime: Duration,
}

/// A root and an issuer, just made.
pub(crate) struct Fresh {
    pub root: CertifiedIssuer<'static, AuthorityKey>,
    pub issuer: CertifiedIssuer<'static, AuthorityKey>,
}

impl Fresh {
    pub fn make(domain: &TrustDomain, now: SystemTime) -> Result<Self, rcgen::Error> {
        let key = AuthorityKey::generate;
        let root = CertifiedIssuer::self_signed(template::root(domain, now), key()?)?;
        let issuer = CertifiedIssuer::signed_by(template::issuer(domain, now), key()?, &root)?;
        Ok(Self { root, issuer })
    }
}

impl Authority {
    /// Makes root and issuer and writes them to `directory`; refuses to overwrite any.
    pub fn init(directory: &Path, domain: &TrustDomain) -> Result<(), AuthorityError> {
        let fresh = Fresh::make(domain, SystemTime::now()).map_err(AuthorityError::Make)?;
        files::write(directory, &fresh)
    }

    /// Reads `root.crt`, `issuer.crt` and `issuer.key`; the root's key is not needed.
    pub fn load(directory: &Path, domain: &TrustDomain) -> Result<Self, AuthorityError> {
        let found = files::read(directory)?;
        Self::new(domain, found.roots, found.issuer, &found.key, &directory.join("issuer.crt"))
    }

    /// In memory only, gone with the process.
    pub fn ephemeral(domain: &TrustDomain) -> Result<Self, AuthorityError> {
        let fresh = Fresh::make(domain, SystemTime::now()).map_err(AuthorityError::Make)?;
        let key = fresh.issuer.key().to_pem();
        let roots = vec![fresh.root.der().to_vec()];
        Self::new(domain, roots, fresh.issuer.der().to_vec(), &key, Path::new("memory"))
    }

    fn new(
        domain: &TrustDomain,
        roots: Vec<Vec<u8>>,
        issuer_der: Vec<u8>,
        key: &str,
        path: &Path,
    ) -> Result<Self, AuthorityError> {
        let unfit = |what| AuthorityError::IssuerUnfit { path: path.to_owned(), what };
        let failed = |error| AuthorityError::Issuer(path.to_owned(), error);
        let (_, certificate) =
            X509Certificate::from_der(&issuer_der).map_err(|_| unfit("cannot be read"))?;
        let is_ca = certificate.basic_constraints().ok().flatten().is_some_and(|bc| bc.value.ca);
        if !is_ca {
            return Err(unfit("is no authority's certificate"));
        }
        let expires = certificate.validity().not_after.timestamp();
        let issuer_expires = UNIX_EPOCH + Duration::from_secs(u64::try_from(expires).unwrap_or(0));
        if issuer_expires <= SystemTime::now() {
            return Err(unfit("has expired"));
        }
        let key = AuthorityKey::from_pem(key).map_err(failed)?;
        if key.der_bytes() != certificate.public_key().subject_public_key.data.as_ref() {
            return Err(unfit("has another key than the key file"));
        }
        let der = rustls_pki_types::CertificateDer::from(issuer_der.clone());
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(failed)?;
        let made = Self { domain: domain.clone(), roots, issuer, issuer_der, issuer_expires };
        match made.is_accepted()? {
            true => Ok(made),
            false => Err(unfit("is not signed by this root")),
        }
    }

    /// Whether peers would accept what this authority issues. Asked by trial, before any workload
    /// depends on it: names alone don't tell one root from another.
    fn is_accepted(&self) -> Result<bool, AuthorityError> {
        let label = || "authority-check".parse().map_err(|_| AuthorityError::Trial);
        let identity = SpiffeId::for_workload(&self.domain, "martlet", "authority-check")
            .map_err(|_| AuthorityError::Trial)?;
        let workload = WorkloadName { namespace: label()?, name: label()? };
        let request = LeafRequest { identity, workload, node: label()?, lifetime: LEAF_LIFETIME };
        let csr = SigningKey::generate().and_then(|key| key.csr());
        let now = SystemTime::now();
        let chain = self.issue(&csr.map_err(|_| AuthorityError::Trial)?, &request, now)?;
        let trust = TrustBundle::new([(self.domain.clone(), self.roots.clone())]);
        let trust = trust.map_err(|_| AuthorityError::Trial)?;
        Ok(verify_chain(&chain, Arc::new(trust), now).is_ok())
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// DER.
    pub fn roots(&self) -> &[Vec<u8>] {
        &self.roots
    }

    /// Whether it has the same roots and the same issuer.
    pub fn is_same(&self, other: &Self) -> bool {
        self.roots == other.roots && self.issuer_der == other.issuer_der
    }

    /// The roots, then the issuer, as people read them.
    pub fn certificates(&self) -> Result<Vec<CertificateReport>, AuthorityError> {
        let all = self.roots.iter().chain([&self.issuer_der]);
        all.map(|der| describe(der)).collect::<Result<_, _>>().map_err(|_| AuthorityError::Trial)
    }

    /// Issues a leaf: never beyond the issuer's own life, never outside the trust domain.
    pub fn issue(
        &self,
        csr: &Csr,
        request: &LeafRequest,
        now: SystemTime,
    ) -> Result<Chain, AuthorityError> {
        let refused = |why: &str| Err(AuthorityError::Request(why.to_owned()));
        if request.identity.trust_domain() != self.domain {
            return refused("the identity belongs to another trust domain");
        }
        if self.issuer_expires <= now {
            return Err(AuthorityError::IssuerExpired);
        }
        // Verifies that the request is signed by the key that it names.
        let der = CertificateSigningRequestDer::from(csr.0.as_slice());
        let mut params = CertificateSigningRequestParams::from_der(&der)
            .map_err(|error| AuthorityError::Request(error.to_string()))?;
        let algorithm = params.public_key.algorithm();
        if algorithm != &PKCS_ECDSA_P256_SHA256 && algorithm != &PKCS_ECDSA_P384_SHA384 {
            return refused("the key is neither ECDSA P-256 nor P-384");
        }
        let not_after = (now + request.lifetime.min(LEAF_LIFETIME)).min(self.issuer_expires);
        params.params = template::leaf(request, now, not_after)?;
        let leaf = params.signed_by(&self.issuer).map_err(AuthorityError::Make)?;
        Ok(Chain(vec![leaf.der().to_vec(), self.issuer_der.clone()]))
    }
}
