//! Spans of connections, where the node file names a collector.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use martlet_standalone::{Joins, NodeFile, Source};
use martlet_telemetry::SpanTotals;
use martlet_traces::{Counts, Exporter, Settings, Spans, open};
use tracing::info;

/// `None` without a collector: then there is no task, no queue and no connection.
pub fn traces(file: &NodeFile) -> Result<Option<(Spans, Exporter)>> {
    let Some(traces) = &file.settings.traces else { return Ok(None) };
    let joins = match &file.source {
        Source::Controller(controller) => Some(&controller.joins),
        Source::Authority(_) => None,
    };
    let settings = Settings {
        collector: traces.collector.clone(),
        authorities: traces.authorities.clone(),
        ratio: traces.ratio,
        node: file.settings.name.clone(),
        are_pods: matches!(joins, Some(Joins::ServiceAccount { .. })),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let opened = open(settings).context("`node.traces`")?;
    info!(collector = %traces.collector, "connections are traced");
    Ok(Some(opened))
}

pub fn totals(counts: &Counts) -> SpanTotals {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    SpanTotals {
        exported: read(&counts.exported),
        overflowed: read(&counts.overflowed),
        undelivered: read(&counts.undelivered),
        refused: read(&counts.refused),
    }
}
