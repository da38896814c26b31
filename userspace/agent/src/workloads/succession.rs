//! What becomes of the workloads when one agent takes over from another: how they are handed over, and
//! what either of the two does until the other is gone.

use std::{convert::Infallible, sync::Arc, time::SystemTime};

use martlet_dataplane::View;
use martlet_kernel::{Estate, KernelError};
use tokio::time::{interval, sleep};
use tracing::{info, warn};

use super::{Workloads, chain};
use crate::{
    handing::Sockets,
    limits::{LOOK_INTERVAL, TAKEOVER_LOOK, TAKEOVER_SETTLE},
};

impl Workloads {
    /// Of a successor: until all that its predecessor serves is enrolled here too, or that has taken too
    /// long.
    pub async fn settle(&mut self) {
        let mut ticks = interval(TAKEOVER_LOOK);
        let deadline = sleep(TAKEOVER_SETTLE);
        tokio::pin!(deadline);
        while self.is_unsettled() {
            tokio::select! {
                () = &mut deadline => {
                    return warn!(addresses = ?self.node.unclaimed(), "taken over without workloads that are not enrolled here yet");
                }
                declared = self.told.changed() => self.hear(&declared),
                Some(answers) = self.certificates.answered() => {
                    if self.certificates.take(answers, SystemTime::now()) {
                        self.enroll_waiting();
                    }
                }
                _ = ticks.tick() => self.enroll_waiting(),
            }
        }
    }

    fn is_unsettled(&self) -> bool {
        self.node.unclaimed().iter().any(|address| self.declared.contains(address))
    }

    /// Of a predecessor: what a successor needs of it.
    pub fn estate(&self) -> Result<Estate, KernelError> {
        self.node.estate(self.enrolled.values().map(|enrolled| &enrolled.pod))
    }

    /// The successor has not come to its end: what it has changed is as if somebody else had changed it,
    /// and what it has enrolled is not.
    pub fn take_back(&mut self) {
        self.leftovers = true;
        self.members_due = true;
        let findings = self.put_back();
        let problems: Vec<_> = findings.iter().filter_map(|one| one.problem.as_ref()).collect();
        match problems.first() {
            None => info!(things = findings.len(), "what the other agent had changed was put back"),
            Some(problem) => {
                warn!(
                    error = chain(*problem),
                    "not all that the other agent had changed was put back"
                );
            }
        }
    }

    /// The successor has the place: nothing more is accepted here, and nothing in the kernel is this
    /// agent's any more but its connections.
    pub async fn resign(&mut self) {
        self.arrivals.stop();
        for enrolled in self.enrolled.values() {
            enrolled.stop.cancel();
        }
        self.accepting.close();
        self.accepting.wait().await;
        self.node.resign();
    }

    /// What is decided about the connections that this agent still carries is heeded; it comes from the
    /// node file, and from what the successor keeps of what it is told.
    pub async fn heed(mut self) -> Infallible {
        self.handing.end(Sockets::Left).await;
        let (mut ticks, mut last) = (interval(LOOK_INTERVAL), None);
        loop {
            tokio::select! {
                Some(loaded) = self.files.recv() => {
                    match self.issuer.refresh() {
                        Ok(true) => self.certificates.set_trust(),
                        Ok(false) => {}
                        Err(error) => warn!(error = format!("{error:#}"), "the authority's files were not taken"),
                    }
                    self.file = loaded;
                    self.see();
                }
                _ = ticks.tick() => match self.told.overhear(&mut last) {
                    None => {}
                    Some(declared) => {
                        match self.issuer.take(&declared.trust) {
                            Ok(true) => self.certificates.set_trust(),
                            Ok(false) => {}
                            Err(error) => warn!(error = format!("{error:#}"), "whom to trust was not taken over"),
                        }
                        self.see();
                    }
                },
            }
        }
    }

    fn see(&self) {
        let file = self.told.complete(&self.file.file);
        self.view.store(Arc::new(View { directory: file.directory, policies: file.policies }));
    }
}
