//! Good certificates of the corpus with some bytes changed: none is believed, and none brings the
//! reader to a panic.

use std::sync::Arc;

use martlet_identity::{Chain, describe, verify_chain};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

use crate::{Accepted, Outcome, certificates, corpus, manifest};

const MUTATIONS: usize = 40_000;

/// Flips, overwrites, removes and repeats, up to three times.
fn mutate(der: &[u8], random: &mut StdRng) -> Vec<u8> {
    let mut changed = der.to_vec();
    for _ in 0..random.random_range(1..=3) {
        let at = random.random_range(0..changed.len());
        match random.random_range(0..5) {
            0 => changed[at] ^= 1 << random.random_range(0..8),
            1 => changed[at] = random.random(),
            2 => changed[at] = [0, 1, 0x30, 0x7f, 0x80, 0x84, 0xff][random.random_range(0..7)],
            3 => drop(changed.remove(at)),
            _ => {
                let end = (at + random.random_range(1..40)).min(changed.len());
                let again = changed[at..end].to_vec();
                changed.splice(at..at, again);
            }
        }
    }
    changed
}

#[test]
fn no_certificate_of_which_a_byte_is_changed_is_believed() {
    let manifest = manifest();
    let good = |outcome: &Outcome| *outcome == Outcome::Accepted(Accepted::Accepted);
    let cases: Vec<_> = manifest
        .cases
        .iter()
        .filter(|case| good(&case.terminate) && good(&case.originate))
        .map(|case| {
            let path = corpus().join("cases").join(&case.id).with_extension("pem");
            let chain: Vec<_> = certificates(&path).iter().map(|der| der.to_vec()).collect();
            (chain, case.trust(), case.now())
        })
        .collect();
    for (chain, trust, now) in &cases {
        assert_eq!(verify_chain(&Chain(chain.clone()), Arc::clone(trust), *now), Ok(()));
    }
    let mut random = StdRng::seed_from_u64(9);
    let mut changed = 0;
    for _ in 0..MUTATIONS {
        let (chain, trust, now) = cases.choose(&mut random).unwrap();
        let mut mutated = chain.clone();
        mutated[0] = mutate(&chain[0], &mut random);
        changed += usize::from(mutated != *chain);
        let _ = describe(&mutated[0]);
        let outcome = verify_chain(&Chain(mutated.clone()), Arc::clone(trust), *now);
        assert!(outcome.is_err() || mutated == *chain, "{:02x?}", mutated[0]);
    }
    assert!(changed > MUTATIONS / 10 * 9, "{changed}");
    martlet_lab::evidence(
        "no_certificate_of_which_a_byte_is_changed_is_believed",
        &[("certificates", &changed), ("believed", &0)],
    )
    .unwrap();
}
