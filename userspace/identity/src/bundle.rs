//! Whom we trust: for each trust domain its own roots, and no other's.

use std::{collections::HashMap, sync::Arc};

use martlet_model::TrustDomain;
use rustls::pki_types::{CertificateDer, TrustAnchor};

use crate::IdentityError;

/// The roots of all trusted domains.
#[derive(Debug, Clone)]
pub struct TrustBundle {
    domains: HashMap<TrustDomain, Arc<Roots>>,
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
        Ok(Self { domains })
    }

    pub(crate) fn anchors(&self, domain: &TrustDomain) -> Option<&[TrustAnchor<'static>]> {
        self.domains.get(domain).map(|roots| roots.anchors.as_slice())
    }

    pub fn trusts(&self, domain: &TrustDomain) -> bool {
        self.domains.contains_key(domain)
    }

    /// All root certificates, DER.
    pub fn certificates(&self) -> impl Iterator<Item = &[u8]> {
        self.domains.values().flat_map(|roots| roots.certificates.iter().map(Vec::as_slice))
    }
}
