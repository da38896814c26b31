//! A workload that is enrolled, and what may change about it without a new enrollment.

use std::{io, sync::Arc};

use anyhow::{Context as _, Result};
use martlet_dataplane::Local;
use martlet_kernel::{KernelError, Netns, Pod};
use martlet_model::LocalWorkload;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{arrivals::Arrivals, closing::Plaintext, coverage::terms};

pub struct Enrolled {
    pub wanted: LocalWorkload,
    pub local: Arc<Local>,
    pub pod: Pod,
    pub netns: Netns,
    /// Why the guard is not everywhere where it should be.
    pub unguarded: Option<String>,
    pub plaintext: Plaintext,
    pub stop: CancellationToken,
}

impl Enrolled {
    /// Whether the difference is one that needs no new enrolment.
    pub fn can_become(&self, wanted: &LocalWorkload) -> bool {
        let (old, new) = (&self.wanted.workload, &wanted.workload);
        self.wanted.netns == wanted.netns
            && old.identity == new.identity
            && old.service_account == new.service_account
            && old.addresses == new.addresses
    }

    pub fn become_like(&mut self, wanted: &LocalWorkload) -> Result<()> {
        if terms(&self.wanted) != terms(wanted) {
            self.pod
                .set_terms(terms(wanted))
                .with_context(|| format!("changing the mode of {}", wanted.workload.name))?;
        }
        self.wanted = wanted.clone();
        Ok(())
    }

    /// What is news is said.
    pub fn set_unguarded(&mut self, now: Option<String>) {
        if let Some(why) = now.as_ref().filter(|_| now != self.unguarded) {
            warn!(workload = %self.wanted.workload.name, why, "not guarded");
        }
        self.unguarded = now;
    }

    /// Whether its network namespace is gone or replaced. Not being able to look is no answer.
    pub fn is_lost(&self, arrivals: &Arrivals) -> bool {
        match arrivals.find(&self.wanted.netns) {
            Ok(now) => now.cookie() != self.netns.cookie(),
            Err(KernelError::Netns { source, .. }) => source.kind() == io::ErrorKind::NotFound,
            Err(KernelError::CgroupEmpty { .. } | KernelError::PodAbsent { .. }) => true,
            Err(_) => false,
        }
    }
}
