//! Every bound of this crate.

use std::time::Duration;

/// From the first byte of a handshake to its end, on either side. A peer on the same network needs
/// milliseconds; a slow one shall not hold a task and a socket for long.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How much ciphertext may wait in memory for a socket that does not take it.
pub const SEND_BUFFER_BYTES: usize = 256 * 1024;

/// A bundle document of a trust domain in the middle of a rotation is a few KiB.
pub const MAX_DOCUMENT_BYTES: usize = 1024 * 1024;
