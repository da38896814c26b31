//! An authority that is ready: it issues, and renews its issuer.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use martlet_identity::{Chain, Csr, SigningKey, TrustBundle, describe, verify_chain};
use martlet_model::{Label, Part, SpiffeId, TrustDomain, WorkloadName, report::CertificateReport};
use rcgen::{Issuer, PublicKeyData as _};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::{
    AuthorityError,
    files::{self, Found},
    key::{Key, LocalKey},
    limits::{ISSUER_LIFETIME, LEAF_LIFETIME},
    request,
    root::{Life, Root},
    settings::Settings,
    template,
};

/// A trust domain's authority, ready to issue.
pub struct Authority {
    domain: TrustDomain,
    roots: Arc<[Vec<u8>]>,
    issuer: Issuer<'static, Key>,
    issuer_der: Vec<u8>,
    life: Life,
    /// Absent if the root is kept elsewhere.
    root: Option<Arc<Root>>,
    /// The issuer's certificate in the files, whatever issues now.
    filed: Arc<[u8]>,
}

/// Whom a leaf is for; decided by the caller, never by the request's own fields.
#[derive(Debug, Clone)]
pub struct LeafRequest {
    pub identity: SpiffeId,
    pub workload: WorkloadName,
    pub node: Label,
    /// The pod's, where it is known.
    pub uid: Option<String>,
    pub lifetime: Duration,
}

/// How long an authority can still issue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lasting {
    pub issuer: SystemTime,
    /// When it renews itself; absent if the root's key is elsewhere, so that somebody must sign a
    /// new issuer by hand (`martlet authority csr`).
    pub renews: Option<SystemTime>,
    /// The first of the roots to expire.
    pub root: SystemTime,
}

impl Authority {
    /// Reads `root.crt`, `issuer.crt` and `issuer.key`; and `root.key` or the root's command if
    /// there is one. An issuer that is due is renewed then, in memory: no file changes.
    pub fn load(directory: &Path, domain: &TrustDomain) -> Result<Self, AuthorityError> {
        Self::load_at(directory, domain, SystemTime::now())
    }

    pub fn load_at(
        directory: &Path,
        domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        Self::load_with(directory, &Settings::read(directory)?, domain, now)
    }

    pub(crate) fn load_with(
        directory: &Path,
        settings: &Settings,
        domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        let Found { roots, issuer, key, root_key } = files::read(directory, settings)?;
        let path = directory.join(files::ISSUER);
        let failed = |error| AuthorityError::Issuer(path.clone(), error);
        let key = LocalKey::from_pem(&key).map_err(failed)?;
        let made = Self::new(domain, roots.into(), issuer, Key(Box::new(key)), &path)?;
        if !made.is_due(now) {
            made.check(&path, now)?;
        }
        let root = match (root_key, &settings.root) {
            (Some(pem), _) => {
                Some(Root::local(&made.roots, &pem, &directory.join(files::ROOT_KEY))?)
            }
            (None, Some(root)) => Some(Root::behind(&root.signer, &made.roots)?),
            (None, None) => None,
        };
        let made = Self { root: root.map(Arc::new), ..made };
        match made.renewed(now)? {
            Some(renewed) => Ok(renewed),
            None => made.check(&path, now).map(|()| made),
        }
    }

    /// In memory only, gone with the process.
    pub fn ephemeral(domain: &TrustDomain) -> Result<Self, AuthorityError> {
        let now = SystemTime::now();
        let (root, certificate, _) = Root::generate(domain, now)?;
        Self::below(domain, [certificate].into(), Arc::new(root), None, now)
    }

    /// An issuer that is made now.
    fn below(
        domain: &TrustDomain,
        roots: Arc<[Vec<u8>]>,
        root: Arc<Root>,
        filed: Option<Arc<[u8]>>,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        let key = LocalKey::generate().map_err(AuthorityError::Make)?;
        let certificate = root.sign_issuer(domain, &key, now)?;
        let path = Path::new("memory");
        let made = Self::new(domain, roots, certificate, Key(Box::new(key)), path)?;
        let filed = filed.unwrap_or_else(|| made.issuer_der.as_slice().into());
        let made = Self { root: Some(root), filed, ..made };
        made.check(path, now)?;
        Ok(made)
    }

    pub(crate) fn new(
        domain: &TrustDomain,
        roots: Arc<[Vec<u8>]>,
        issuer_der: Vec<u8>,
        key: Key,
        path: &Path,
    ) -> Result<Self, AuthorityError> {
        let unfit = |what| AuthorityError::IssuerUnfit { path: path.to_owned(), what };
        let (_, certificate) =
            X509Certificate::from_der(&issuer_der).map_err(|_| unfit("cannot be read"))?;
        let is_ca = certificate.basic_constraints().ok().flatten().is_some_and(|bc| bc.value.ca);
        if !is_ca {
            return Err(unfit("is no authority's certificate"));
        }
        if key.der_bytes() != certificate.public_key().subject_public_key.data.as_ref() {
            return Err(unfit("has another key than the key file"));
        }
        let life = Life::of(&issuer_der)?;
        let der = CertificateDer::from(issuer_der.as_slice());
        let failed = |error| AuthorityError::Issuer(path.to_owned(), error);
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(failed)?;
        let filed = issuer_der.as_slice().into();
        Ok(Self { domain: domain.clone(), roots, issuer, issuer_der, life, root: None, filed })
    }

