//! What is counted, and how it is rendered for Prometheus.
//!
//! Some metrics are counted as things happen; those that describe a state (hooks, certificates,
//! live connections) are taken from the agent's reports at each scrape. Labels are closed enums,
//! names of hooks and workloads, or identities of this node's workloads: never an address, never
//! a text that a peer chose. The page docs/metrics.md is written from this registry.

mod labels;
mod spans;

use std::{
    fmt,
    sync::{Mutex, atomic::AtomicU64},
};

use martlet_model::{
    AccessRecord, Closed, Protection, Reporter,
    coverage::CoverageTotals,
    report::{Certificates, RepairKind, Status},
};
use prometheus_client::{
    encoding::text,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};

use labels::{
    BuildLabels, ByCause, ByCloser, ByColumn, ByDirection, ByHook, ByLane, ByOutcome, ByRepair,
    ByReporter, BySide, ByTraffic, ByVerdict, ByWorkload, own_identity,
};
pub use labels::{Outcome, RecordLoss};
pub use spans::SpanTotals;
use spans::Spans;

/// Hook and verdict by which the kernel counts plaintext that a permissive workload lets in.
pub const PLAINTEXT_LET_IN: (&str, &str) = ("lookup", "passed_plaintext");

/// Hook and verdict by which the kernel counts plaintext probes of strict workloads.
pub const PROBE_LET_IN: (&str, &str) = ("lookup", "passed_probe");

/// Hook and verdict by which the kernel counts what workloads open in plaintext without an agent.
pub const FAILED_OPEN_OUTBOUND: (&str, &str) = ("connect", "passed_failed_open");

/// Hook and verdict by which the kernel counts what they accept then.
pub const FAILED_OPEN_INBOUND: (&str, &str) = ("lookup", "passed_failed_open");

/// Totals that the data plane counts by itself, taken over at each scrape.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    pub connections_opened: u64,
    /// Handshakes finished as the caller.
    pub handshakes_originated: u64,
    /// Handshakes finished as the called side.
    pub handshakes_terminated: u64,
    /// Handshakes that failed, on either side.
    pub handshakes_failed: u64,
    /// Records that found the queue to the writer full.
    pub records_dropped: u64,
    /// Calls of the Workload API.
    pub workload_api_answered: u64,
    pub workload_api_refused: u64,
    pub spans: SpanTotals,
    /// Counted by the kernel.
    pub coverage: CoverageTotals,
}

/// All metrics of the agent.
pub struct Metrics {
    registry: Registry,
    opened: Counter,
    closed: Family<ByCloser, Counter>,
    sent: Family<ByTraffic, Counter>,
    received: Family<ByTraffic, Counter>,
    durations: Family<ByReporter, Histogram, fn() -> Histogram>,
    plaintext: Family<ByDirection, Counter>,
    fails_open: Gauge,
    controller_lost: Gauge,
    clock_ahead: Gauge<f64, AtomicU64>,
    failed_open: Family<ByDirection, Counter>,
    handshakes: Family<BySide, Counter>,
    handshake_failures: Counter,
    lanes: Family<ByLane, Counter>,
    idle_lanes: Gauge,
    live: Gauge,
    lost: Family<ByCause, Counter>,
    spans: Spans,
    renewals: Family<ByOutcome, Counter>,
    workload_api: Family<ByOutcome, Counter>,
    expiry: Family<ByWorkload, Gauge>,
    reloads: Family<ByOutcome, Counter>,
    repairs: Family<ByRepair, Counter>,
    takeovers: Family<ByOutcome, Counter>,
    predecessor: Gauge,
    ready: Gauge,
    workloads: Gauge,
    attached: Family<ByHook, Gauge>,
    verdicts: Family<ByVerdict, Counter>,
    coverage_bytes: Family<ByColumn, Counter>,
    coverage_connections: Family<ByColumn, Counter>,
    coverage_packets: Family<ByColumn, Counter>,
    /// Held while state is taken over and rendered, so that two scrapes do not mix.
    scrape: Mutex<()>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(env!("CARGO_PKG_VERSION"))
    }
}

