//! Every bound of this crate.

use std::time::Duration;

// --- what a message may hold ---

/// Of everything that an agent says: a request for a certificate is the largest.
pub const AGENT_MESSAGE_BYTES: usize = 128 * 1024;
/// Of one message of a controller. What is more goes into several.
pub const CONTROLLER_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// At which a controller begins the next message; one item may come on top.
pub const CHUNK_BYTES: usize = 1024 * 1024;
/// Of one workload, service or policy.
pub const ITEM_BYTES: usize = 1024 * 1024;
/// A request for a P-384 certificate has some 300 bytes; extensions are not used.
pub const CSR_BYTES: usize = 8 * 1024;
/// A certificate of ours has some 600 bytes, one of a foreign authority up to a few thousand.
pub const CERTIFICATE_BYTES: usize = 16 * 1024;
/// Leaf, issuers, and the roots that a controller adds.
pub const CHAIN_CERTIFICATES: usize = 8;
pub const SECRET_BYTES: usize = 32;
/// Texts for people: versions, reasons, errors. Longer ones are cut by whoever sends them.
pub const TEXT_BYTES: usize = 1024;
/// Issuers and roots that a node can have in use.
pub const USAGE_ENTRIES: usize = 256;

/// Workloads of whom an agent says in one message how it stands with them, each with a text.
pub const STANDINGS: usize = 64;

/// Pods of which an agent says in one message that they have arrived.
pub const ARRIVALS: usize = 64;

/// A workload has one address of each family; more are known, not steered to.
pub const ADDRESSES: usize = 16;
pub const PROBES: usize = 16;
pub const PATH_BYTES: usize = 4095;
/// Kubernetes makes them of 36 characters; those of static pods have 32.
pub const UID_BYTES: usize = 64;
/// That one workload lists.
pub const LISTED_POLICIES: usize = 1_000;
pub const ENDPOINTS: usize = 10_000;
pub const RULES: usize = 1_000;
/// Of each list of a rule, and of the service accounts of a policy.
pub const RULE_ENTRIES: usize = 10_000;
/// A rule's name goes into every refusal, and a refusal crosses the lane.
pub const RULE_NAME_BYTES: usize = 64;
pub const DOMAINS: usize = 2_000;
/// During a rotation a domain has two; a foreign one may have some more.
pub const ROOTS: usize = 64;
pub const QUARANTINES: usize = 10_000;

/// What a table may hold in all; each some four times the largest cluster that is supported.
pub const WORKLOADS: usize = 600_000;
pub const SERVICES: usize = 100_000;
pub const POLICIES: usize = 100_000;
/// Of one node; Linux runs out of other things before.
pub const LOCALS: usize = 10_000;
pub const SNAPSHOT_BYTES: u64 = 512 * 1024 * 1024;
/// A join token has some 200 bytes, a root some 800.
pub const PROOF_BYTES: u64 = 64 * 1024;
/// A service account's has some 1,200.
pub const ACCOUNT_TOKEN_BYTES: usize = 16 * 1024;

// --- how long a client waits ---

pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For one answer: a signer outside of the controller may need seconds.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// For a connection, by whoever asks for certificates while there is none.
pub const LINK_PATIENCE: Duration = Duration::from_secs(10);
/// Between two messages of a living controller, which says something every [`HEARTBEAT`].
pub const SILENCE: Duration = Duration::from_secs(45);
pub const HEARTBEAT: Duration = Duration::from_secs(15);
/// For a controller to hear why its agent leaves.
pub const FAREWELL: Duration = Duration::from_secs(2);
/// Between two messages about workloads: a quarter of what an agent may say in all.
pub const STANDINGS_PAUSE: Duration = Duration::from_millis(200);
/// Between two messages about pods that have arrived, for which somebody waits.
pub const ARRIVALS_PAUSE: Duration = Duration::from_millis(100);
/// How often an agent says what is in use, changed or not.
pub const USAGE_INTERVAL: Duration = Duration::from_secs(10);

/// The longest pause after the first failure. Nobody waits less than a tenth of it, so that 10,000
/// agents whose controller went away come back as some 3,700 a second at most, not all at once.
pub const FIRST_PAUSE: Duration = Duration::from_secs(4);
/// The longest pause of all: after an outage, 10,000 agents come back within it, evenly.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A node's own certificate is renewed again after so long if it could not be.
pub const RENEWAL_PAUSE: Duration = Duration::from_secs(60);
/// Within which all nodes renew their own certificates after the trust has changed.
pub const TRUST_SPREAD: Duration = Duration::from_secs(10);
/// How often an agent asks what the controller's clock shows.
pub const CLOCK_INTERVAL: Duration = Duration::from_secs(60);
/// Between two snapshots.
pub const SNAPSHOT_PAUSE: Duration = Duration::from_secs(1);

// --- what a server bears ---

pub const CONNECTIONS: usize = 20_000;
/// Handshakes at once. Each may take seconds if the other end is slow, so there are many.
pub const HANDSHAKES: usize = 1_024;
/// The same of one address, or of one /64: many nodes can be behind one, and each needs milliseconds.
pub const HANDSHAKES_OF_ONE: usize = 128;
/// Connections of those who have no certificate, at once.
pub const NOBODIES: usize = 64;
/// The same of one address, or of one /64.
pub const NOBODIES_OF_ONE: usize = 16;
/// How long such a one may take to join.
pub const NOBODY_LIFETIME: Duration = Duration::from_secs(30);
pub const STREAMS_PER_CONNECTION: u32 = 16;
/// Messages that wait for an agent that does not read; changes wait as names, not as messages.
pub const QUEUE: usize = 4;
/// For such an agent, before it is let go.
pub const SLOW_READER: Duration = Duration::from_secs(30);
/// Agents that are told everything at the same time. What is the same for all is in memory once, but
/// a mebibyte or two of it wait for each that reads slowly.
pub const TELLERS: usize = 32;
/// Names that may have changed since everything was encoded for whoever is told everything: those are
/// made for each of them, so that they are to be few beside the rest.
pub const WHOLE_BEHIND: usize = 1_000;
/// Changes that are remembered; whoever is further behind is told everything.
pub const CHANGES: usize = 256;

/// Certificates of a node at once: the start of a large node, twice.
pub const ISSUE_BURST: u32 = 600;
pub const ISSUE_PER_SECOND: u32 = 20;
/// Answered together, so that they share one write of the log; small, so that the turns of other
/// nodes come soon.
pub const ISSUE_BATCH: usize = 32;
/// For the next request, in a stream that stays open.
pub const ISSUE_IDLE: Duration = Duration::from_secs(60);
/// Of all nodes, at once: signing takes CPU, and a line of a log.
pub const SIGNERS: usize = 8;
pub const ISSUE_STREAMS: usize = 2;
/// Things that one agent says.
pub const SAID_BURST: u32 = 60;
pub const SAID_PER_SECOND: u32 = 20;
pub const JOIN_BURST: u32 = 100;
pub const JOIN_PER_SECOND: u32 = 20;
/// For streams to end when the server stops.
pub const DRAIN: Duration = Duration::from_secs(5);
