//! From trust bundles as they stand in the cluster to whom is trusted. No IO, no clock.
//!
//! Whatever cannot be used changes nothing: the roots that were there stay, and are taken away only
//! when the object that brought them is gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::SystemTime,
};

use martlet_authority::trust::{Foreign, Store, TrustError};
use martlet_identity::BundleDocument;
use martlet_kubernetes::{
    api::{Bundle, BundleObject, BundleText},
    seen::Problem,
};
use martlet_model::{Quarantine, TrustDomain};

use crate::admin::chain;

/// What has become of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Why it is not used as it is written.
    pub refused: Option<Problem>,
    /// By hand, since it was accepted: it is not trusted again before the object is changed.
    pub is_removed: bool,
    /// Of its domain, now.
    pub roots: usize,
}

/// All objects, and what else decides.
pub struct Declared<'a> {
    pub objects: &'a BTreeMap<String, Arc<BundleObject>>,
    /// Whether these are all that there are.
    pub is_complete: bool,
    /// Whether this generation of an object was accepted before.
    pub was_accepted: &'a dyn Fn(&BundleObject) -> bool,
    /// Whether the domain's endpoint is followed.
    pub is_followed: &'a dyn Fn(&TrustDomain) -> bool,
}

/// By which an object's roots are known in what is kept.
pub fn source(name: &str) -> String {
    format!("{SOURCE}{name}")
}

const SOURCE: &str = "TrustBundle ";

/// Changes of whom is trusted what differs from the objects, and says what has become of each.
pub fn reconcile(
    store: &mut Store,
    declared: &Declared<'_>,
    now: SystemTime,
) -> Result<BTreeMap<String, Outcome>, TrustError> {
    let mut outcomes = BTreeMap::new();
    let holders = holders(store, declared.objects);
    if declared.is_complete {
        for (domain, known) in store.foreign() {
            let of = known.source.strip_prefix(SOURCE);
            if of.is_some_and(|name| !declared.objects.contains_key(name)) {
                store.remove(&domain, now)?;
            }
        }
    }
    for (name, object) in declared.objects {
        // To cut somebody off is never too much.
        if let Some(domain) = object.cuts_off().filter(|domain| *domain != *store.domain()) {
            store.quarantine(Quarantine::Cluster(domain), &source(name), now)?;
        }
        let mut outcome = Outcome { refused: None, is_removed: false, roots: 0 };
        match take(store, declared, &holders, (name, object), now) {
            Ok(Taken::Used) => {}
            Ok(Taken::Removed) => outcome.is_removed = true,
            Err(Refusal::Problem(problem)) => outcome.refused = Some(problem),
            Err(Refusal::Trust(error)) => return Err(error),
        }
        let known = store.foreign();
        let mut own = known.values().filter(|known| known.source == source(name));
        outcome.roots = own.next().map_or(0, |known| known.roots.len());
        outcomes.insert(name.clone(), outcome);
    }
    Ok(outcomes)
}

enum Taken {
    Used,
    Removed,
}

enum Refusal {
    Problem(Problem),
    /// It is nobody's fault, and may be tried again.
    Trust(TrustError),
}

fn take(
    store: &mut Store,
    declared: &Declared<'_>,
    holders: &BTreeMap<TrustDomain, String>,
    (name, object): (&str, &BundleObject),
    now: SystemTime,
) -> Result<Taken, Refusal> {
    let refused = |reason, why: String| Refusal::Problem(Problem::new(reason, why));
    let Bundle { trust_domain: domain, roots, is_quarantined } =
        object.read().map_err(Refusal::Problem)?;
    let known = store.foreign();
    if let Some((other, _)) =
        known.iter().find(|(other, known)| **other != domain && known.source == source(name))
    {
        let why = format!("trustDomain was {other}; delete it, and make another object");
        return Err(refused("Immutable", why));
    }
    if let Some(holder) = holders.get(&domain).filter(|holder| *holder != name) {
        return Err(refused("Conflict", format!("TrustBundle {holder} is about {domain}, too")));
    }
    if (declared.is_followed)(&domain) {
        let why = format!("the controller file says to follow the endpoint of {domain}");
        return Err(refused("Followed", why));
    }
    let document = match &roots {
        BundleText::Pem { text, sequence } => {
            BundleDocument::of_pem(text.as_bytes(), *sequence, &domain)
        }
        BundleText::Document(text) => BundleDocument::parse(text.as_bytes(), &domain),
    };
    let document = document.map_err(|error| refused("Invalid", chain(&error)))?;
    let BundleDocument { roots, sequence, refresh_hint } = document;
    let new = Foreign { roots, sequence, refresh_hint, fetched: now, source: source(name) };
    let is_known = known.get(&domain).is_some_and(|known| is_same(known, &new));
    if !is_known {
        if store.is_removed(&domain) && (declared.was_accepted)(object) {
            return Ok(Taken::Removed);
        }
        store.import(&domain, &new, now).map_err(|error| match error {
            TrustError::OwnDomain(_) | TrustError::Bundle { .. } | TrustError::TooMany(_) => {
                refused("Refused", chain(&error))
            }
            error => Refusal::Trust(error),
        })?;
    }
    let quarantine = Quarantine::Cluster(domain);
    if !is_quarantined && store.reason(&quarantine) == Some(&source(name)) {
        store.release(&quarantine, now).map_err(Refusal::Trust)?;
    }
    Ok(Taken::Used)
}

/// Whether nothing would be other by it but when it was read.
fn is_same(known: &Foreign, new: &Foreign) -> bool {
    let set = |of: &Foreign| of.roots.iter().cloned().collect::<BTreeSet<_>>();
    known.source == new.source && known.sequence == new.sequence && set(known) == set(new)
}

/// Whose each domain is: the object's whose roots are trusted now, or else the oldest one's.
fn holders(
    store: &Store,
    objects: &BTreeMap<String, Arc<BundleObject>>,
) -> BTreeMap<TrustDomain, String> {
    let known = store.foreign();
    let mut all: Vec<_> = objects
        .iter()
        .filter_map(|(name, object)| Some((object.read().ok()?.trust_domain, name, object)))
        .collect();
    all.sort_by_key(|(domain, name, object)| {
        let holds = known.get(domain).is_some_and(|known| known.source == source(name));
        (!holds, object.metadata.creation_timestamp.clone(), object.uid())
    });
    let mut holders = BTreeMap::new();
    for (domain, name, _) in all {
        holders.entry(domain).or_insert_with(|| name.clone());
    }
    holders
}

#[cfg(test)]
mod tests;
