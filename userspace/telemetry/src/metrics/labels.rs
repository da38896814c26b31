//! The label sets of the metrics. Every value is a closed enum's, a name of ours, or an identity
//! of one of this node's workloads.

use martlet_model::{AccessRecord, Reporter, report::RepairKind};
use prometheus_client::encoding::EncodeLabelSet;

/// How something ended that can only succeed or fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Success,
    Failure,
}

/// Where a record was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordLoss {
    /// The queue from the connections to the writer was full.
    Queue,
    /// The output did not keep up.
    OutputBusy,
    /// Writing to the output failed.
    OutputFailed,
}

macro_rules! label_sets {
    ($($name:ident { $($field:ident: $type:ty),* })*) => {
        $(#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
        pub(super) struct $name { $(pub(super) $field: $type,)* })*
    };
}

label_sets! {
    BuildLabels { version: String }
    ByReporter { reporter: &'static str }
    ByCloser {
        reporter: &'static str,
        identity: String,
        protection: &'static str,
        closed: &'static str
    }
    ByTraffic { reporter: &'static str, identity: String, protection: &'static str }
    BySide { side: &'static str }
    ByDirection { direction: &'static str }
    ByLane { lane: &'static str }
    ByOutcome { result: &'static str }
    ByCause { cause: &'static str }
    ByColumn { column: &'static str }
    ByHook { hook: String }
    ByVerdict { hook: String, verdict: String }
    ByWorkload { workload: String }
    ByRepair { kind: &'static str, result: &'static str }
}

/// The identity at the reporting end: ours, so as many values as this node has identities.
pub(super) fn own_identity(record: &AccessRecord) -> String {
    let party = match record.reporter {
        Reporter::Source => &record.source,
        Reporter::Destination => &record.destination,
    };
    party.identity.as_ref().map(|identity| identity.as_str().to_owned()).unwrap_or_default()
}

impl Outcome {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Outcome::Success => "success",
            Outcome::Failure => "failure",
        }
    }
}

impl ByLane {
    pub(super) fn warm(warm: bool) -> Self {
        Self { lane: if warm { "warm" } else { "cold" } }
    }
}

impl ByDirection {
    pub(super) const INBOUND: Self = Self { direction: "inbound" };
    pub(super) const PROBE: Self = Self { direction: "probe" };
    pub(super) const OUTBOUND: Self = Self { direction: "outbound" };
}

impl ByRepair {
    pub(super) fn new(kind: RepairKind, outcome: Outcome) -> Self {
        Self { kind: kind.as_str(), result: outcome.as_str() }
    }
}

impl From<Outcome> for ByOutcome {
    fn from(outcome: Outcome) -> Self {
        Self { result: outcome.as_str() }
    }
}

impl From<RecordLoss> for ByCause {
    fn from(loss: RecordLoss) -> Self {
        Self {
            cause: match loss {
                RecordLoss::Queue => "queue",
                RecordLoss::OutputBusy => "output_busy",
                RecordLoss::OutputFailed => "output_failed",
            },
        }
    }
}
