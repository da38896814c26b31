//! What a successor is told of pods that have just arrived: of some of them only the plugin has told,
//! and without it their addresses would be open to the mesh until the controller says who they are.

use std::{
    fs::File,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use martlet_cni::message::{Arrival, PodName};
use martlet_kernel::Netns;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tracing::warn;

use super::{Arrivals, Known, named};
use crate::limits::ARRIVALS_HANDED;

/// One that has arrived, beside its network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inherited {
    arrival: Arrival,
    /// How long ago.
    age_ms: u64,
}

impl Arrivals {
    /// Those of whom a successor is to know, the last ones first.
    pub fn inheritance(&self) -> Vec<(Inherited, Netns)> {
        let (inner, now) = (self.inner(), Instant::now());
        let mut all: Vec<_> = inner.known.iter().collect();
        all.sort_by_key(|(_, known)| std::cmp::Reverse(known.since));
        let of = |(sandbox, known): (&String, &Known)| {
            let age = now.saturating_duration_since(known.since).as_millis();
            let pod = known.pod.as_ref().map(|(name, uid)| PodName {
                namespace: name.namespace.to_string(),
                name: name.name.to_string(),
                uid: Some(uid.to_string()),
            });
            let arrival = Arrival {
                sandbox: sandbox.clone(),
                netns: known.netns.path().to_owned(),
                pod,
                addresses: known.addresses.clone(),
                is_exempt: known.is_exempt,
            };
            let age_ms = u64::try_from(age).unwrap_or(u64::MAX);
            (Inherited { arrival, age_ms }, known.netns.clone())
        };
        all.into_iter().take(ARRIVALS_HANDED).map(of).collect()
    }

    /// Takes those of whom a predecessor has told. What they are is decided here again.
    pub fn inherit(&self, told: Vec<(Inherited, OwnedFd)>) {
        for (Inherited { arrival, age_ms }, netns) in told {
            let Arrival { sandbox, netns: path, pod, addresses, is_exempt } = arrival;
            let netns = match Netns::of_file(File::from(netns), &path) {
                Ok(netns) => netns,
                Err(error) => {
                    let error = crate::workloads::chain(&error);
                    warn!(error, "of a pod that has arrived the network namespace is not known");
                    continue;
                }
            };
            let since = Instant::now().checked_sub(Duration::from_millis(age_ms));
            let known = Known {
                pod: pod.and_then(named),
                netns,
                addresses,
                is_exempt,
                since: since.unwrap_or_else(Instant::now),
                settled: watch::channel(false).0,
            };
            self.inner().known.insert(sandbox, known);
        }
    }
}
