//! Every number that bounds the load generator and the orchestrator.

use std::time::Duration;

/// One write of the bulk mode: what programs that copy files use.
pub const BULK_WRITE: usize = 128 << 10;

/// The sink reads with a larger buffer, so that it is never what limits.
pub const SINK_READ: usize = 256 << 10;

/// The most that the echo server takes at once; its messages are small, and so is its memory.
pub const ECHO_READ: usize = 1 << 10;

/// Connections that wait for the server to accept them.
pub const BACKLOG: u32 = 4096;

/// After a failed connection its worker pauses: a server that refuses must not get more load.
pub const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(1);

/// What is still unfinished this long after the end of the run counts as stalled.
pub const STALL: Duration = Duration::from_secs(10);

/// How long a load may take beyond its own warm-up, run and [`STALL`].
pub const LOAD_EXTRA: Duration = Duration::from_secs(20);

/// Server programs, proxies and idle connections are up within this time.
pub const READY: Duration = Duration::from_secs(20);

/// How long an idle connection may take to be opened, on average.
pub const OPENING: Duration = Duration::from_millis(10);

/// Files that a program may open at most, where the machine lets us say so.
pub const OPEN_FILES: u64 = 1 << 16;

/// Files of a proxy that are no open connection's: its own, and what Martlet keeps from one workload
/// for all others.
pub const OTHER_FILES: u64 = 4000;

/// How long the machine is watched before anything runs.
pub const LOOK_BEFORE: Duration = Duration::from_secs(1);

/// How often memory is read while it may still be given back.
pub const LOOK_AT_MEMORY: Duration = Duration::from_millis(100);

/// The seconds of a long run that count as its start.
pub const EARLY_SECONDS: usize = 3;

/// The second from which a long run counts as worn in.
pub const LATE_FROM_SECOND: usize = 10;

/// How long one of two clients that run at the same time goes on before it is the other's turn: many
/// times as long as what is under way when it ends.
pub const TURN: Duration = Duration::from_millis(80);
