//! What the controller says: taken over when it comes, together with what the node file says about
//! this node itself. A node without a controller is told nothing.

use std::{collections::BTreeMap, future::pending, sync::Arc, time::SystemTime};

use martlet_control::{Arrival, Client, Declared, Standing, Usage};
use martlet_dataplane::Dataplane;
use martlet_identity::fingerprint;
use martlet_model::WorkloadName;
use martlet_standalone::{NodeFile, Outside};
use tokio::sync::watch;

use crate::{certificates::Certificates, handing::Handing, renewal::unix_seconds};

/// Between this agent and its controller.
pub struct Told {
    controller: Option<(Client, watch::Receiver<Option<Arc<Declared>>>)>,
    /// What was taken over last.
    declared: Option<Arc<Declared>>,
    is_connected: bool,
}

impl Told {
    pub fn new(client: Option<&Client>) -> Self {
        let controller = client.map(|client| (client.clone(), client.declared()));
        Self { controller, declared: None, is_connected: false }
    }

    /// Whether there is anything to go by.
    pub fn is_told(&self) -> bool {
        self.controller.as_ref().is_none_or(|(_, said)| said.borrow().is_some())
    }

    /// Waits until there is anything to go by: at once without a controller.
    pub async fn first(&mut self) {
        if self.controller.is_some() {
            self.changed().await;
        }
    }

    /// What was said last.
    pub fn declared(&self) -> Option<Arc<Declared>> {
        self.declared.clone()
    }

    /// Waits for something that was not said before; for ever without a controller.
    pub async fn changed(&mut self) -> Arc<Declared> {
        let Some((_, said)) = &mut self.controller else { return pending().await };
        loop {
            let latest = said.borrow_and_update().clone();
            let seen = self.declared.as_ref();
            match latest {
                Some(latest) if seen.is_none_or(|seen| !Arc::ptr_eq(seen, &latest)) => {
                    self.declared = Some(latest.clone());
                    return latest;
                }
                _ if said.changed().await.is_err() => return pending().await,
                _ => {}
            }
        }
    }

    /// The same, from what another agent of this node keeps; `None` if that is nothing new.
    pub fn overhear(&mut self, last: &mut Option<SystemTime>) -> Option<Arc<Declared>> {
        let (client, _) = self.controller.as_ref()?;
        let declared = Arc::new(client.kept_by_another(last)?);
        self.declared = Some(declared.clone());
        Some(declared)
    }

    /// The node file with everything that was said last.
    pub fn complete(&self, file: &NodeFile) -> NodeFile {
        let mut file = file.clone();
        if let Some(declared) = &self.declared {
            file.directory = declared.directory.clone();
            file.policies = declared.policies.clone();
            file.local = declared.local.clone();
            if let Some(failure) = declared.failure {
                file.settings.failure = failure;
            }
            // Beside what the node file says of this node itself, as that its host is outside.
            if let Outside::These(sources) = &mut file.outside {
                sources.extend(declared.outside.iter().cloned());
            }
        }
        file
    }

    /// What was said last is in effect, or is not for this reason.
    pub fn acknowledge(&self, error: Option<String>) {
        if let (Some((client, _)), Some(declared)) = (&self.controller, &self.declared) {
            client.acknowledge(declared.version, declared.trust.version, error);
        }
    }

    /// Whether the controller is back after it was not there.
    pub fn is_back(&mut self) -> bool {
        let Some((client, _)) = &self.controller else { return false };
        let before = self.is_connected;
        self.is_connected = client.link().borrow().connected.is_ok();
        self.is_connected && !before
    }

    /// Says how it stands with all workloads of this node.
    pub fn report_standings(&self, standings: impl FnOnce() -> BTreeMap<WorkloadName, Standing>) {
        if let Some((client, _)) = &self.controller {
            client.report_standings(standings());
        }
    }

    /// Says who has arrived lately.
    pub fn report_arrivals(&self, arrivals: impl FnOnce() -> BTreeMap<WorkloadName, Arrival>) {
        if let Some((client, _)) = &self.controller {
            client.report_arrivals(arrivals());
        }
    }

    /// Says what is in use.
    pub fn report_usage(
        &self,
        certificates: &Certificates,
        handing: &Handing,
        dataplane: &Dataplane,
    ) {
        let Some((client, _)) = &self.controller else { return };
        let (mut leaves, mut first, mut usage) = (BTreeMap::new(), None, Usage::default());
        let now = SystemTime::now();
        for svid in certificates.current().chain(handing.current()) {
            if let Some(issuer) = svid.chain().0.get(1) {
                *leaves.entry(fingerprint(issuer)).or_default() += 1;
            }
            usage.ages(&svid, now);
            first = first.into_iter().chain([svid.not_after()]).min();
        }
        let mut connections = BTreeMap::new();
        for ((_, root), count) in dataplane.roots_in_use() {
            *connections.entry(root.digest()).or_default() += count;
        }
        let oldest_expiry = first.map_or(0, unix_seconds);
        client.report_usage(Usage { leaves, connections, oldest_expiry, ..usage });
    }
}
