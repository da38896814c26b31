//! Every number that bounds the agent itself.

use std::time::Duration;

/// How often workloads are looked at: retries, moved network namespaces, renewals.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often a workload's sockets are looked through for plaintext after it became strict, once in
/// each interval: connections that were half made then are complete soon after.
pub const CLOSING_LOOKS: u32 = 4;
/// How often the ledger is looked after: names, and room for new pairs.
pub const COVERAGE_INTERVAL: Duration = Duration::from_secs(10);
/// From so many entries on, pairs of workloads that are gone make room, until there are as few as
/// [`LEDGER_LOW`].
pub const LEDGER_HIGH: usize = 3 * LEDGER_LOW / 2;
/// Half of the kernel's map.
pub const LEDGER_LOW: usize = martlet_kernel::Pair::ROOM as usize / 2;
/// A workload must be gone for so long before its pairs make room: longer than what its peers hold
/// open to it, idle lanes among them.
pub const GONE_FOR: Duration = Duration::from_secs(120);
/// How long what is open may go on after SIGTERM. Kubernetes and systemd kill after 30 and 90.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);
/// The same of what has come since, when nothing more is taken: short exchanges end in it.
pub const LAST_DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// After so long it is known that what was needed for the start is not needed any more.
pub const STARTED: Duration = Duration::from_secs(2);
/// An editor or a configuration tool changes a file in several steps.
pub const SETTLE: Duration = Duration::from_millis(100);
/// The pause after `accept` failed, usually for want of file descriptors.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Pods whose networks are made at the same time; kubelet makes ten or so.
pub const ARRIVALS_AT_ONCE: usize = 64;
/// How long a pod that has arrived may wait for its enrolment: kubelet makes few others meanwhile.
pub const ARRIVAL_PATIENCE: Duration = Duration::from_secs(2);
/// How long it is remembered: the first process of a pod is there some hundred milliseconds later, and
/// kubelet's report of the address some seconds.
pub const ARRIVAL_KEPT: Duration = Duration::from_secs(120);
/// Of so many; as many as a node can have workloads.
pub const ARRIVALS_KEPT: usize = 10_000;
/// Of those, a successor is told of so many; kubelet starts a pod in a second or so.
pub const ARRIVALS_HANDED: usize = 1_000;
/// How long an agent that hands over finishes what plugins have asked it: what is asked later waits for
/// the successor.
pub const ARRIVALS_FINISH: Duration = Duration::from_secs(3);
/// For the plugin of the container network to say what it wants, and to take the answer.
pub const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause between two looks at ports on which nobody listens any more.
pub const DESERTION_PAUSE: Duration = Duration::from_millis(1);
/// A clock may be set back by so much before certificates are renewed for it: they are backdated by
/// as much, and are still valid then.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);
/// Within which a node renews all certificates of an issuer that is given up.
pub const RENEWAL_SPREAD: Duration = Duration::from_secs(10);
/// Whoever was handed an identity has so long to read that there is none any more.
pub const HANDING_PATIENCE: Duration = Duration::from_secs(2);
/// The first pause after a certificate could not be renewed; it doubles each time.
pub const RENEWAL_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between two attempts to renew.
pub const RENEWAL_PAUSE_MAX: Duration = Duration::from_secs(300);
/// Things that others have changed, as the status lists them.
pub const REPAIRS_KEPT: usize = 64;
/// Log lines about what others have changed, per look: a whole map may be emptied.
pub const REPAIRS_SAID: usize = 16;
/// How long what is open may go on when another agent has taken over and nothing is refused meanwhile.
/// Kubernetes kills after 330.
pub const HANDED_DRAIN_TIMEOUT: Duration = Duration::from_secs(300);
/// How often a successor is told how much of it is left.
pub const DRAIN_SAID: Duration = Duration::from_secs(1);
/// How long an agent waits for a word of another that has nothing else to do.
pub const TAKEOVER_ANSWER: Duration = Duration::from_secs(5);
/// How long a successor may take for attaching and enrolling: some hundred milliseconds, and more for
/// many workloads and for certificates that must be asked for.
pub const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long it waits for its workloads' certificates before it takes over without those that have none.
pub const TAKEOVER_SETTLE: Duration = Duration::from_secs(5);
/// How often it looks.
pub const TAKEOVER_LOOK: Duration = Duration::from_millis(50);
/// How long one that finds an agent that is ending looks for it again: longer than ending takes.
pub const TAKEOVER_FIND: Duration = Duration::from_secs(60);
/// The longest word between two agents.
pub const TAKEOVER_LINE: usize = 64 * 1024;
/// The longest name of a piece that is handed over: of as many as go with one word, all fit into it.
pub const TAKEOVER_PIECE: usize = 960;
/// Of what callers stay with, as many go with one word: some 500 bytes each at most.
pub const TAKEOVER_AFFINITIES: usize = 96;
/// What may wait to be taken of what was handed over: four listeners for each of 1,000 pods.
pub const TAKEOVER_FILES: usize = 4096;
/// How long `uninstall --stop` waits for the agent: longer than what it waits for itself.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// How often it looks.
pub const STOP_LOOK: Duration = Duration::from_millis(100);
