//! What an agent says about itself.

use std::collections::{BTreeMap, HashMap};

use martlet_model::Skew;

use super::{Malformed, cut, is_digest, text};
use crate::{Acknowledgement, Usage, limits, proto};

/// Counts beyond what is taken are left out: the smallest.
pub fn usage_to(usage: &Usage) -> proto::Usage {
    let most = |counts: &BTreeMap<String, u64>| {
        let mut counts: Vec<_> = counts.iter().map(|(of, count)| (of.clone(), *count)).collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        counts.truncate(limits::USAGE_ENTRIES);
        counts.into_iter().collect::<HashMap<_, _>>()
    };
    proto::Usage {
        leaves: most(&usage.leaves),
        connections: most(&usage.connections),
        oldest_expiry: usage.oldest_expiry,
        quarters: usage.quarters.to_vec(),
        next_renewal: usage.next_renewal,
        clock: usage.clock.map(|Skew { ahead_ms, within_ms }| proto::Skew { ahead_ms, within_ms }),
    }
}

pub fn usage_from(usage: proto::Usage) -> Result<Usage, Malformed> {
    Ok(Usage {
        leaves: counts("leaves", usage.leaves)?,
        connections: counts("connections", usage.connections)?,
        oldest_expiry: usage.oldest_expiry,
        quarters: quarters(&usage.quarters)?,
        next_renewal: usage.next_renewal,
        clock: usage.clock.map(|proto::Skew { ahead_ms, within_ms }| Skew { ahead_ms, within_ms }),
    })
}

/// An older agent does not say it.
fn quarters(said: &[u64]) -> Result<[u64; 4], Malformed> {
    match said {
        [] => Ok([0; 4]),
        said => said
            .try_into()
            .map_err(|_| Malformed::new("quarters", format_args!("has {} entries", said.len()))),
    }
}

fn counts(at: &str, counts: HashMap<String, u64>) -> Result<BTreeMap<String, u64>, Malformed> {
    if counts.len() > limits::USAGE_ENTRIES {
        return Err(Malformed::new(at, format_args!("has {} entries", counts.len())));
    }
    match counts.keys().find(|key| !is_digest(key)) {
        Some(_) => Err(Malformed::new(at, "a key is no SHA-256 in hex")),
        None => Ok(counts.into_iter().collect()),
    }
}

pub fn acknowledgement_to(said: &Acknowledgement) -> proto::Acknowledgement {
    proto::Acknowledgement {
        version: said.version,
        trust_version: said.trust_version,
        bundle: said.bundle.clone(),
        error: cut(said.error.as_deref().unwrap_or_default()),
    }
}

pub fn acknowledgement_from(said: proto::Acknowledgement) -> Result<Acknowledgement, Malformed> {
    if !said.bundle.is_empty() && !is_digest(&said.bundle) {
        return Err(Malformed::new("bundle", "is no SHA-256 in hex"));
    }
    let error = Some(text("error", said.error)?).filter(|error| !error.is_empty());
    let (version, trust_version) = (said.version, said.trust_version);
    Ok(Acknowledgement { version, trust_version, bundle: said.bundle, error })
}
