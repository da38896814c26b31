//! Every bound of the plugin.

use std::time::Duration;

/// Of a network's configuration with the results of the plugins before.
pub const STDIN_BYTES: u64 = 1024 * 1024;
/// Of what the agent is asked, and of what it answers. A path has 4,095 at most, and is not sent.
pub const MESSAGE_BYTES: usize = 16 * 1024;
/// Of one pod. Most have one of each family.
pub const ADDRESSES: usize = 16;
/// For an agent to take the connection, and for its answer. It may wait some seconds itself, until the
/// pod is enrolled; kubelet gives a sandbox two minutes.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);
/// To tell it that a pod is gone: nothing depends on it.
pub const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);
/// Characters of an answer that go into kubelet's Event.
pub const REASON_CHARS: usize = 512;
/// How often it is looked whether the plugin is still in the node's network. What writes that anew has
/// this long without it.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Of one file of a network.
pub const NETWORK_BYTES: u64 = 1024 * 1024;
