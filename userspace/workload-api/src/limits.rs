//! Every bound of this crate.

use std::time::Duration;

/// Connections to one workload's socket at a time. A library keeps one.
pub const CONNECTIONS: usize = 64;

/// Calls on one connection at a time: SVIDs and bundles, and some that are ending.
pub const CALLS: u32 = 16;

/// Header lists in bytes; those of the API are a few hundred.
pub const HEADER_BYTES: u32 = 16 * 1024;

/// A caller that does not answer a ping for as long is gone.
pub const PING_EVERY: Duration = Duration::from_secs(60);
pub const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// After the system had no file descriptor for a caller.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(500);
