//! What is gathered about a connection while it lives, and said when it ends.

use std::{net::SocketAddr, time::Instant};

use martlet_model::{
    AccessRecord, Closed, ConnectionId, Party, Protection, Reporter, TlsFacts, Workload,
};

use crate::{
    Dataplane,
    relay::{Bytes, End, Side},
};

pub struct Draft {
    pub record: AccessRecord,
    pub bytes: Bytes,
    began: Instant,
}

impl Draft {
    pub fn new(id: ConnectionId, reporter: Reporter) -> Self {
        let record = AccessRecord {
            id,
            reporter,
            source: Party::default(),
            destination: Party::default(),
            origin: None,
            protection: Protection::None,
            tls: None,
            warm: false,
            bytes_sent: 0,
            bytes_received: 0,
            duration: std::time::Duration::ZERO,
            closed: Closed::Finished,
            policy: None,
        };
        Self { record, bytes: Bytes::default(), began: Instant::now() }
    }

    pub fn protected(&mut self, facts: &TlsFacts, warm: bool) {
        self.record.protection = Protection::MutualTls;
        self.record.tls = Some(facts.clone());
        self.record.warm = warm;
    }

    /// Takes the relay's word for the end.
    pub fn ended(&mut self, side: Side, end: &End) -> Closed {
        let (here, there) = match side {
            Side::Caller => (Closed::ResetByCaller, Closed::ResetByCallee),
            Side::Callee => (Closed::ResetByCallee, Closed::ResetByCaller),
        };
        match end {
            End::Finished => Closed::Finished,
            End::ResetHere => here,
            End::ResetThere => there,
            End::Refused { reason, policy } => {
                self.record.policy = (!policy.is_empty()).then(|| policy.clone());
                *reason
            }
            End::Broken(Some(error)) if martlet_identity::refused_by_peer(error) => {
                Closed::RefusedByPeer
            }
            End::Broken(_) => Closed::LaneBroken,
            End::Violation(violation) => {
                tracing::warn!(%violation, id = %self.record.id, "the peer broke the lane protocol");
                Closed::LaneViolation
            }
        }
    }

    /// The one record of a connection.
    pub fn close(mut self, dataplane: &Dataplane, closed: Closed) {
        let Bytes { sent, received } = self.bytes;
        (self.record.bytes_sent, self.record.bytes_received) = match self.record.reporter {
            Reporter::Source => (sent, received),
            Reporter::Destination => (received, sent),
        };
        if closed.is_refusal() {
            self.record.protection = Protection::None;
        }
        self.record.duration = self.began.elapsed();
        self.record.closed = closed;
        if dataplane.records.try_send(self.record).is_err() {
            tracing::debug!("an access record was dropped");
        }
    }
}

pub fn party(workload: &Workload, address: SocketAddr) -> Party {
    Party {
        address: Some(address),
        identity: Some(workload.identity.clone()),
        workload: Some(workload.name.clone()),
    }
}
