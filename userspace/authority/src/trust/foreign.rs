//! Another trust domain's roots, as it has published them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use martlet_identity::TrustBundle;
use martlet_model::TrustDomain;

use super::TrustError;

/// More roots than any rotation needs at once.
const ROOTS: usize = 32;

/// How many other trust domains there may be.
pub const DOMAINS: usize = 1024;

/// What is known of another trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    /// DER.
    pub roots: Vec<Vec<u8>>,
    /// Grows with every change, if it says so (SPIFFE bundle format, section 4.1.1).
    pub sequence: Option<u64>,
    /// How often it wants to be asked (section 4.1.2).
    pub refresh_hint: Option<Duration>,
    pub fetched: SystemTime,
    /// A file's path, or the URL of an endpoint.
    pub source: String,
}

impl Foreign {
    /// Whether it has the same roots, in whatever order.
    pub(super) fn is_as(&self, other: &Self) -> bool {
        let set = |of: &Self| of.roots.iter().cloned().collect::<BTreeSet<_>>();
        set(self) == set(other)
    }

    /// Whether it may take the place of what is known. `taken` are the digests of keys of all other
    /// domains' roots, and whose they are: whoever has such a key would speak for both.
    pub(super) fn check(
        &self,
        domain: &TrustDomain,
        known: Option<&Self>,
        taken: &BTreeMap<String, String>,
    ) -> Result<(), TrustError> {
        let refused = |why: String| TrustError::Bundle { domain: domain.clone(), why };
        if self.roots.len() > ROOTS {
            return Err(refused(format!(
                "it has {} roots, and may have {ROOTS}",
                self.roots.len()
            )));
        }
        let keys = keys(domain, &self.roots).map_err(refused)?;
        if let Some(whose) = keys.iter().find_map(|key| taken.get(key)) {
            return Err(refused(format!(
                "it has the key of a root of {whose}, so that its authority would speak for both"
            )));
        }
        let Some(known) = known else { return Ok(()) };
        match (known.sequence, self.sequence) {
            (Some(known), Some(new)) if new < known => {
                Err(refused(format!("it has number {new}, and number {known} is known already")))
            }
            (Some(old), Some(new)) if new == old && !known.is_as(self) => Err(refused(format!(
                "it is another one than that which is known with number {new}"
            ))),
            (Some(known), None) => {
                Err(refused(format!("it has no number, and number {known} is known already")))
            }
            _ => Ok(()),
        }
    }
}

/// The digests of the keys of these roots.
pub fn keys(domain: &TrustDomain, roots: &[Vec<u8>]) -> Result<Vec<String>, String> {
    let bundle = TrustBundle::new([(domain.clone(), roots.to_vec())]);
    let bundle = bundle.map_err(|error| error.to_string())?;
    Ok(bundle.root_keys(domain).iter().map(|key| key.digest()).collect())
}
