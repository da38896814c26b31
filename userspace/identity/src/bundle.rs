//! Whom we trust: for each trust domain its own roots, and no other's; and who of them is cut off.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use martlet_model::{Bearer, Quarantine, Trust, TrustDomain};
use rustls::pki_types::{CertificateDer, TrustAnchor};

use crate::{
    IdentityError, PeerProblem, fingerprint,
    leaf::{self, may_sign_certificates},
    svid::instant,
    verified::VerifiedChains,
};

/// Which root a chain led to, by its public key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RootKey(Arc<[u8]>);

impl RootKey {
    pub(crate) fn of(anchor: &TrustAnchor<'_>) -> Self {
        Self(Arc::from(anchor.subject_public_key_info.as_ref()))
    }

    /// The SHA-256 in hex, by which an agent names it to its controller.
    pub fn digest(&self) -> String {
        fingerprint(&self.0)
    }
}

/// The roots of all trusted domains, and who is cut off nevertheless.
#[derive(Debug, Clone)]
pub struct TrustBundle {
    domains: HashMap<TrustDomain, Arc<Roots>>,
    quarantines: Vec<Quarantine>,
    verified: VerifiedChains,
}

#[derive(Debug)]
struct Roots {
    anchors: Vec<TrustAnchor<'static>>,
    /// What each of these says about itself; webpki keeps only its name and key.
    limits: Vec<Limits>,
    certificates: Vec<Vec<u8>>,
}

#[derive(Debug)]
pub(crate) struct Limits {
    not_before: SystemTime,
    not_after: SystemTime,
    /// How many issuers may stand between it and a leaf.
    path_length: Option<u32>,
}

impl TrustBundle {
    /// `roots` are DER.
    pub fn new(
        entries: impl IntoIterator<Item = (TrustDomain, Vec<Vec<u8>>)>,
    ) -> Result<Self, IdentityError> {
        let mut domains = HashMap::new();
        for (domain, certificates) in entries {
            if certificates.is_empty() {
                return Err(IdentityError::NoRoot(domain));
            }
            let read: Result<_, _> = certificates.iter().map(|der| read(der)).collect();
            let read: Vec<_> = read.map_err(|why| IdentityError::Root(domain.clone(), why))?;
            let (anchors, limits) = read.into_iter().unzip();
            domains.insert(domain, Arc::new(Roots { anchors, limits, certificates }));
        }
        Ok(Self { domains, quarantines: Vec::new(), verified: VerifiedChains::default() })
    }

    /// What a node is told to trust.
    pub fn of(trust: &Trust) -> Result<Self, IdentityError> {
        let made = Self::new(trust.roots.clone())?;
        Ok(Self { quarantines: trust.quarantines.clone(), ..made })
    }

    /// The first quarantine that is about this bearer.
    pub fn quarantine_of(&self, bearer: &Bearer) -> Option<&Quarantine> {
        self.quarantines.iter().find(|quarantine| quarantine.covers(bearer))
    }

    /// What has led to these roots already.
    pub(crate) fn verified(&self) -> &VerifiedChains {
        &self.verified
    }

    pub(crate) fn anchors(&self, domain: &TrustDomain) -> Option<&[TrustAnchor<'static>]> {
        self.domains.get(domain).map(|roots| roots.anchors.as_slice())
    }

    /// How long a root of this domain with this name and key lets a chain with so many issuers end
    /// in it, if it does at `now`. There may be several: a root that was made again with its old key.
    pub(crate) fn check_root(
        &self,
        domain: &TrustDomain,
        anchor: &TrustAnchor<'_>,
        issuers: u32,
        now: SystemTime,
    ) -> Result<SystemTime, PeerProblem> {
        let Some(roots) = self.domains.get(domain) else {
            return Err(PeerProblem::TrustDomain(domain.clone()));
        };
        let mut in_time = roots.anchors.iter().zip(&roots.limits).filter(|(root, limits)| {
            let same = root.subject == anchor.subject
                && root.subject_public_key_info == anchor.subject_public_key_info;
            same && (limits.not_before..=limits.not_after).contains(&now)
        });
        let Some((_, first)) = in_time.next() else { return Err(PeerProblem::RootOutOfTime) };
        let in_time = std::iter::once(first).chain(in_time.map(|(_, limits)| limits));
        let allowing = in_time.filter(|limits| limits.path_length.is_none_or(|of| issuers <= of));
        let until = allowing.map(|limits| limits.not_after).max();
        until.ok_or_else(|| PeerProblem::Chain("PathLenConstraintViolated".to_owned()))
    }

    pub fn trusts(&self, domain: &TrustDomain) -> bool {
        self.domains.contains_key(domain)
    }

    /// Whether what `root` has signed for `domain` is still to be believed.
    pub fn trusts_root(&self, domain: &TrustDomain, root: &RootKey) -> bool {
        let key = |anchor: &TrustAnchor<'_>| *anchor.subject_public_key_info == *root.0;
        self.anchors(domain).is_some_and(|anchors| anchors.iter().any(key))
    }

    /// Which other domain than this one has a root with the same key as one of these, DER.
    /// Such a root could speak for both.
    pub fn also_root_of(&self, domain: &TrustDomain, roots: &[Vec<u8>]) -> Option<&TrustDomain> {
        let keys: Vec<_> = roots.iter().filter_map(|der| read(der).ok()).collect();
        let mut others = self.domains.iter().filter(|(other, _)| *other != domain);
        let shares = |known: &Roots| {
            let known: Vec<_> = known.anchors.iter().map(RootKey::of).collect();
            keys.iter().any(|(anchor, _)| known.contains(&RootKey::of(anchor)))
        };
        others.find(|(_, known)| shares(known)).map(|(other, _)| other)
    }

    /// The roots of a domain, by their keys.
    pub fn root_keys(&self, domain: &TrustDomain) -> Vec<RootKey> {
        self.anchors(domain).unwrap_or_default().iter().map(RootKey::of).collect()
    }

    /// All root certificates, DER.
    pub fn certificates(&self) -> impl Iterator<Item = &[u8]> {
        self.domains.values().flat_map(|roots| roots.certificates.iter().map(Vec::as_slice))
    }
}

/// Reads a root. A leaf that somebody took for one would let its key speak for the whole domain.
pub(crate) fn read(der: &[u8]) -> Result<(TrustAnchor<'static>, Limits), String> {
    let certificate = leaf::parse(der).map_err(|problem| problem.to_string())?;
    let constraints = certificate.basic_constraints().map_err(|error| error.to_string())?;
    let Some(constraints) = constraints.filter(|of| of.value.ca) else {
        return Err("it is no authority's (CA:TRUE)".to_owned());
    };
    if !may_sign_certificates(der) {
        return Err("its key is not for signing certificates".to_owned());
    }
    let validity = certificate.validity();
    let limits = Limits {
        not_before: instant(validity.not_before.timestamp()),
        not_after: instant(validity.not_after.timestamp()),
        path_length: constraints.value.path_len_constraint,
    };
    let der = CertificateDer::from(der);
    let anchor = webpki::anchor_from_trusted_cert(&der).map_err(|error| error.to_string())?;
    Ok((anchor.to_owned(), limits))
}
