//! What to make of a document that an endpoint gave, and when to look again. Pure.

use std::{collections::BTreeSet, time::Duration};

use martlet_identity::{BundleDocument, TrustBundle};
use martlet_model::TrustDomain;
use thiserror::Error;

use crate::limits::{DEFAULT_REFRESH, LONGEST_REFRESH, REFRESH_JITTER, SHORTEST_REFRESH};

/// Why a good document is not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("its sequence number went back from {held} to {found}")]
    WentBack { held: u64, found: u64 },
    #[error("its roots changed and its sequence number {0} did not")]
    SameSequence(u64),
    #[error("it has a root of {0}, which only {0} may publish")]
    RootOf(TrustDomain),
}

/// Whether `found` may take the place of `held` as the document of `domain`. `trust` has the roots
/// of our own domain and of all others.
pub fn judge(
    domain: &TrustDomain,
    held: Option<&BundleDocument>,
    found: &BundleDocument,
    trust: &TrustBundle,
) -> Result<(), Refusal> {
    if let Some(other) = trust.also_root_of(domain, &found.roots) {
        return Err(Refusal::RootOf(other.clone()));
    }
    let Some(before) = held else { return Ok(()) };
    match (before.sequence, found.sequence) {
        (Some(held), Some(found)) if found < held => Err(Refusal::WentBack { held, found }),
        (Some(held), Some(number)) if number == held && !same_roots(before, found) => {
            Err(Refusal::SameSequence(number))
        }
        // Without a number the newest is the right one (SPIFFE Federation, section 4.2).
        _ => Ok(()),
    }
}

fn same_roots(one: &BundleDocument, other: &BundleDocument) -> bool {
    let set = |document: &BundleDocument| document.roots.iter().cloned().collect::<BTreeSet<_>>();
    set(one) == set(other)
}

/// How long to wait before the next look, also after one that failed (SPIFFE Federation, section
/// 6.2). `jitter` is between 0 and 1.
pub fn next_look(hint: Option<Duration>, jitter: f64) -> Duration {
    let interval = hint.unwrap_or(DEFAULT_REFRESH).clamp(SHORTEST_REFRESH, LONGEST_REFRESH);
    interval.mul_f64(1.0 - REFRESH_JITTER + 2.0 * REFRESH_JITTER * jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(roots: &[&[u8]], sequence: Option<u64>) -> BundleDocument {
        let roots = roots.iter().map(|root| root.to_vec()).collect();
        BundleDocument { roots, sequence, refresh_hint: None }
    }

    fn judged(held: &BundleDocument, found: &BundleDocument) -> Result<(), Refusal> {
        let nobody = TrustBundle::new([]).unwrap();
        judge(&"b.org".parse().unwrap(), Some(held), found, &nobody)
    }

    #[test]
    fn a_sequence_number_grows_with_the_roots_and_never_goes_back() {
        let held = document(&[b"a"], Some(5));
        assert_eq!(judged(&held, &held), Ok(()));
        assert_eq!(judged(&held, &document(&[b"a", b"b"], Some(6))), Ok(()));
        assert_eq!(judged(&held, &document(&[b"a"], Some(6))), Ok(()));
        let back = judged(&held, &document(&[b"b"], Some(4)));
        assert_eq!(back, Err(Refusal::WentBack { held: 5, found: 4 }));
        assert_eq!(judged(&held, &document(&[b"b"], Some(5))), Err(Refusal::SameSequence(5)));
    }

    #[test]
    fn without_a_sequence_number_the_newest_is_taken() {
        let (with, without) = (document(&[b"a"], Some(5)), document(&[b"b"], None));
        assert_eq!(judged(&with, &without), Ok(()));
        assert_eq!(judged(&without, &with), Ok(()));
    }

    #[test]
    fn a_hint_is_honored_within_bounds_and_with_jitter() {
        let minutes = |count: u64| Duration::from_secs(60 * count);
        assert_eq!(next_look(None, 0.5), minutes(5));
        assert_eq!(next_look(Some(minutes(10)), 0.5), minutes(10));
        assert_eq!(next_look(Some(minutes(10)), 0.0), minutes(9));
        assert_eq!(next_look(Some(minutes(10)), 1.0), minutes(11));
        assert_eq!(next_look(Some(Duration::ZERO), 0.5), minutes(1));
        assert_eq!(next_look(Some(Duration::MAX), 0.5), minutes(24 * 60));
    }
}
