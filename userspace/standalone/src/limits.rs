//! Every bound of this crate.

/// A node file may hold some 50,000 workloads; a larger one is a mistake or an attack.
pub const MAX_FILE_BYTES: usize = 16 * 1024 * 1024;

/// Mappings, lists and scalars. A workload has about twenty of them.
pub(crate) const MAX_NODES: usize = 1_500_000;

/// What the YAML parser reports: nodes, and the ends of mappings and lists.
pub(crate) const MAX_EVENTS: usize = 2_500_000;

/// The file's own shape is eight deep: policies, rules, sources and their lists.
pub(crate) const MAX_DEPTH: usize = 16;

/// Aliases spare typing; a file with more of them is better generated.
pub(crate) const MAX_ALIASES: usize = 1_000;

/// Nodes that all aliases together may stand for, so that few bytes never become many values.
pub(crate) const MAX_ALIASED_EVENTS: usize = 100_000;

/// Aliases within aliased text.
pub(crate) const MAX_ALIAS_DEPTH: usize = 4;

/// Probe ports of a workload: liveness, readiness and start of some containers.
pub(crate) const MAX_PROBES: usize = 16;

/// Addresses at which a controller listens: one of each network that has nodes.
pub(crate) const MAX_LISTENERS: usize = 16;

/// Trust domains whose endpoints a controller follows.
pub(crate) const MAX_FEDERATED: usize = 256;

/// A URL, and its path alone.
pub(crate) const MAX_URL_BYTES: usize = 2048;
pub(crate) const MAX_URL_PATH_BYTES: usize = 255;

/// Problems that are listed; a person mends no more at once.
pub(crate) const MAX_PROBLEMS: usize = 20;

/// Problems that are kept until they can be put into the file's order; more are only counted.
pub(crate) const MAX_PROBLEMS_KEPT: usize = 10_000;

/// A DNS name (RFC 1035, section 2.3.4) without its ending dot.
pub(crate) const MAX_HOST_BYTES: usize = 253;

/// Characters of a wrong text that are shown.
pub(crate) const MAX_SHOWN: usize = 64;

/// Linux PATH_MAX without its ending zero.
pub(crate) const MAX_PATH_BYTES: usize = 4095;

/// `sun_path` of a Unix socket's address without its ending zero (unix(7)).
pub(crate) const MAX_SOCKET_PATH_BYTES: usize = 107;

/// A rule's name goes into every refusal, and a refusal crosses the lane.
pub(crate) const MAX_RULE_NAME_BYTES: usize = 64;
