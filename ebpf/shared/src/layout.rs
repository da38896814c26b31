//! Keys and values of the maps. Who writes what, and what a missing entry means, stands at each
//! map in `ebpf/programs/src/maps.rs`.

use crate::{
    Address, Endpoint,
    ledger::{Class, Pair, Party, Tally},
};

/// A workload of this node, by the cookie of its network namespace.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Enrollment {
    /// The first address of the family; unspecified if the workload has none.
    pub v4: Address,
    pub v6: Address,
    /// 0 while the pod is being enrolled: what it listens on is watched, but nothing is steered, and
    /// what it opens to the mesh is refused unless its namespace was outside by decision.
    pub steered: u32,
    pub padding: u32,
    /// As the ledger knows it.
    pub party: Party,
}

impl Enrollment {
    /// What a pod is about which nothing is decided yet.
    pub const UNDECIDED: Self = Self {
        v4: Address::UNSPECIFIED,
        v6: Address::UNSPECIFIED,
        steered: 0,
        padding: 0,
        party: Party::class(Class::Unknown),
    };
}

/// The key of `OUTSIDE` that stands for all network namespaces that are no workload's. No namespace
/// has this cookie.
pub const ALL_OUTSIDE: u64 = 0;

/// What an address of the mesh is.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Member {
    Workload = 1,
    Service = 2,
}

/// Whose an address of the mesh is.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Membership {
    /// A [`Member`].
    pub kind: u32,
    /// 1: a strict workload, or a service with one behind it: nothing in plaintext is for it, or
    /// from it.
    pub strict: u32,
    /// As the ledger knows it.
    pub party: Party,
}

impl Membership {
    pub const fn workload(party: Party) -> Self {
        Self { kind: Member::Workload as u32, strict: 0, party }
    }

    pub const fn service() -> Self {
        Self { kind: Member::Service as u32, strict: 0, party: Party::class(Class::Service) }
    }

    pub const fn with_strict(self, strict: bool) -> Self {
        Self { strict: strict as u32, ..self }
    }

    /// What the directory says of the address; `None` for [`Membership::default`], which stands for
    /// an address outside of the mesh.
    #[inline(always)]
    pub const fn member(&self) -> Option<u32> {
        if self.kind == 0 { None } else { Some(self.kind) }
    }
}

/// How a workload of this node receives, by its address.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Receiver {
    /// The cookie of the workload's network namespace.
    pub netns: u64,
    /// 1: whatever is not an enrolled caller is refused.
    pub strict: u32,
    pub padding: u32,
    /// As the ledger knows it.
    pub party: Party,
}

/// One connection inside a pod, from the pod's own address to the same address.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Flow {
    pub address: Address,
    pub source_port: u16,
    pub port: u16,
}

/// What is known about a [`Flow`] before its first packet.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Published {
    pub peer: Endpoint,
    /// [`Published::ORIGIN`] or [`Published::CLIENT`].
    pub kind: u32,
}

impl Published {
    /// A steered connection; the peer is where it wanted to go.
    pub const ORIGIN: u32 = 1;
    /// The agent dials the application; the peer is the real caller.
    pub const CLIENT: u32 = 2;
    /// The pod's own connection to itself, to one of the ports that steered ones go to.
    pub const OWN: u32 = 3;
}

/// What a workload uses of the maps that all share; each number is that of its entries there.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Used {
    /// In `PUBLISHED`: connections that the pod's processes open.
    pub opening: u64,
    /// In `PUBLISHED`: connections that the agent opens to them.
    pub dialed: u64,
    /// In `LISTENING`.
    pub ports: u64,
}

/// Which of the agent's listeners in a pod.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Outbound = 1,
    Inbound = 2,
}

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ListenerKey {
    pub address: Address,
    pub role: u32,
}

/// A port on which the application of a pod listens.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ListeningKey {
    /// The cookie of the pod's network namespace.
    pub netns: u64,
    /// What the socket is bound to: an address, 0.0.0.0 in its mapped form, or `::`.
    pub bound: Address,
    pub port: u32,
    pub padding: u32,
}

impl ListeningKey {
    #[inline(always)]
    pub const fn new(netns: u64, bound: Address, port: u16) -> Self {
        Self { netns, bound, port: port as u32, padding: 0 }
    }
}

