//! Whom to trust. That roots are roots is for the bundle to check.

use std::collections::BTreeMap;

use martlet_identity::fingerprint;
use martlet_model::{Trust, TrustDomain};

use super::{Malformed, bounded, each, is_digest, parsed, sized};
use crate::{limits, proto};

pub fn trust_to(trust: &Trust) -> proto::Trust {
    let domain = |(name, roots): (&TrustDomain, &Vec<Vec<u8>>)| proto::Domain {
        name: name.to_string(),
        roots: roots.clone(),
    };
    proto::Trust {
        version: trust.version,
        domains: trust.roots.iter().map(domain).collect(),
        quarantines: trust.quarantines.iter().map(ToString::to_string).collect(),
        issuer: trust.issuer.clone(),
    }
}

pub fn trust_from(trust: proto::Trust) -> Result<Trust, Malformed> {
    bounded("domains", &trust.domains, limits::DOMAINS)?;
    let mut roots = BTreeMap::new();
    for proto::Domain { name, roots: certificates } in trust.domains {
        let domain: TrustDomain = parsed("domain", &name)?;
        if certificates.is_empty() {
            return Err(Malformed::new("roots", "there is none").within(domain));
        }
        let read = each("roots", certificates, limits::ROOTS, |der| {
            sized("certificate", &der, limits::CERTIFICATE_BYTES).map(|()| der)
        });
        let read = read.map_err(|bad| bad.within(&domain))?;
        if roots.insert(domain.clone(), read).is_some() {
            return Err(Malformed::new("domains", format_args!("{domain} is there twice")));
        }
    }
    let quarantines = each("quarantines", trust.quarantines, limits::QUARANTINES, |text| {
        parsed("quarantine", &text)
    });
    if trust.issuer.as_ref().is_some_and(|issuer| !is_digest(issuer)) {
        return Err(Malformed::new("issuer", "is no SHA-256 in hex"));
    }
    let quarantines = quarantines?;
    Ok(Trust { version: trust.version, roots, quarantines, issuer: trust.issuer })
}

/// By which agent and controller know that they mean the same roots: SHA-256, in hex.
pub fn bundle_digest(trust: &Trust) -> String {
    let mut bytes = Vec::new();
    for (domain, roots) in &trust.roots {
        let mut roots: Vec<_> = roots.iter().map(|der| fingerprint(der)).collect();
        roots.sort_unstable();
        bytes.extend_from_slice(format!("{domain} {}\n", roots.join(" ")).as_bytes());
    }
    fingerprint(&bytes)
}