    /// Whether peers would accept what this authority issues. Asked by trial, before any workload
    /// depends on it: names alone don't tell one root from another.
    pub(crate) fn check(&self, path: &Path, now: SystemTime) -> Result<(), AuthorityError> {
        let unfit = |what| Err(AuthorityError::IssuerUnfit { path: path.to_owned(), what });
        if self.life.not_after <= now {
            return unfit("has expired");
        }
        if now < self.life.not_before {
            return unfit("is not valid yet");
        }
        let csr = SigningKey::generate().and_then(|key| key.csr());
        let csr = csr.map_err(|_| AuthorityError::Trial)?;
        let chain = self.issue_part(&csr, &Part::Controller, LEAF_LIFETIME, now)?;
        let trust = TrustBundle::new([(self.domain.clone(), self.roots.to_vec())]);
        let trust = trust.map_err(|_| AuthorityError::Trial)?;
        match verify_chain(&chain, Arc::new(trust), now) {
            Ok(()) => Ok(()),
            Err(_) => unfit("is not signed by this root"),
        }
    }

    /// A new issuer below the same root, if this one has lived half of its life and the root's key
    /// is there. The caller asks now and then; what was issued stays valid.
    pub fn renewed(&self, now: SystemTime) -> Result<Option<Self>, AuthorityError> {
        let Some(root) = self.root.as_ref().filter(|_| self.is_due(now)) else { return Ok(None) };
        let (roots, filed) = (self.roots.clone(), self.filed.clone());
        Self::below(&self.domain, roots, root.clone(), Some(filed), now).map(Some)
    }

    /// An issuer from the future is due, too: a clock has been put right.
    pub fn is_due(&self, now: SystemTime) -> bool {
        now < self.life.not_before || now >= self.life.half()
    }

    pub fn lasts(&self) -> Result<Lasting, AuthorityError> {
        let roots: Result<Vec<_>, _> = self.roots.iter().map(|root| Life::of(root)).collect();
        let root = roots?.iter().map(|life| life.not_after).min();
        Ok(Lasting {
            issuer: self.life.not_after,
            renews: self.root.as_ref().map(|_| self.life.half()),
            root: root.ok_or(AuthorityError::Trial)?,
        })
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// DER.
    pub fn roots(&self) -> &[Vec<u8>] {
        &self.roots
    }

    /// DER.
    pub fn issuer(&self) -> &[u8] {
        &self.issuer_der
    }

    /// Whether there is another issuer in the files than that which was read: one was installed.
    pub(crate) fn was_replaced(&self, directory: &Path) -> bool {
        files::issuer(directory).is_ok_and(|issuer| issuer != *self.filed)
    }

    /// Whether both were read from the same roots and the same issuer, whatever was renewed since.
    pub fn is_same(&self, other: &Self) -> bool {
        self.roots == other.roots && self.filed == other.filed
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
        if request.identity.trust_domain() != self.domain {
            return Err(AuthorityError::ForeignIdentity);
        }
        let not_after = self.not_after(request.lifetime.min(LEAF_LIFETIME), now)?;
        self.sign(csr, &template::leaf(request, now, not_after)?)
    }

    /// Issues a certificate for a part of the control plane. It may live as long as the issuer: a node
    /// must be able to come back after an outage of some days.
    pub fn issue_part(
        &self,
        csr: &Csr,
        part: &Part,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Chain, AuthorityError> {
        let identity = part.identity(&self.domain);
        let node = match part {
            Part::Controller => None,
            Part::Node(node) => Some(node),
        };
        let not_after = self.not_after(lifetime.min(ISSUER_LIFETIME), now)?;
        self.sign(csr, &template::part(&identity, node, now, not_after)?)
    }

    fn not_after(&self, lifetime: Duration, now: SystemTime) -> Result<SystemTime, AuthorityError> {
        match self.life.not_before <= now && now < self.life.not_after {
            true => Ok((now + lifetime).min(self.life.not_after)),
            false => Err(AuthorityError::IssuerExpired),
        }
    }

    fn sign(&self, csr: &Csr, leaf: &rcgen::CertificateParams) -> Result<Chain, AuthorityError> {
        let leaf = leaf.signed_by(&request::read(csr)?, &self.issuer);
        let leaf = leaf.map_err(AuthorityError::Make)?;
        Ok(Chain(vec![leaf.der().to_vec(), self.issuer_der.clone()]))
    }
}