/// Written by the agent on its own sockets: those that it dials with, which the hooks leave alone,
/// and its listeners, from which what they accept inherits it. The guard lets these through.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Dial {
    /// Whom the application shall see as its peer; port 0 if nobody is to be shown.
    pub shown: Endpoint,
    /// What the guard has found out about the connection: bits of [`Dial::KNOWN`] and following.
    pub found: u32,
    /// Whose packets these are in the ledger, seen from the pod; kept with the connection, also
    /// when addresses are given to others.
    pub own: Party,
    pub peer: Party,
}

impl Dial {
    /// Both parties are written here.
    pub const KNOWN: u32 = 1;
    /// The connection itself is counted.
    pub const COUNTED: u32 = 2;
    /// The other side is a workload of this node.
    pub const HERE: u32 = 4;
}

/// The pod behind an interface of the host.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Guarded {
    /// The cookie of the pod's network namespace.
    pub netns: u64,
    /// The first address of each family; unspecified if the pod has none.
    pub v4: Address,
    pub v6: Address,
    /// The pod's network namespace as the host's one numbers it.
    pub netns_id: u32,
    /// 1: whatever is not an enrolled caller is refused.
    pub strict: u32,
    /// 1: UDP with the mesh is refused.
    pub refuses_udp: u32,
    pub padding: u32,
    /// As the ledger knows it.
    pub party: Party,
}

/// The keys of `FAILURE`.
pub struct Failure;

impl Failure {
    /// There, whatever its value: the node fails open.
    pub const OPEN: u32 = 0;
    /// How many connections that went in plaintext without an agent have been reported: those that
    /// pods opened, and those that they accepted.
    pub const OPENED_REPORTED: u32 = 1;
    pub const ACCEPTED_REPORTED: u32 = 2;
}

/// How a connection in plaintext that was allowed began.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plain {
    /// The pod has opened it.
    Opened = 1,
    /// The other side has opened it.
    Accepted = 2,
    /// The prober has opened it, to a declared probe port.
    Probe = 3,
}

impl Plain {
    #[inline(always)]
    pub const fn from_value(value: u32) -> Option<Self> {
        match value {
            1 => Some(Self::Opened),
            2 => Some(Self::Accepted),
            3 => Some(Self::Probe),
            _ => None,
        }
    }
}

/// A TCP connection, seen from a pod.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Connection {
    /// The cookie of the pod's network namespace.
    pub netns: u64,
    pub local: Address,
    pub remote: Address,
    pub local_port: u16,
    pub remote_port: u16,
    pub padding: u32,
}

/// What is remembered of a connection in plaintext that was allowed.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Begun {
    /// A [`Plain`].
    pub kind: u32,
    /// The sequence number of its SYN: another SYN with the same one is the same SYN again. 0 if
    /// it was not seen.
    pub sequence: u32,
}

const _: () = {
    assert!(size_of::<Address>() == 16);
    assert!(size_of::<Endpoint>() == 20);
    assert!(size_of::<Enrollment>() == 48);
    assert!(size_of::<Flow>() == 20);
    assert!(size_of::<Published>() == 24);
    assert!(size_of::<Used>() == 24);
    assert!(size_of::<ListenerKey>() == 20);
    assert!(size_of::<ListeningKey>() == 32);
    assert!(size_of::<Dial>() == 40);
    assert!(size_of::<Receiver>() == 24);
    assert!(size_of::<Guarded>() == 64);
    assert!(size_of::<Connection>() == 48);
    assert!(size_of::<Membership>() == 16);
    assert!(size_of::<Begun>() == 8);
    assert!(size_of::<Pair>() == 16);
    assert!(size_of::<Tally>() == 96);
};

/// Lets aya copy these types to and from maps.
#[cfg(feature = "user")]
#[allow(unsafe_code)]
mod user {
    use super::*;

    // SAFETY: each type is `repr(C)`, `Copy`, without references, and every bit pattern is valid:
    // they hold only fixed-width integers.
    unsafe impl aya::Pod for Address {}
    unsafe impl aya::Pod for Endpoint {}
    unsafe impl aya::Pod for Dial {}
    unsafe impl aya::Pod for Enrollment {}
    unsafe impl aya::Pod for Receiver {}
    unsafe impl aya::Pod for ListenerKey {}
    unsafe impl aya::Pod for ListeningKey {}
    unsafe impl aya::Pod for Flow {}
    unsafe impl aya::Pod for Published {}
    unsafe impl aya::Pod for Used {}
    unsafe impl aya::Pod for Guarded {}
    unsafe impl aya::Pod for Connection {}
    unsafe impl aya::Pod for Membership {}
    unsafe impl aya::Pod for Begun {}
    unsafe impl aya::Pod for Pair {}
    unsafe impl aya::Pod for Tally {}
}