impl Metrics {
    /// The metrics of an agent of this version.
    pub fn new(version: &str) -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("martlet"),
            opened: Counter::default(),
            closed: Family::default(),
            sent: Family::default(),
            received: Family::default(),
            durations: Family::new_with_constructor(connection_buckets),
            plaintext: Family::default(),
            fails_open: Gauge::default(),
            controller_lost: Gauge::default(),
            clock_ahead: Gauge::default(),
            failed_open: Family::default(),
            handshakes: Family::default(),
            handshake_failures: Counter::default(),
            lanes: Family::default(),
            idle_lanes: Gauge::default(),
            live: Gauge::default(),
            lost: Family::default(),
            spans: Spans::default(),
            renewals: Family::default(),
            workload_api: Family::default(),
            expiry: Family::default(),
            reloads: Family::default(),
            repairs: Family::default(),
            takeovers: Family::default(),
            predecessor: Gauge::default(),
            ready: Gauge::default(),
            workloads: Gauge::default(),
            attached: Family::default(),
            verdicts: Family::default(),
            coverage_bytes: Family::default(),
            coverage_connections: Family::default(),
            coverage_packets: Family::default(),
            scrape: Mutex::new(()),
        };
        metrics.register(version);
        metrics.start_at_zero();
        metrics
    }

    fn register(&mut self, version: &str) {
        let r = &mut self.registry;
        let build = Info::new(BuildLabels { version: version.to_owned() });
        r.register("build", "The version of the agent", build);
        r.register("ready", "Whether the agent is ready: 1 or 0", self.ready.clone());
        r.register("workloads", "Workloads of this node", self.workloads.clone());
        r.register(
            "connections_opened",
            "Connections that the agent took over, and connections that arrived over lanes",
            self.opened.clone(),
        );
        r.register("connections_closed", "Connections that ended, by reason", self.closed.clone());
        r.register("live_connections", "Connections open now", self.live.clone());
        r.register_with_unit(
            "connection_duration",
            "How long connections lasted",
            Unit::Seconds,
            self.durations.clone(),
        );
        r.register_with_unit(
            "sent",
            "Application bytes from caller to callee",
            Unit::Bytes,
            self.sent.clone(),
        );
        r.register_with_unit(
            "received",
            "Application bytes from callee to caller",
            Unit::Bytes,
            self.received.clone(),
        );
        r.register(
            "plaintext_connections",
            "Connections without mTLS: inbound ones that a permissive workload let in, probes that a strict one let in, outbound ones to endpoints outside the mesh",
            self.plaintext.clone(),
        );
        r.register(
            "fails_open",
            "Whether permissive workloads of this node connect in plaintext while no agent lives (`failure: open`): 1 or 0",
            self.fails_open.clone(),
        );
        r.register(
            "controller_lost_timestamp_seconds",
            "Since when the agent has been without its controller, in Unix time; 0 while it is connected, and where it has an authority of its own",
            self.controller_lost.clone(),
        );
        r.register_with_unit(
            "clock_ahead",
            "By how much the node's clock is ahead of its controller's, as measured last; negative if it is behind, 0 before it was measured and without a controller",
            Unit::Seconds,
            self.clock_ahead.clone(),
        );
        r.register(
            "failed_open_connections",
            "Connections between permissive workloads that went in plaintext while no agent lived, opened (outbound) or accepted (inbound) by one of this node",
            self.failed_open.clone(),
        );
        r.register(
            "handshakes",
            "mTLS handshakes finished, as the caller (source) or the called side (destination)",
            self.handshakes.clone(),
        );
        r.register(
            "handshake_failures",
            "mTLS handshakes that failed, on either side",
            self.handshake_failures.clone(),
        );
        r.register(
            "lanes_taken",
            "Connections that took a lane: a warm one, or a cold one that had to be opened",
            self.lanes.clone(),
        );
        r.register(
            "idle_lanes",
            "Lanes kept open for the next connection",
            self.idle_lanes.clone(),
        );
        r.register("records_dropped", "Access records that were lost, by cause", self.lost.clone());
        self.spans.register(r);
        r.register_with_unit(
            "certificate_expiry_timestamp",
            "When the certificate of a workload expires, in Unix time",
            Unit::Seconds,
            self.expiry.clone(),
        );
        r.register(
            "workload_api_calls",
            "Calls of the SPIFFE Workload API: those of somebody else than the socket's workload, or without the header, are failures",
            self.workload_api.clone(),
        );
        r.register(
            "certificate_renewals",
            "Attempts to renew a certificate",
            self.renewals.clone(),
        );
        r.register(
            "configuration_reloads",
            "Attempts to take over a changed node file",
            self.reloads.clone(),
        );
        r.register(
            "repairs",
            "Things in the kernel that somebody else had changed, and that were put back or could not be",
            self.repairs.clone(),
        );
        r.register(
            "takeovers",
            "Takeovers between a living agent and its successor: those by which this agent began, and those of others that this one has taken back, as failures",
            self.takeovers.clone(),
        );
        r.register(
            "predecessor_connections",
            "Connections that the agent before this one carries to their end; 0 when it has ended",
            self.predecessor.clone(),
        );
        r.register(
            "hook_attached",
            "Whether an eBPF program is attached: 1 or 0",
            self.attached.clone(),
        );
        r.register(
            "hook_verdicts",
            "How often an eBPF program reached a verdict since it was first attached, and the agent since it started",
            self.verdicts.clone(),
        );
        r.register_with_unit(
            "coverage",
            "Payload that the kernel has seen at the pods of this node, since its maps were made",
            Unit::Bytes,
            self.coverage_bytes.clone(),
        );
        r.register(
            "coverage_connections",
            "TCP connections at the pods of this node, since the kernel's maps were made",
            self.coverage_connections.clone(),
        );
        r.register(
            "coverage_packets",
            "Packets of UDP and other protocols at the pods of this node, since the kernel's maps were made",
            self.coverage_packets.clone(),
        );
    }

    /// Counters that alerts watch exist from the start: a rate needs a zero to begin from.
    fn start_at_zero(&self) {
        self.plaintext.get_or_create(&ByDirection::INBOUND).inc_by(0);
        self.plaintext.get_or_create(&ByDirection::OUTBOUND).inc_by(0);
        self.plaintext.get_or_create(&ByDirection::PROBE).inc_by(0);
        self.failed_open.get_or_create(&ByDirection::INBOUND).inc_by(0);
        self.failed_open.get_or_create(&ByDirection::OUTBOUND).inc_by(0);
        for warm in [true, false] {
            self.lanes.get_or_create(&ByLane::warm(warm)).inc_by(0);
        }
        for outcome in [Outcome::Success, Outcome::Failure] {
            self.renewals.get_or_create(&outcome.into()).inc_by(0);
            self.reloads.get_or_create(&outcome.into()).inc_by(0);
            self.takeovers.get_or_create(&outcome.into()).inc_by(0);
            self.workload_api.get_or_create(&outcome.into()).inc_by(0);
            for kind in RepairKind::ALL {
                self.repairs.get_or_create(&ByRepair::new(*kind, outcome)).inc_by(0);
            }
        }
        for cause in [RecordLoss::Queue, RecordLoss::OutputBusy, RecordLoss::OutputFailed] {
            self.lost.get_or_create(&cause.into()).inc_by(0);
        }
    }

    /// A connection ended.
    pub fn connection_closed(&self, record: &AccessRecord) {
        let identity = own_identity(record);
        let protection = record.protection.as_str();
        let reporter = record.reporter.as_str();
        let closed = record.closed.as_str();
        let closer = ByCloser { reporter, identity: identity.clone(), protection, closed };
        self.closed.get_or_create(&closer).inc();
        if record.closed == Closed::PlaintextUnwanted {
            // It never was the agent's: what it carried is not known.
            return;
        }
        let traffic = ByTraffic { reporter, identity, protection };
        self.sent.get_or_create(&traffic).inc_by(record.bytes_sent);
        self.received.get_or_create(&traffic).inc_by(record.bytes_received);
        let by_reporter = ByReporter { reporter };
        self.durations.get_or_create(&by_reporter).observe(record.duration.as_secs_f64());
        match (record.reporter, record.protection) {
            (Reporter::Source, Protection::MutualTls) => {
                self.lanes.get_or_create(&ByLane::warm(record.warm)).inc();
            }
            (_, Protection::Plaintext) => {
                self.plaintext.get_or_create(&ByDirection::OUTBOUND).inc();
            }
            _ => {}
        }
    }

    /// One attempt to renew a workload's certificate ended.
    pub fn certificate_renewal(&self, outcome: Outcome) {
        self.renewals.get_or_create(&outcome.into()).inc();
    }

    /// One attempt to take over a changed node file ended.
    pub fn configuration_reload(&self, outcome: Outcome) {
        self.reloads.get_or_create(&outcome.into()).inc();
    }

    /// Something that somebody else had changed in the kernel was put back, or could not be.
    pub fn repair(&self, kind: RepairKind, outcome: Outcome) {
        self.repairs.get_or_create(&ByRepair::new(kind, outcome)).inc();
    }

    /// This agent has taken over, or another one has not.
    pub fn takeover(&self, outcome: Outcome) {
        self.takeovers.get_or_create(&outcome.into()).inc();
    }

    /// An access record was lost.
    pub fn record_dropped(&self, cause: RecordLoss) {
        self.lost.get_or_create(&cause.into()).inc();
    }

    /// Takes over the state, and renders everything in the OpenMetrics text format.
    pub fn scrape(
        &self,
        status: &Status,
        certificates: &Certificates,
        totals: &Totals,
    ) -> Result<String, fmt::Error> {
        // A poisoned lock protects nothing that could be half-written.
        let _one_at_a_time = self.scrape.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.take_status(status);
        self.take_certificates(certificates);
        self.take_totals(totals);
        self.take_coverage(&totals.coverage);
        let mut page = String::new();
        text::encode(&mut page, &self.registry)?;
        Ok(page)
    }

    fn take_status(&self, status: &Status) {
        self.ready.set(status.ready.into());
        self.fails_open.set(status.fails_open.into());
        let carried = status.predecessor.unwrap_or(0);
        self.predecessor.set(i64::try_from(carried).unwrap_or(i64::MAX));
        let lost = status.controller.as_ref().filter(|controller| controller.away.is_some());
        let lost = lost.map_or(0, |controller| i64::try_from(controller.since).unwrap_or(i64::MAX));
        self.controller_lost.set(lost);
        let clock = status.controller.as_ref().and_then(|controller| controller.clock);
        self.clock_ahead.set(clock.map_or(0.0, |clock| clock.ahead_ms as f64 / 1e3));
        self.workloads.set(gauge(status.workloads));
        self.live.set(gauge(status.connections));
        self.idle_lanes.set(gauge(status.idle_lanes));
        self.attached.clear();
        for hook in &status.hooks {
            let labels = ByHook { hook: hook.name.clone() };
            self.attached.get_or_create(&labels).set(hook.attached.into());
        }
        for counter in &status.counters {
            let labels = ByVerdict { hook: counter.hook.clone(), verdict: counter.verdict.clone() };
            raise_to(&self.verdicts.get_or_create(&labels), counter.count);
            let (family, direction) = match (counter.hook.as_str(), counter.verdict.as_str()) {
                PLAINTEXT_LET_IN => (&self.plaintext, ByDirection::INBOUND),
                PROBE_LET_IN => (&self.plaintext, ByDirection::PROBE),
                FAILED_OPEN_OUTBOUND => (&self.failed_open, ByDirection::OUTBOUND),
                FAILED_OPEN_INBOUND => (&self.failed_open, ByDirection::INBOUND),
                _ => continue,
            };
            raise_to(&family.get_or_create(&direction), counter.count);
        }
    }

    fn take_totals(&self, totals: &Totals) {
        raise_to(&self.opened, totals.connections_opened);
        let side = |reporter: Reporter| BySide { side: reporter.as_str() };
        for (side, total) in [
            (side(Reporter::Source), totals.handshakes_originated),
            (side(Reporter::Destination), totals.handshakes_terminated),
        ] {
            raise_to(&self.handshakes.get_or_create(&side), total);
        }
        raise_to(&self.handshake_failures, totals.handshakes_failed);
        raise_to(&self.lost.get_or_create(&RecordLoss::Queue.into()), totals.records_dropped);
        self.spans.take(&totals.spans);
        for (outcome, total) in [
            (Outcome::Success, totals.workload_api_answered),
            (Outcome::Failure, totals.workload_api_refused),
        ] {
            raise_to(&self.workload_api.get_or_create(&outcome.into()), total);
        }
    }

    fn take_coverage(&self, coverage: &CoverageTotals) {
        for (column, stream) in [
            ("mtls", coverage.mtls),
            ("plaintext", coverage.plaintext),
            ("refused", coverage.refused),
            ("unseen", coverage.unseen),
        ] {
            let labels = ByColumn { column };
            raise_to(&self.coverage_bytes.get_or_create(&labels), stream.bytes);
            raise_to(&self.coverage_connections.get_or_create(&labels), stream.connections);
        }
        for (column, datagrams) in
            [("other", coverage.other), ("other_refused", coverage.other_refused)]
        {
            let labels = ByColumn { column };
            raise_to(&self.coverage_bytes.get_or_create(&labels), datagrams.bytes);
            raise_to(&self.coverage_packets.get_or_create(&labels), datagrams.packets);
        }
    }

    fn take_certificates(&self, certificates: &Certificates) {
        self.expiry.clear();
        for leaf in &certificates.leaves {
            let Some(certificate) = leaf.chain.first() else { continue };
            let labels = ByWorkload { workload: leaf.workload.to_string() };
            let expiry = i64::try_from(certificate.not_after).unwrap_or(i64::MAX);
            self.expiry.get_or_create(&labels).set(expiry);
        }
    }
}

/// Takes over a total that is counted elsewhere. A counter never goes back, even if reports race.
fn raise_to(counter: &Counter, total: u64) {
    counter.inner().fetch_max(total, std::sync::atomic::Ordering::Relaxed);
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// 1 ms to about 4.5 hours, by factors of four: requests and long-lived connections alike.
fn connection_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 4.0, 13))
}

#[cfg(test)]
mod page;
#[cfg(test)]
mod tests;
