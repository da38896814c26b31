//! Traces: a span for each connection, made of its record, and sent to a collector by OTLP over gRPC.
//!
//! ```text
//! RecordWriter ─ Spans::offer ─ queue ─▶ Exporter::run ─ batches ─▶ the collector
//! ```
//!
//! Nothing here runs unless the node file names a collector. Whoever offers a record never waits: what
//! does not fit, or is not taken in time, is lost and counted.

#![forbid(unsafe_code)]

mod exporter;
mod limits;
mod link;
mod span;

pub use exporter::{Counts, Exporter, Settings, Spans, open};
pub use link::{AuthoritiesError, Failure};

/// What is made from `proto/`, with OpenTelemetry's names.
#[allow(clippy::enum_variant_names)]
mod message {
    tonic::include_proto!("opentelemetry.proto.collector.trace.v1");
}
