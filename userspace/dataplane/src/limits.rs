//! Every bound of this crate.

use std::time::Duration;

/// Connecting to another pod.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Connecting to the application, which is in the same pod.
pub const APPLICATION_TIMEOUT: Duration = Duration::from_secs(10);
/// Waiting for a turn to shake hands, when many connections are being opened: a small machine needs
/// some milliseconds for each, and a burst of thousands is no error.
pub const TURN_TIMEOUT: Duration = Duration::from_secs(60);
/// Telling the far side why a connection ended; after that the lane is cut, which says less.
pub const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);
/// What is read and thrown away after a farewell, so that it is not overtaken by a RST: more than
/// two sockets' buffers, which can be full.
pub const FAREWELL_BYTES: u64 = 64 * 1024 * 1024;

/// The caller closes a lane that nobody uses for this long.
pub const IDLE_LANE: Duration = Duration::from_secs(30);
/// The called side waits this long for the first connection, which a caller opens at once: nobody
/// holds a place here by a handshake alone.
pub const FIRST_OPEN: Duration = Duration::from_secs(10);
/// The called side waits this long for the next connection: longer than any caller keeps a lane.
pub const IDLE_OPEN: Duration = Duration::from_secs(600);
/// Idle lanes for one caller, destination and identity.
pub const IDLE_LANES_PER_PAIR: usize = 256;
/// Idle lanes in all.
pub const IDLE_LANES: usize = 4096;
/// A peer that is gone without a word is noticed after 15 + 3 * 5 seconds.
pub const KEEPALIVE_TIME: Duration = Duration::from_secs(15);
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
pub const KEEPALIVE_RETRIES: u32 = 3;

/// How many endpoints of a service are tried before giving up.
pub const ENDPOINTS_TRIED: usize = 3;
/// Connections of one workload, in both directions together.
pub const CONNECTIONS_PER_WORKLOAD: usize = 50_000;
/// Handshakes that one workload starts at a time; more wait for their turn.
pub const HANDSHAKES_OUT: usize = 512;
/// Handshakes that one workload answers at a time: a caller may be silent, so there are more.
pub const HANDSHAKES_IN: usize = 4096;

/// What is read from one side and written to the other at once.
pub const CHUNK_BYTES: usize = 128 * 1024;
/// How many chunks one connection moves in one direction before others get their turn.
pub const CHUNKS_PER_TURN: usize = 8;

/// How often the policies are looked at, and idle lanes.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How many sweeps pass between two looks at every open connection's peer.
pub const SWEEPS_PER_REVIEW: u64 = 3;
/// How long a connection may go on after its peer's certificate has expired: a renewed one takes
/// over for new connections long before.
pub const EXPIRY_GRACE: Duration = Duration::from_secs(300);
/// The same warning about the same workload is given once in this time.
pub const WARNING_INTERVAL: Duration = Duration::from_secs(60);
/// After draining, what connections get to say goodbye.
pub const CUT_TIMEOUT: Duration = Duration::from_secs(3);
