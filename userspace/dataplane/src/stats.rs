//! What the data plane counts. Read by whoever makes metrics of it.

use std::sync::atomic::{AtomicU64, Ordering};

use martlet_model::{AccessRecord, Closed, Reporter};

use crate::bound::Bound;

/// Counters only go up; what is open or idle now is asked of the data plane itself.
#[derive(Debug)]
pub struct Stats {
    /// Connections taken over from applications, and connections that arrived over lanes.
    pub opened: AtomicU64,
    /// Connections of ours that went over a lane made for them.
    pub lanes_cold: AtomicU64,
    /// Connections of ours that went over a lane that had carried others.
    pub lanes_warm: AtomicU64,
    /// Handshakes finished as the caller.
    pub handshakes_originated: AtomicU64,
    /// Handshakes finished as the called side.
    pub handshakes_terminated: AtomicU64,
    /// Handshakes that failed, on either side.
    pub handshakes_failed: AtomicU64,
    /// Application bytes of ended connections, from caller to callee.
    pub bytes_sent: AtomicU64,
    /// Application bytes of ended connections, from callee to caller.
    pub bytes_received: AtomicU64,
    /// Records that nobody took in time.
    pub records_dropped: AtomicU64,
    /// Connections refused for a workload's bounds, in the order of [`Bound::ALL`].
    bounds: [AtomicU64; Bound::ALL.len()],
    /// By reporter, then by the reason's code.
    closed: [[AtomicU64; CODES]; 2],
}

const CODES: usize = 256;

impl Default for Stats {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            opened: zero(),
            lanes_cold: zero(),
            lanes_warm: zero(),
            handshakes_originated: zero(),
            handshakes_terminated: zero(),
            handshakes_failed: zero(),
            bytes_sent: zero(),
            bytes_received: zero(),
            records_dropped: zero(),
            bounds: std::array::from_fn(|_| zero()),
            closed: std::array::from_fn(|_| std::array::from_fn(|_| zero())),
        }
    }
}

impl Stats {
    /// How many connections ended for this reason.
    pub fn ended(&self, reporter: Reporter, reason: Closed) -> u64 {
        self.closed[side(reporter)][usize::from(reason.code())].load(Ordering::Relaxed)
    }

    /// How many connections each bound has refused.
    pub fn bounds(&self) -> impl Iterator<Item = (Bound, u64)> {
        let read = |(bound, count): (Bound, &AtomicU64)| (bound, count.load(Ordering::Relaxed));
        Bound::ALL.into_iter().zip(&self.bounds).map(read)
    }

    pub(crate) fn bound(&self, bound: Bound) {
        self.bounds[bound as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn closed(&self, record: &AccessRecord) {
        let count = &self.closed[side(record.reporter)][usize::from(record.closed.code())];
        count.fetch_add(1, Ordering::Relaxed);
        self.bytes_sent.fetch_add(record.bytes_sent, Ordering::Relaxed);
        self.bytes_received.fetch_add(record.bytes_received, Ordering::Relaxed);
    }
}

fn side(reporter: Reporter) -> usize {
    match reporter {
        Reporter::Source => 0,
        Reporter::Destination => 1,
    }
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
