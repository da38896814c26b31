//! Every bound and deadline of this crate.

use std::time::Duration;

/// Records that wait to be sent. At some 600 bytes each this is a few megabytes at worst.
pub(crate) const QUEUE: usize = 4096;

/// Spans that are sent at once: some 600 kB, where collectors take 4 MiB.
pub(crate) const BATCH: usize = 512;

/// How long the first of a batch waits for others.
pub(crate) const LINGER: Duration = Duration::from_secs(1);

/// How long one attempt may take: name, connection, handshake, answer.
pub(crate) const ATTEMPT: Duration = Duration::from_secs(5);

/// How long a batch is tried. What comes meanwhile waits in the queue.
pub(crate) const PATIENCE: Duration = Duration::from_secs(8);

/// The pause after an attempt that failed; it doubles up to the longest.
pub(crate) const FIRST_PAUSE: Duration = Duration::from_secs(1);
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long the last spans may take when the agent stops.
pub(crate) const DRAIN: Duration = Duration::from_secs(2);

/// Authorities in PEM: collections of systems have some hundred kilobytes.
pub(crate) const MAX_AUTHORITIES_BYTES: u64 = 4 * 1024 * 1024;
