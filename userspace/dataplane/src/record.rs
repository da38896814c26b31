//! What is gathered about a connection while it lives, and said when it ends.

use std::{
    net::SocketAddr,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use martlet_model::{
    AccessRecord, Closed, ConnectionId, Party, Protection, Reporter, TlsFacts, Workload,
};
use tokio::sync::mpsc;

use crate::{live::Live, stats::Stats};

/// Where records go. It is bounded; what does not fit is dropped and counted.
pub type RecordSink = mpsc::Sender<AccessRecord>;

/// A record in the making.
pub struct Draft {
    pub record: AccessRecord,
    pub began: Instant,
}

impl Draft {
    pub fn new(reporter: Reporter) -> Self {
        let record = AccessRecord {
            id: ConnectionId(rand::random()),
            reporter,
            source: Party::default(),
            destination: Party::default(),
            origin: None,
            protection: Protection::None,
            tls: None,
            warm: false,
            bytes_sent: 0,
            bytes_received: 0,
            duration: Duration::ZERO,
            closed: Closed::Finished,
            policy: None,
        };
        Self { record, began: Instant::now() }
    }

    pub fn over_lane(&mut self, facts: &TlsFacts, warm: bool) {
        self.record.protection = Protection::MutualTls;
        self.record.tls = Some(facts.clone());
        self.record.warm = warm;
    }

    pub fn count(&mut self, live: &Live) {
        self.record.bytes_sent = live.sent.load(Ordering::Relaxed);
        self.record.bytes_received = live.received.load(Ordering::Relaxed);
    }

    /// The one record of a connection. Never waits.
    pub fn close(mut self, closed: Closed, sink: &RecordSink, stats: &Stats) {
        let record = &mut self.record;
        if record.bytes_sent == 0 && record.bytes_received == 0 && closed.is_refusal() {
            record.protection = Protection::None;
        }
        record.duration = self.began.elapsed();
        record.closed = closed;
        stats.closed(record);
        if sink.try_send(self.record).is_err() {
            stats.records_dropped.fetch_add(1, Ordering::Relaxed);
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
