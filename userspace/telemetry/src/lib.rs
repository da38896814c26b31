//! What the agent tells people: logs, access records, metrics, readiness, and the admin endpoints.
//!
//! Read in this order: how log lines are written ([`logs`]), what is counted ([`Metrics`]), what
//! becomes of the record of each connection ([`RecordWriter`], [`Recent`]), and where all of it
//! can be asked for ([`Admin`]).

#![forbid(unsafe_code)]

mod admin;
#[cfg(test)]
mod fixtures;
mod limits;
pub mod logs;
mod metrics;
mod records;

pub use admin::{
    Admin, AdminError, AdminSocket, FileStays, Reports, bind_socket, bind_tcp, inherit_socket,
    replace_socket, serve_pages_tcp, serve_pages_unix,
};
pub use logs::Format;
pub use metrics::{
    FAILED_OPEN_INBOUND, FAILED_OPEN_OUTBOUND, Metrics, Outcome, PLAINTEXT_LET_IN, RecordLoss,
    SpanTotals, Totals,
};
pub use records::{Listener, Recent, RecordOutput, RecordWriter, RecordsError, queue};
