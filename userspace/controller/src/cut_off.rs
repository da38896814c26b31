//! Whoever is cut off gets no certificate, wherever it is known from what runs where.

use std::sync::Arc;

use martlet_authority::{Attested, Attestor, Denied};
use martlet_kubernetes::lease::Holding;
use martlet_model::{Bearer, Label, Trust, WorkloadName};
use tokio::sync::watch;

/// Why a replica that is not the controller any more certifies nobody.
pub const NOT_HELD: &str = "another replica is the controller, or will be";

/// An attestor that denies whom a quarantine is about. So a refusal is a line of the log of issuance,
/// and a quarantine counts that comes while a certificate is made.
pub struct Guarded<A> {
    pub attestor: A,
    pub trust: watch::Receiver<Arc<Trust>>,
    /// Of one of several replicas.
    pub holding: Option<Holding>,
}

impl<A: Attestor> Attestor for Guarded<A> {
    async fn attest(&self, node: &Label, workload: &WorkloadName) -> Result<Attested, Denied> {
        let attested = self.attestor.attest(node, workload).await?;
        let bearer = Bearer {
            identity: attested.identity.clone(),
            workload: Some(workload.clone()),
            node: Some(node.clone()),
        };
        // Asked before it is signed, and after.
        if self.holding.as_ref().is_some_and(|holding| !holding.is_held()) {
            return Err(Denied::Unavailable(NOT_HELD.to_owned()));
        }
        let trust = self.trust.borrow();
        match trust.quarantines.iter().find(|quarantine| quarantine.covers(&bearer)) {
            Some(quarantine) => Err(Denied::Quarantined(quarantine.clone())),
            None => Ok(attested),
        }
    }
}
