//! What the load generator and the orchestrator share: the report between them, and all limits.

pub mod limits;
mod report;

pub use report::{Latency, Report};
