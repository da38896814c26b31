//! Every bound and deadline of this crate.

use std::time::Duration;

/// Records that wait for the writer task. At 200 bytes each this is some megabytes at worst.
pub(crate) const RECORD_QUEUE: usize = 8192;

/// Lines that wait for the output. An output that stands still costs records, never memory.
pub(crate) const LINE_QUEUE: usize = 4096;

/// Records kept for `GET /records`.
pub(crate) const RECENT_RECORDS: usize = 1000;

/// How long the last lines may take to be written when the agent stops.
pub(crate) const OUTPUT_DRAIN: Duration = Duration::from_secs(2);

/// Connections served at once, on each listener. Prometheus needs one, a person a few.
pub(crate) const ADMIN_CONNECTIONS: usize = 32;

/// How long a client may take to send a request's head, and how long a connection may idle.
pub(crate) const ADMIN_HEADER: Duration = Duration::from_secs(5);

/// How long a connection over TCP may last in all. Nothing served there is a stream.
pub(crate) const ADMIN_TCP_CONNECTION: Duration = Duration::from_secs(60);

/// How long answers under way may take to end when the agent stops.
pub(crate) const ADMIN_DRAIN: Duration = Duration::from_secs(1);

/// The pause after `accept` failed, usually for want of file descriptors.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections waiting to be accepted on the Unix socket.
pub(crate) const ADMIN_BACKLOG: i32 = 32;
