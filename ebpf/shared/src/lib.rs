//! What both halves of Martlet share: the layout of every map, and every decision.
//!
//! The kernel programs only read, ask [`decide`] or [`guard`], and act; so the decisions are tested on the host.
//! Whoever changes a type here raises [`ABI_VERSION`]: pinned maps of another version are not reused.

#![no_std]
#![forbid(unsafe_op_in_unsafe_fn)]

mod address;
pub mod decide;
mod event;
pub mod guard;
mod layout;
pub mod ledger;
pub mod limits;
pub mod packet;

pub use address::{Address, Endpoint};
pub use event::Event;
pub use layout::{
    ALL_OUTSIDE, Begun, Connection, Dial, Enrollment, Failure, Flow, Guarded, ListenerKey,
    ListeningKey, Member, Membership, Plain, Published, Receiver, Role, Used,
};

/// Part of the pin directory's name, since a pinned map is reused without a check of its layout.
pub const ABI_VERSION: u32 = 4;

/// Steered connections are spread over these ports of the pod's own address.
///
/// Privileged, because the kernel never chooses a source port below 1024 by itself: a source port
/// equal to the rewritten port would make the socket connect to itself.
pub const STEER_PORT_FIRST: u16 = 512;
/// A power of two, so that a random number becomes a port by a mask.
pub const STEER_PORT_COUNT: u16 = 512;

/// Whether steered connections may go to this port of the pod's own address.
#[inline(always)]
pub const fn is_steer_port(port: u16) -> bool {
    port.wrapping_sub(STEER_PORT_FIRST) < STEER_PORT_COUNT
}
