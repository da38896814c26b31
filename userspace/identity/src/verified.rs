//! Chains that were verified before.
//!
//! Two workloads that open many lanes show each other the same certificates each time, and verifying
//! two signatures of a chain is a good part of what a handshake costs. What was found is kept beside
//! the roots that it was found with, so that other roots begin with nothing. Whether the peer is one
//! that was to be met, whether it is cut off and whether it holds its key is asked each time.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use aws_lc_rs::digest::{Context, SHA256};
use rustls::pki_types::CertificateDer;
use webpki::KeyUsage;

use crate::{bundle::RootKey, leaf::Facts, limits::PROVEN_CHAINS};

/// A chain as it was shown, and for which side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shown([u8; 32]);

/// What a verified chain says.
#[derive(Debug)]
pub struct VerifiedChain {
    pub leaf: Facts,
    pub root: RootKey,
    /// When it was verified.
    pub since: SystemTime,
    /// The first end of the chain's certificates and its root.
    pub until: SystemTime,
}

/// When half of the bound is reached, those that were not used since the last time are forgotten.
#[derive(Default)]
pub struct VerifiedChains(Mutex<Halves>);

#[derive(Default)]
struct Halves {
    recent: HashMap<Shown, Arc<VerifiedChain>>,
    older: HashMap<Shown, Arc<VerifiedChain>>,
}

impl Shown {
    /// Each certificate with its length: nothing else has the same bytes.
    pub fn new(usage: KeyUsage, leaf: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Self {
        let mut digest = Context::new(&SHA256);
        for value in usage.oid_values() {
            digest.update(&value.to_be_bytes());
        }
        for der in std::iter::once(leaf).chain(others) {
            digest.update(&der.len().to_be_bytes());
            digest.update(der);
        }
        let digest = digest.finish();
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

impl VerifiedChain {
    /// Not before it was verified either: what a clock that was put back means is asked anew.
    fn holds_at(&self, now: SystemTime) -> bool {
        (self.since..=self.until).contains(&now)
    }
}

impl VerifiedChains {
    pub fn find(&self, shown: &Shown, now: SystemTime) -> Option<Arc<VerifiedChain>> {
        let mut halves = self.lock();
        let found = match halves.recent.get(shown) {
            Some(found) => found.clone(),
            None => {
                let found = halves.older.remove(shown)?;
                halves.keep(*shown, found.clone());
                found
            }
        };
        found.holds_at(now).then_some(found)
    }

    pub fn keep(&self, shown: Shown, proof: Arc<VerifiedChain>) {
        self.lock().keep(shown, proof);
    }

    fn lock(&self) -> MutexGuard<'_, Halves> {
        // Nothing below can panic between two changes that belong together.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Halves {
    fn keep(&mut self, shown: Shown, proof: Arc<VerifiedChain>) {
        if self.recent.len() >= PROVEN_CHAINS / 2 {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(shown, proof);
    }
}

impl Clone for VerifiedChains {
    /// The clone of a bundle may become another one.
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl fmt::Debug for VerifiedChains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedChains").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use martlet_model::Bearer;
    use rustls::pki_types::TrustAnchor;

    use super::*;
    use crate::KeyDigest;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn shown(leaf: &[u8], others: &[&[u8]]) -> Shown {
        let der = |bytes: &[u8]| CertificateDer::from(bytes.to_vec());
        let others: Vec<_> = others.iter().map(|other| der(other)).collect();
        Shown::new(KeyUsage::server_auth(), &der(leaf), &others)
    }

    /// Verified at 100, valid until 200.
    fn chain() -> Arc<VerifiedChain> {
        let identity = "spiffe://prod.example/ns/a/sa/b".parse().unwrap();
        let leaf = Facts {
            bearer: Arc::new(Bearer { identity, workload: None, node: None }),
            subject: String::new(),
            key: KeyDigest::of(b"key"),
            not_before: at(0),
            not_after: at(300),
        };
        let empty = || Vec::new().into();
        let root = RootKey::of(&TrustAnchor {
            subject: empty(),
            subject_public_key_info: empty(),
            name_constraints: None,
        });
        Arc::new(VerifiedChain { leaf, root, since: at(100), until: at(200) })
    }

    #[test]
    fn a_chain_is_found_as_it_was_shown_while_it_is_valid() {
        let (chains, web) = (VerifiedChains::default(), shown(b"leaf", &[b"issuer"]));
        assert!(chains.find(&web, at(150)).is_none());
        chains.keep(web, chain());
        for (now, is_found) in [(99, false), (100, true), (200, true), (201, false)] {
            assert_eq!(chains.find(&web, at(now)).is_some(), is_found, "at {now}");
        }
        for other in [
            shown(b"leaf", &[]),
            shown(b"leaf", &[b"issuer", b""]),
            shown(b"leafi", &[b"ssuer"]),
            shown(b"issuer", &[b"leaf"]),
        ] {
            assert!(chains.find(&other, at(150)).is_none());
        }
        let (leaf, issuer) = (b"leaf".as_slice().into(), b"issuer".as_slice().into());
        let as_caller = Shown::new(KeyUsage::client_auth(), &leaf, &[issuer]);
        assert!(chains.find(&as_caller, at(150)).is_none());
    }

    #[test]
    fn no_more_are_kept_than_the_bound_and_those_in_use_stay() {
        let (chains, one) = (VerifiedChains::default(), chain());
        let used = shown(b"used", &[]);
        chains.keep(used, one.clone());
        for number in 0..3 * PROVEN_CHAINS {
            chains.keep(shown(&number.to_be_bytes(), &[]), one.clone());
            assert!(chains.find(&used, at(150)).is_some(), "after {number}");
            let halves = chains.lock();
            assert!(halves.recent.len() + halves.older.len() <= PROVEN_CHAINS, "after {number}");
        }
        assert!(chains.find(&shown(&0_usize.to_be_bytes(), &[]), at(150)).is_none());
    }

    #[test]
    fn another_bundle_begins_with_nothing() {
        let (chains, web) = (VerifiedChains::default(), shown(b"leaf", &[]));
        chains.keep(web, chain());
        assert!(chains.clone().find(&web, at(150)).is_none());
    }
}
