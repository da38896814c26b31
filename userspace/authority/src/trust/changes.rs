//! Other domains that are trusted, and who is cut off.

use std::{collections::BTreeMap, time::SystemTime};

use martlet_model::{Quarantine, TrustDomain};

use super::{
    Foreign, Store, TrustError,
    document::{Bundle, Note, seconds},
    foreign::DOMAINS,
};

/// How many may be cut off at once, each by itself.
const QUARANTINES: usize = 4096;

/// How much is kept of why somebody was cut off.
const REASON_BYTES: usize = 256;

impl Store {
    /// Trusts another domain, or takes over its new roots.
    pub fn import(
        &mut self,
        domain: &TrustDomain,
        foreign: &Foreign,
        now: SystemTime,
    ) -> Result<(), TrustError> {
        if *domain == self.domain {
            return Err(TrustError::OwnDomain(domain.clone()));
        }
        let known = self.document.foreign.get(domain).and_then(Bundle::read);
        if known.is_none() && self.document.foreign.len() >= DOMAINS {
            return Err(TrustError::TooMany(DOMAINS));
        }
        foreign.check(domain, known.as_ref(), &self.own_keys())?;
        let bundle = Bundle::of(foreign);
        if known.is_some_and(|known| known.roots == foreign.roots) {
            // Only when and from where it was fetched, which no node has to know.
            let mut document = self.document.clone();
            document.foreign.insert(domain.clone(), bundle);
            return self.commit(document);
        }
        self.change(now, |document| {
            document.foreign.insert(domain.clone(), bundle);
            Ok(())
        })
    }

    /// Trusts another domain no more; connections with it end.
    pub fn remove(&mut self, domain: &TrustDomain, now: SystemTime) -> Result<(), TrustError> {
        self.change(now, |document| match document.foreign.remove(domain) {
            Some(_) => Ok(()),
            None => Err(TrustError::NotTrusted(domain.clone())),
        })
    }

    /// What is known of the other domains.
    pub fn foreign(&self) -> BTreeMap<TrustDomain, Foreign> {
        let bundles = self.document.foreign.iter();
        bundles.filter_map(|(domain, bundle)| Some((domain.clone(), bundle.read()?))).collect()
    }

    /// Cuts somebody off. Done twice, it changes nothing.
    pub fn quarantine(
        &mut self,
        whom: Quarantine,
        reason: &str,
        now: SystemTime,
    ) -> Result<(), TrustError> {
        if let Quarantine::Cluster(domain) = &whom
            && *domain == self.domain
        {
            return Err(TrustError::Everybody(domain.clone()));
        }
        if self.document.quarantines.contains_key(&whom) {
            return Ok(());
        }
        if self.document.quarantines.len() >= QUARANTINES {
            return Err(TrustError::TooMany(QUARANTINES));
        }
        let end = (0..=REASON_BYTES).rev().find(|at| reason.is_char_boundary(*at)).unwrap_or(0);
        let reason = reason.get(..end).unwrap_or(reason).to_owned();
        self.change(now, |document| {
            document.quarantines.insert(whom, Note { since: seconds(now), reason });
            Ok(())
        })
    }

    pub fn release(&mut self, whom: &Quarantine, now: SystemTime) -> Result<(), TrustError> {
        self.change(now, |document| match document.quarantines.remove(whom) {
            Some(_) => Ok(()),
            None => Err(TrustError::NotCutOff(whom.to_string())),
        })
    }
}
