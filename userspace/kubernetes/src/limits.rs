//! Every limit of this crate, in one place.

use std::time::Duration;

/// How long one watch lasts before it is begun anew, in seconds.
pub const WATCH_SECONDS: u32 = 60;

/// How long after a watch should have ended or said something it is believed to be dead.
pub const WATCH_LATE: Duration = Duration::from_secs(5);

/// How long a server may take to answer that it lets something be watched.
pub const WATCH_BEGINS: Duration = Duration::from_secs(15);

/// A watch that ends sooner has failed: to begin it anew without a pause would be a loop.
pub const SHORT_WATCH: Duration = Duration::from_secs(1);

/// Objects of one page of a list.
pub const PAGE: u32 = 500;

/// How long one page of a list may take; servers give a request a minute, too.
pub const LIST: Duration = Duration::from_secs(60);

/// How long is waited at most for a server that wants to be left alone.
pub const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Lives of objects that have ended, remembered of each kind: who names one of them as there is old.
pub const ENDED: usize = 10_000;

/// How many objects that a list lacks are asked for at a time.
pub const ASKED_AT_ONCE: usize = 16;

/// How long after a failed question an object that a list lacked is asked for again.
pub const ASK_AGAIN: Duration = Duration::from_secs(5);

/// How long one question to the API server may take.
pub const QUESTION: Duration = Duration::from_secs(5);

// --- pods that have just arrived ---

/// Of one node, that the API server has not told of yet. It tells the node at the same time.
pub const UNSEEN_ARRIVALS: usize = 64;

// --- the lease of the controller ---

/// A lease that has not changed for so long is whoever's who takes it.
pub const LEASE: Duration = Duration::from_secs(15);
/// Who could not renew it for so long acts as its holder no more. Five seconds are for clocks that do
/// not run alike.
pub const LEASE_RENEWED_WITHIN: Duration = Duration::from_secs(10);
/// How often it is renewed, and looked at by whoever waits for it.
pub const LEASE_RETRY: Duration = Duration::from_secs(1);
/// How long one question about it may take: three of them fit before the holder gives up.
pub const LEASE_QUESTION: Duration = Duration::from_secs(3);

// --- Events ---

/// A problem that lasts is said again so often: a server forgets Events after an hour.
pub const EVENT_AGAIN: Duration = Duration::from_secs(20 * 60);
/// For how long an Event is counted up; then the next is a new one.
pub const EVENT_SERIES: Duration = Duration::from_secs(45 * 60);
/// What is more is said as a new Event each time.
pub const EVENTS_REMEMBERED: usize = 10_000;
/// The API's own limit is 1,024 characters.
pub const EVENT_NOTE_BYTES: usize = 1_000;

/// Of what is said of a pod.
pub const STANDING_BYTES: usize = 512;

// --- from a user's machine ---

/// What is under way to or from a program in a pod.
pub const RELAY_BYTES: usize = 64 * 1024;

/// Of what a program in a pod complains about.
pub const SAID_BYTES: usize = 4096;

/// How long a program in a pod has to say why it ended, when its output has ended.
pub const LAST_WORDS: Duration = Duration::from_secs(1);

// --- what agents are told; the control plane's own limits are wider ---

/// Probed ports of one pod.
pub const PROBES: usize = 16;

/// Endpoints of one port of a service.
pub const ENDPOINTS: usize = 5_000;

/// Of these, those that are near some node: with more, none are, and zones count. However long nodes'
/// names are, all of it fits into what agents take of one service.
pub const NEAR_NODES: usize = 1_500;

/// Policies of one namespace.
pub const POLICIES: usize = 500;

/// Rules of one policy, each with one source.
pub const RULES: usize = 500;

/// Of a policy's text as JSON.
pub const POLICY_BYTES: usize = 128 * 1024;

/// Of a trust bundle's spec as JSON: some hundred roots, which is more than are taken.
pub const BUNDLE_BYTES: usize = 512 * 1024;

/// Of a mesh config's spec as JSON, with all that may be wrong with it.
pub const CONFIG_BYTES: usize = 16 * 1024;

/// A rule's name goes into every refusal.
pub const RULE_NAME_BYTES: usize = 64;

// --- installing ---

/// How long one question to the API server may take there: an apply goes through webhooks of others.
pub const INSTALL_QUESTION: Duration = Duration::from_secs(30);

/// How often it is looked whether what was waited for has come.
pub const INSTALL_LOOK: Duration = Duration::from_millis(500);

/// Pods of one page, of all that are looked through.
pub const PODS_PAGE: u32 = 500;

/// How long a pod may take to leave a node as it was.
pub const LEAVE_NODE_SECONDS: i64 = 300;
