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
/// Pods that agents say have arrived, which are not looked at yet.
pub const ARRIVALS: usize = 1024;
/// After a question to the API server that was not answered.
pub const CLUSTER_AGAIN: Duration = Duration::from_secs(2);

/// How long is waited for what the API server says of the mesh config, before what was set last is in
/// effect again.
pub const FIRST_WORD: Duration = Duration::from_secs(5);

/// How often it is looked at what is to be written into the cluster.
pub const WRITING_ROUND: Duration = Duration::from_secs(1);
/// Of one round: what is more waits for the next.
pub const WRITTEN_STATUSES: usize = 20;
pub const SAID_EVENTS: usize = 5;
/// Counts on their way up are written so often.
pub const STATUS_AGAIN: Duration = Duration::from_secs(5);
/// Pods of which it is written how they stand, of one round.
pub const WRITTEN_STANDINGS: usize = 50;
/// Between two words about one pod, and between two with the same meaning.
pub const STANDING_AGAIN: Duration = Duration::from_secs(5);
pub const STANDING_TEXT_AGAIN: Duration = Duration::from_secs(30);
/// How long a pod may wait before that is said: enrolling takes a moment.
pub const STANDING_SETTLES: Duration = Duration::from_secs(3);
/// How long a policy that was in effect everywhere may not be known to be, before it is said.
pub const STATUS_SETTLES: Duration = Duration::from_secs(2);
/// The same of a controller that has just begun: agents come back after up to a minute.
pub const AGENTS_COME_BACK: Duration = Duration::from_secs(90);
/// A workload's certificate is asked for again within this time.
pub const REFUSAL_LASTS: Duration = Duration::from_secs(600);
/// That are remembered.
pub const REFUSALS: usize = 1_000;

/// Nodes whose taints are looked at in one round.
pub const TAINTS: usize = 20;
/// How often those of a node are looked at again whose agent stays ready. Its rounds are enough for
/// 6,000 nodes.
pub const TAINT_AGAIN: Duration = Duration::from_secs(300);

/// How often the roots are published again, and what is set for the mesh is kept again: somebody may
/// have removed them.
pub const PUBLISH_AGAIN: Duration = Duration::from_secs(10);

/// How often the Service's endpoint is written again: somebody may have changed it.
pub const LEAD_AGAIN: Duration = Duration::from_secs(10);

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
