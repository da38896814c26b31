//! What was encrypted between workloads, and with everybody else, and what was not.

use serde::{Deserialize, Serialize};

use crate::{Label, WorkloadName};

/// `GET /coverage`: since the kernel's maps were made, across all agents of this layout of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    pub node: Label,
    /// Ordered pairs with an end on this node; of those without traffic there is none.
    pub pairs: Vec<PairReport>,
}

/// Bytes that one party sent to another, and connections that it opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairReport {
    pub from: Counterpart,
    pub to: Counterpart,
    /// TCP through the agents.
    pub mtls: Stream,
    /// TCP in plaintext that was let through.
    pub plaintext: Stream,
    /// TCP that was refused.
    pub refused: Stream,
    /// TCP payload between enrolled workloads that got around steering, and was refused by the
    /// guard.
    pub unseen: Stream,
    /// UDP and other protocols that were let through.
    pub other: Datagrams,
    /// UDP and other protocols that were refused.
    pub other_refused: Datagrams,
}

/// One side of a pair.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Counterpart {
    Workload(WorkloadName),
    /// A workload whose name this agent has never known: it was gone before the agent started.
    FormerWorkload,
    /// A service's virtual address.
    Service,
    /// The node itself.
    Node,
    /// RFC 1918, RFC 4193 or RFC 6598.
    Private,
    LinkLocal,
    Multicast,
    Public,
    /// No address, a forged one, or a pod about which nothing is decided yet.
    Unknown,
    /// Pairs that found no room in the kernel's map.
    Others,
    /// Pairs of workloads that are gone and had to make room.
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stream {
    /// Payload of TCP.
    pub bytes: u64,
    /// Of mTLS: those between the agents, which carry many of the applications'.
    pub connections: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Datagrams {
    /// Payload of UDP; of other protocols, of IP.
    pub bytes: u64,
    pub packets: u64,
}

/// The sums of all pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CoverageTotals {
    pub mtls: Stream,
    pub plaintext: Stream,
    pub refused: Stream,
    pub unseen: Stream,
    pub other: Datagrams,
    pub other_refused: Datagrams,
}

impl Counterpart {
    pub fn is_workload(&self) -> bool {
        matches!(self, Counterpart::Workload(_) | Counterpart::FormerWorkload)
    }
}

impl PairReport {
    /// Whether a strict workload would refuse some of what was let through: plaintext that
    /// somebody else opened to it, or that is exchanged with a workload.
    pub fn would_be_refused(&self) -> bool {
        self.to.is_workload()
            && (self.plaintext.connections > 0
                || self.from.is_workload() && self.plaintext.bytes > 0)
    }
}

impl CoverageTotals {
    pub fn of<'a>(pairs: impl IntoIterator<Item = &'a PairReport>) -> Self {
        let mut totals = Self::default();
        for pair in pairs {
            totals.mtls.add(pair.mtls);
            totals.plaintext.add(pair.plaintext);
            totals.refused.add(pair.refused);
            totals.unseen.add(pair.unseen);
            totals.other.add(pair.other);
            totals.other_refused.add(pair.other_refused);
        }
        totals
    }

    /// Bytes that were let through.
    pub fn passed(&self) -> u64 {
        self.mtls.bytes.saturating_add(self.plaintext.bytes).saturating_add(self.other.bytes)
    }
}

impl Stream {
    fn add(&mut self, more: Stream) {
        self.bytes = self.bytes.saturating_add(more.bytes);
        self.connections = self.connections.saturating_add(more.connections);
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Datagrams {
    fn add(&mut self, more: Datagrams) {
        self.bytes = self.bytes.saturating_add(more.bytes);
        self.packets = self.packets.saturating_add(more.packets);
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(from: Counterpart, to: Counterpart, bytes: u64, connections: u64) -> PairReport {
        PairReport {
            from,
            to,
            mtls: Stream::default(),
            plaintext: Stream { bytes, connections },
            refused: Stream::default(),
            unseen: Stream::default(),
            other: Datagrams::default(),
            other_refused: Datagrams::default(),
        }
    }

    #[test]
    fn strict_would_refuse_what_is_opened_to_a_workload_and_no_answers() {
        let web = || {
            Counterpart::Workload(WorkloadName {
                namespace: "shop".parse().unwrap(),
                name: "web-0".parse().unwrap(),
            })
        };
        assert!(pair(Counterpart::Private, web(), 100, 1).would_be_refused());
        assert!(!pair(Counterpart::Private, web(), 100, 0).would_be_refused(), "an answer");
        assert!(!pair(web(), Counterpart::Private, 100, 1).would_be_refused(), "its own business");
        let former = Counterpart::FormerWorkload;
        assert!(pair(former, web(), 100, 0).would_be_refused(), "older than both enrolments");
        assert!(!pair(web(), web(), 0, 0).would_be_refused());
    }
}
