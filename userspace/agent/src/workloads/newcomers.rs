//! Pods of which the plugin of the container network has told, before anything of them runs.

use std::net::IpAddr;

use martlet_kernel::Membership;
use martlet_model::NetnsSource;
use tracing::warn;

use super::{Workloads, chain};
use crate::coverage::party;

impl Workloads {
    /// Somebody has come or gone.
    pub(super) fn welcome(&mut self) {
        self.told.report_arrivals(|| self.arrivals.told());
        self.enroll_waiting();
        self.settle_arrivals();
        self.members_due |= self.undecided().next().is_some();
        if let Err(error) = self.tell_members() {
            warn!(error = chain(&error), "the kernel does not know all of the mesh yet");
        }
        self.report();
    }

    /// Members of the mesh until it is known that they are none: by these addresses nobody here speaks
    /// to them in plaintext.
    pub(super) fn undecided(&self) -> impl Iterator<Item = (IpAddr, Membership)> + use<> {
        let undecided = self.arrivals.undecided().into_iter();
        undecided.map(|(ip, name)| (ip, Membership::workload(party(&name))))
    }

    /// Whoever is outside by decision, or enrolled where it is now, need not wait any more.
    pub(super) fn settle_arrivals(&mut self) {
        let is_any = self.arrivals.settle(|uid, netns, addresses| {
            self.outside.has_pod(uid)
                || self.enrolled.values().any(|enrolled| {
                    let wanted = &enrolled.wanted;
                    matches!(&wanted.netns, NetnsSource::Pod(of) if **of == *uid)
                        && enrolled.netns.cookie() == netns.cookie()
                        && addresses.iter().all(|ip| wanted.workload.addresses.contains(ip))
                })
        });
        if is_any {
            // Those that turned out to be outside are no members.
            self.members_due = true;
        }
    }
}
