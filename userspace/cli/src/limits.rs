//! Every bound and deadline of this program.

use std::time::Duration;

/// How long an answer may take. The agent reads kernel maps for some, which takes milliseconds.
pub const ANSWER: Duration = Duration::from_secs(10);

/// How many nodes of a cluster are asked at a time.
pub const ASKED_AT_ONCE: usize = 64;

/// How long it may take until something is done: a command that signs, or an endpoint far away.
pub const DONE: Duration = Duration::from_secs(60);

/// How long an answer may be: some hundred thousand connections.
pub const ANSWER_BYTES: usize = 64 << 20;

/// How long one record may be.
pub const LINE_BYTES: usize = 1 << 20;

/// How much of a refusal is shown.
pub const REFUSAL_CHARACTERS: usize = 200;

/// How often `--watch` asks.
pub const WATCH: Duration = Duration::from_secs(1);

/// An authority's certificate that expires sooner than this is pointed out, and so is one in the last
/// quarter of its life.
pub const AUTHORITY_ENDS_SOON: Duration = Duration::from_secs(30 * 86_400);
