//! Every bound of this crate.

use std::time::Duration;

/// Connecting to another pod.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Connecting to the application, which is in the same pod.
pub const APPLICATION_TIMEOUT: Duration = Duration::from_secs(10);
/// Telling the far side about a reset; after that the lane is just dropped, which says the same.
pub const FAREWELL_TIMEOUT: Duration = Duration::from_secs(5);
/// The caller closes a lane that nobody uses for this long.
pub const IDLE_LANE: Duration = Duration::from_secs(30);
/// The called side waits this long for the next connection: longer than any caller keeps a lane.
pub const IDLE_OPEN: Duration = Duration::from_secs(600);
/// Idle lanes for one caller, destination and identity.
pub const IDLE_LANES_PER_PAIR: usize = 256;
/// Idle lanes in all.
pub const IDLE_LANES: usize = 4096;
/// How many endpoints of a service are tried before giving up.
pub const ENDPOINTS_TRIED: usize = 3;
/// What is read from an application at once.
pub const CHUNK_BYTES: usize = 64 * 1024;
/// What is read from a lane at once: a TLS record's plaintext.
pub const LANE_READ_BYTES: usize = 16 * 1024;
