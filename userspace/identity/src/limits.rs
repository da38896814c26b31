//! Every bound of this crate.

use std::time::Duration;

/// From the first byte of a handshake to its end, on either side. A peer on the same network needs
/// milliseconds; a slow one shall not hold a task and a socket for long.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How much ciphertext may wait in memory for a socket that does not take it.
pub const SEND_BUFFER_BYTES: usize = 256 * 1024;

/// A bundle document of a trust domain in the middle of a rotation is a few KiB.
pub const MAX_DOCUMENT_BYTES: usize = 1024 * 1024;

/// How often to look for a newer bundle document whose publisher does not say how often (SPIFFE
/// Federation, section 4.1).
pub const DEFAULT_REFRESH: Duration = Duration::from_secs(300);

/// A publisher can neither make us hammer its endpoint nor forget a root that it has withdrawn.
pub const SHORTEST_REFRESH: Duration = Duration::from_secs(60);
pub const LONGEST_REFRESH: Duration = Duration::from_secs(24 * 3600);

/// How many chains are remembered as verified for one set of roots: those of 4,096 peers that call or
/// are called by a node, half a KiB each.
pub const PROVEN_CHAINS: usize = 4096;
