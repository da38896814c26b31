//! Every bound of this crate.

use std::time::Duration;

/// How often the trust is looked at: whether a rotation can go on, or a certificate is due.
pub const TICK: Duration = Duration::from_secs(2);

/// How long a join token is good if nothing else is said, and at most.
pub const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);
pub const LONGEST_TOKEN_LIFETIME: Duration = Duration::from_secs(7 * 86_400);
/// Tokens that nobody has used yet, all together.
pub const TOKENS: usize = 10_000;
/// Nodes that have joined and were not removed.
pub const NODES: usize = 20_000;

/// How long after the first of several changes of a cluster they are told together.
pub const CLUSTER_SETTLE: Duration = Duration::from_millis(50);
/// After a question to the API server that was not answered.
pub const CLUSTER_AGAIN: Duration = Duration::from_secs(2);

/// A file that is being written is read when it is whole.
pub const SETTLE: Duration = Duration::from_millis(200);
/// Some seventy times what 20,000 nodes need.
pub const REGISTRY_BYTES: u64 = 256 * 1024 * 1024;
/// A bundle, or a name with a reason.
pub const REQUEST_BYTES: usize = 1024 * 1024;

/// How often the files of a certificate of the web are looked at: they change every few weeks.
pub const WEB_LOOK: Duration = Duration::from_secs(30);
/// All authorities of the web have some 250 KiB.
pub const PEM_BYTES: u64 = 4 * 1024 * 1024;
