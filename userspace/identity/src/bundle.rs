//! Whom we trust: for each trust domain its own roots, and no other's; and who of them is cut off.

use std::{collections::HashMap, sync::Arc};

use martlet_model::{Bearer, Quarantine, Trust, TrustDomain};
use rustls::pki_types::{CertificateDer, TrustAnchor};

use crate::IdentityError;

/// Which root a chain led to, by its public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootKey(Arc<[u8]>);

impl RootKey {
    pub(crate) fn of(anchor: &TrustAnchor<'_>) -> Self {
        Self(Arc::from(anchor.subject_public_key_info.as_ref()))
    }
}

/// The roots of all trusted domains, and who is cut off nevertheless.
#[derive(Debug, Clone)]
pub struct TrustBundle {
    domains: HashMap<TrustDomain, Arc<Roots>>,
    quarantines: Vec<Quarantine>,
}

#[derive(Debug)]
struct Roots {
    anchors: Vec<TrustAnchor<'static>>,
    certificates: Vec<Vec<u8>>,
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
            let anchor = |der: &Vec<u8>| {
                let der = CertificateDer::from(der.as_slice());
                let anchor = webpki::anchor_from_trusted_cert(&der);
                anchor.map(|anchor| anchor.to_owned())
            };
            let anchors: Result<_, _> = certificates.iter().map(anchor).collect();
            let anchors =
                anchors.map_err(|error| IdentityError::Root(domain.clone(), error.to_string()))?;
            domains.insert(domain, Arc::new(Roots { anchors, certificates }));
        }
        Ok(Self { domains, quarantines: Vec::new() })
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

    pub(crate) fn anchors(&self, domain: &TrustDomain) -> Option<&[TrustAnchor<'static>]> {
        self.domains.get(domain).map(|roots| roots.anchors.as_slice())
    }

    pub fn trusts(&self, domain: &TrustDomain) -> bool {
        self.domains.contains_key(domain)
    }

    /// Whether what `root` has signed for `domain` is still to be believed.
    pub fn trusts_root(&self, domain: &TrustDomain, root: &RootKey) -> bool {
        let key = |anchor: &TrustAnchor<'_>| *anchor.subject_public_key_info == *root.0;
        self.anchors(domain).is_some_and(|anchors| anchors.iter().any(key))
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
