//! What became of spans, where a collector is told of connections.

use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use super::{labels::ByCause, raise_to};

/// Totals that the exporter counts by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpanTotals {
    pub exported: u64,
    pub overflowed: u64,
    pub undelivered: u64,
    pub refused: u64,
}

#[derive(Default)]
pub(super) struct Spans {
    exported: Counter,
    dropped: Family<ByCause, Counter>,
}

impl Spans {
    /// They are there from the start, and stay 0 without a collector.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("spans_exported", "Spans that the collector took", self.exported.clone());
        registry.register("spans_dropped", "Spans that were lost, by cause", self.dropped.clone());
        self.take(&SpanTotals::default());
    }

    pub fn take(&self, totals: &SpanTotals) {
        raise_to(&self.exported, totals.exported);
        for (cause, total) in [
            ("queue", totals.overflowed),
            ("undelivered", totals.undelivered),
            ("refused", totals.refused),
        ] {
            raise_to(&self.dropped.get_or_create(&ByCause { cause }), total);
        }
    }
}
