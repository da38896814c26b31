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

/// Whose our roots are, in a sentence.
const OUR_OWN: &str = "our own domain";

/// How much is kept of why somebody was cut off.
const REASON_BYTES: usize = 256;

impl Store {
    /// Trusts another domain, or takes over its new roots, because a person says so: also if the
    /// domain was removed.
    pub fn import(
        &mut self,
        domain: &TrustDomain,
        foreign: &Foreign,
        now: SystemTime,
    ) -> Result<(), TrustError> {
        self.take(domain, foreign, now)
    }

    /// The same, because the domain's endpoint says so, which changes nothing about what a person has
    /// removed.
    pub fn refresh(
        &mut self,
        domain: &TrustDomain,
        foreign: &Foreign,
        now: SystemTime,
    ) -> Result<(), TrustError> {
        match self.is_removed(domain) {
            true => Err(TrustError::Removed(domain.clone())),
            false => self.take(domain, foreign, now),
        }
    }

    /// Whether a person has removed it, and not imported it again.
    pub fn is_removed(&self, domain: &TrustDomain) -> bool {
        self.document.removed.contains(domain)
    }

    fn take(
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
        foreign.check(domain, known.as_ref(), &self.others_keys(domain))?;
        if let Some(known) = known.filter(|known| known.is_as(foreign)) {
            // Only when and from where it was fetched, which no node has to know.
            let same = Foreign { roots: known.roots, ..foreign.clone() };
            let mut document = self.document.clone();
            document.foreign.insert(domain.clone(), Bundle::of(&same));
            return self.commit(document);
        }
        let bundle = Bundle::of(foreign);
        self.change(now, |document| {
            document.foreign.insert(domain.clone(), bundle);
            document.removed.remove(domain);
            Ok(())
        })
    }

    /// Trusts another domain no more; connections with it end.
    pub fn remove(&mut self, domain: &TrustDomain, now: SystemTime) -> Result<(), TrustError> {
        self.change(now, |document| match document.foreign.remove(domain) {
            Some(_) => {
                document.removed.insert(domain.clone());
                Ok(())
            }
            None => Err(TrustError::NotTrusted(domain.clone())),
        })
    }

    /// The keys of all roots but this domain's, and whose they are.
    fn others_keys(&self, domain: &TrustDomain) -> BTreeMap<String, String> {
        let mut keys = self.foreign_keys();
        keys.retain(|_, of| of != domain.as_str());
        // Of a key that is both, the own one is what matters.
        keys.extend(self.own_keys().into_iter().map(|key| (key, OUR_OWN.to_owned())));
        keys
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

    /// Why somebody is cut off, if so.
    pub fn reason(&self, whom: &Quarantine) -> Option<&str> {
        self.document.quarantines.get(whom).map(|note| note.reason.as_str())
    }

    pub fn release(&mut self, whom: &Quarantine, now: SystemTime) -> Result<(), TrustError> {
        self.change(now, |document| match document.quarantines.remove(whom) {
            Some(_) => Ok(()),
            None => Err(TrustError::NotCutOff(whom.to_string())),
        })
    }
}
