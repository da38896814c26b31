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

/// Pairs of a caller and a service whose endpoint is remembered; some hundred bytes each.
pub const AFFINITIES: usize = 65_536;

/// The caller closes a lane that nobody uses for this long.
pub const IDLE_LANE: Duration = Duration::from_secs(30);
/// A lane that has been idle for longer is asked for a sign of life before it is used: no pod ends and
/// another one has its address in less.
pub const QUIET_LANE: Duration = Duration::from_millis(100);
/// A lane that is to be left is left when it has been idle for so long: longer than [`QUIET_LANE`] and
/// the way there and back, so that whoever would use it asks first.
pub const LEAVE_QUIET: Duration = Duration::from_secs(1);
/// How long the sign of life may take: some retransmissions within a data center, one across an ocean.
pub const PONG_TIMEOUT: Duration = Duration::from_secs(1);
/// The called side waits this long for the first connection, which a caller opens at once: nobody
/// holds a place here by a handshake alone.
pub const FIRST_OPEN: Duration = Duration::from_secs(10);
/// The called side waits this long for the next connection: longer than any caller keeps a lane.
pub const IDLE_OPEN: Duration = Duration::from_secs(600);
/// Idle lanes for one caller, destination and identity.
pub const IDLE_LANES_PER_PAIR: usize = 256;
/// Idle lanes in all.
pub const IDLE_LANES: usize = 4096;
/// Idle lanes to which something has happened, and which wait to be looked at; those that do not fit
/// are looked at by the next sweep.
pub const STIRRED_LANES: usize = 1024;
/// A peer that is gone without a word is noticed after 15 + 3 * 5 seconds.
pub const KEEPALIVE_TIME: Duration = Duration::from_secs(15);
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
pub const KEEPALIVE_RETRIES: u32 = 3;

/// How many endpoints of a service are tried before giving up.
pub const ENDPOINTS_TRIED: usize = 3;
/// Connections of an agent, however many files it may have open.
pub const CONNECTIONS: usize = 1_000_000;
/// Connections of one workload: those that it opens, and as many that it is called by.
pub const CONNECTIONS_PER_WORKLOAD: usize = 50_000;
/// Nobody may hold more than so many times what is left for all others: one alone gets 7/8.
pub const SHARE: usize = 7;
/// Open files that are no connection's: programs, maps, listeners and namespaces of 110 pods.
pub const OTHER_FILES: usize = 1024;
/// Handshakes that one workload starts at a time; more wait for their turn.
pub const HANDSHAKES_OUT: usize = 512;
/// Handshakes that one workload answers at a time: a caller may be silent, so there are more.
pub const HANDSHAKES_IN: usize = 4096;
/// Handshakes that one workload starts in a second, and that it answers for one caller: some are a
/// deployment that starts, thousands are a program that should keep its connections. A processor
/// does about 1,500.
pub const HANDSHAKES_PER_SECOND: u32 = 2000;
/// Callers of one workload are counted in so many groups, since addresses are beyond counting.
pub const CALLER_GROUPS: usize = 64;

/// What is read from one side and written to the other at once.
pub const CHUNK_BYTES: usize = 128 * 1024;
/// What is read for the connections of one workload in one direction and waits to be written, all of
/// it in the worst case: that much for each of the two ways.
pub const BUFFER_BYTES: usize = 256 * 1024 * 1024;
const _: () = assert!(BUFFER_BYTES / CONNECTIONS_PER_WORKLOAD >= 4096, "a chunk is worth its way");
/// The same for a workload whose work is done in turns, so that a turn is short.
pub const BUSY_CHUNK_BYTES: usize = 16 * 1024;
/// How often the work of workloads is compared.
pub const COMPARISON_INTERVAL: Duration = Duration::from_millis(100);
/// Whoever has taken less of the threads' time since the last comparison disturbs nobody.
pub const BUSY_TIME: Duration = Duration::from_millis(5);
/// One of so many steps is measured: to read the clock takes as long as some of them.
pub const STEPS_PER_SAMPLE: u32 = 8;
/// How many chunks one connection moves in one direction before others get their turn.
pub const CHUNKS_PER_TURN: usize = 8;

/// How many connections are looked at again before others get their turn.
pub const REVIEWS_PER_TURN: usize = 256;
/// How often the policies are looked at, and idle lanes.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How many sweeps pass between two looks at every open connection's peer.
pub const SWEEPS_PER_REVIEW: u64 = 3;
/// How long a connection may go on after its peer's certificate has expired: a renewed one takes
/// over for new connections long before.
pub const EXPIRY_GRACE: Duration = Duration::from_secs(300);
/// The same warning about the same workload is given once in this time.
pub const WARNING_INTERVAL: Duration = Duration::from_secs(60);
/// How often an agent that is to stop looks whether what was open has ended.
pub const OLDER_LOOK: Duration = Duration::from_millis(50);
/// After draining, what connections get to say goodbye.
pub const CUT_TIMEOUT: Duration = Duration::from_secs(3);
