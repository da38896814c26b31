//! Every number that bounds the lab.

use std::{sync::OnceLock, time::Duration};

/// Addresses carry the node's and the pod's number in one byte each.
pub const NODES: u8 = 16;
pub const PODS_PER_NODE: u8 = 250;

/// How long a condition is given when the caller does not say.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How often a condition is looked at.
pub const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Killed processes leave their cgroup within this time, or something is badly wrong.
pub const KILL: Duration = Duration::from_secs(10);

/// How long a program that is run to its end may take.
pub const PROGRAM: Duration = Duration::from_secs(120);

/// An agent has loaded its programs and has its first certificates by then.
pub const AGENT_READY: Duration = Duration::from_secs(20);

/// An agent that was asked to stop has drained by then.
pub const AGENT_STOP: Duration = Duration::from_secs(40);

/// An admin request that takes longer is an error.
pub const HTTP: Duration = Duration::from_secs(20);

/// An admin answer is never larger.
pub const HTTP_BODY: u64 = 64 << 20;

/// Frames waiting for the sniffer: it must never lose one.
pub const SNIFFER_BUFFER: usize = 256 << 20;

/// The largest frame that a veth hands over with segmentation offload, and some room.
pub const FRAME: usize = 128 << 10;

/// Frames kept for showing, and how much of each.
pub const RING_FRAMES: usize = 4096;
pub const RING_FRAME_BYTES: usize = 256;

/// How much of the start of each direction of a flow is kept: a hello with post-quantum keys fits.
pub const FLOW_START: usize = 4096;

/// Out-of-order bytes kept per direction of a flow before the gap is given up.
pub const REASSEMBLY: usize = 4 << 20;

/// How many times longer everything takes here, as `MARTLET_PATIENCE` says: an emulated processor is
/// slow. Applied where waiting is done, so that all other numbers are those of a usual machine.
pub fn patience(within: Duration) -> Duration {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    let factor = || std::env::var("MARTLET_PATIENCE").ok()?.parse().ok();
    within * *FACTOR.get_or_init(|| factor().unwrap_or(1))
}
