//! What one pod may use of the maps that all pods of a node share.

/// Connections of a pod between SYN and accept: those that its processes open, and as many that the
/// agent opens to them. As many as wait in a full queue of the agent's listener; usually there are
/// as many as processors, since the way is over the loopback device.
pub const IN_FLIGHT: u64 = 4096;
/// Ports of a pod on which somebody listens. FTP servers and media relays have a thousand.
pub const PORTS: u64 = 4096;
/// Plaintext connections of a pod that the guard remembers, 0.5 MiB of kernel memory for each pod
/// with a guard. Only connections that are older than a peer's enrolment, and those of machines
/// inside a pod, depend on being remembered.
pub const PLAIN: usize = 4096;

/// Pods of a node. Kubernetes recommends no more than 110 on a node.
pub const PODS: usize = 4096;
/// How many pods may use all of what is theirs at the same time.
pub const BUSY_PODS: usize = 64;
