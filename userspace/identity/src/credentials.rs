//! What one workload proves itself with, and whom it trusts; both replaceable while it runs.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use martlet_model::{Quarantine, SpiffeId};

use crate::{Svid, TrustBundle};

/// One workload's credentials.
#[derive(Debug)]
pub struct Credentials {
    identity: SpiffeId,
    svid: ArcSwapOption<Svid>,
    trust: ArcSwap<TrustBundle>,
    generation: AtomicU64,
}

impl Credentials {
    /// Without an SVID every handshake fails; [`Credentials::install`] gives one.
    pub fn new(identity: SpiffeId, trust: Arc<TrustBundle>) -> Self {
        Self {
            identity,
            svid: ArcSwapOption::empty(),
            trust: ArcSwap::new(trust),
            generation: AtomicU64::new(0),
        }
    }

    pub fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    /// New connections use it at once; connections that are open keep what they have.
    pub fn install(&self, svid: Svid) {
        self.svid.store(Some(Arc::new(svid)));
        self.generation.fetch_add(1, Ordering::Release);
    }

    pub fn set_trust(&self, trust: Arc<TrustBundle>) {
        self.trust.store(trust);
        self.generation.fetch_add(1, Ordering::Release);
    }

    pub fn current(&self) -> Option<Arc<Svid>> {
        self.svid.load_full()
    }

    pub fn trust(&self) -> Arc<TrustBundle> {
        self.trust.load_full()
    }

    /// Why this workload itself is cut off, if it is.
    pub fn quarantine(&self) -> Option<Quarantine> {
        self.trust.load().quarantine_of(self.svid.load().as_ref()?.bearer()).cloned()
    }

    /// Changes with every new SVID and every new bundle; a lane of an older one is not reused.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}
