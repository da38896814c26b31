//! What one workload proves itself with, and whom it trusts; both replaceable while it runs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use martlet_model::{Quarantine, SpiffeId};

use crate::{Peer, RootKey, Svid, TrustBundle, verify::root_of};

/// One workload's credentials.
#[derive(Debug)]
pub struct Credentials {
    identity: SpiffeId,
    svid: ArcSwapOption<Svid>,
    trust: ArcSwap<TrustBundle>,
    /// What its own chain leads to, if the bundle has it.
    root: ArcSwapOption<RootKey>,
    generation: AtomicU64,
}

impl Credentials {
    /// Without an SVID every handshake fails; [`Credentials::install`] gives one.
    pub fn new(identity: SpiffeId, trust: Arc<TrustBundle>) -> Self {
        Self {
            identity,
            svid: ArcSwapOption::empty(),
            trust: ArcSwap::new(trust),
            root: ArcSwapOption::empty(),
            generation: AtomicU64::new(0),
        }
    }

    pub fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    /// New connections use it at once; connections that are open keep what they have.
    pub fn install(&self, svid: Svid) {
        let root = root_of(svid.chain(), self.trust(), SystemTime::now());
        self.root.store(root.ok().map(Arc::new));
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

    /// Whether a lane to this peer may be used again. While a root is being replaced, peers of our own
    /// trust domain should prove themselves by the root that we are proven by: a lane that is never
    /// idle would rest on the other one for ever.
    pub fn goes_on_with(&self, peer: &Peer) -> bool {
        let is_ours = peer.identity().trust_domain_str() == self.identity.trust_domain_str();
        let root = self.root.load();
        !is_ours || root.as_ref().is_none_or(|root| **root == *peer.root())
    }

    /// Changes with every new SVID and every new bundle; a lane of an older one is not reused.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}
