//! tc, on the host's side of each enrolled pod's interface: packets that got around steering end
//! here, out of the pod's reach.
//!
//! Who owns a connection is asked of the kernel's own table of sockets, in the pod's network
//! namespace: the agent's sockets carry storage that only the agent writes. So there is no list of
//! connections to keep, and a connection with the same addresses and ports inherits nothing.

use core::mem::offset_of;

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_TCP_LISTEN, BPF_TCP_NEW_SYN_RECV, BPF_TCP_TIME_WAIT, bpf_sock,
        bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2,
    },
    helpers::generated::{
        bpf_get_listener_sock, bpf_sk_release, bpf_skb_load_bytes, bpf_skc_lookup_tcp,
    },
    macros::classifier,
    programs::TcContext,
};
use martlet_ebpf_shared::{
    Address, Connection, Event, Guarded, Plain,
    guard::{self, Direction, Known, Owner, Passage, Verdict},
    packet::{self, Bytes, Kind, Packet},
};

use crate::{
    context::load,
    log::tell,
    maps::{DIALS, GUARDED, MEMBERS, PLAIN, RECEIVERS, count},
    socket::Socket,
};

/// `TC_ACT_UNSPEC` and `TCX_NEXT`: other programs on the interface have their say too.
const PASS: i32 = -1;
/// `TC_ACT_SHOT` and `TCX_DROP`.
const DROP: i32 = 2;

const LENGTH: usize = offset_of!(__sk_buff, len);
const INTERFACE: usize = offset_of!(__sk_buff, ifindex);
const STATE: usize = offset_of!(bpf_sock, state);

/// Out of the pod, into the host.
#[classifier]
pub fn martlet_guard_out(context: TcContext) -> i32 {
    guard(context.skb.skb, Direction::Out)
}

/// From the host into the pod.
#[classifier]
pub fn martlet_guard_in(context: TcContext) -> i32 {
    guard(context.skb.skb, Direction::In)
}

struct Frame(*mut __sk_buff);

impl Bytes for Frame {
    #[inline(always)]
    fn read<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        // SAFETY: the helper writes N bytes, or none and fails.
        let failed =
            unsafe { bpf_skb_load_bytes(self.0.cast(), at, bytes.as_mut_ptr().cast(), N as u32) };
        (failed == 0).then_some(bytes)
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        load!(self.0, LENGTH)
    }
}

#[inline(always)]
fn guard(skb: *mut __sk_buff, direction: Direction) -> i32 {
    let packet = packet::parse(&Frame(skb));
    let interface = load!(skb, INTERFACE);
    let verdict = match GUARDED.get_ptr(&interface) {
        // SAFETY: entries are replaced as a whole and freed after a grace period.
        Some(guarded) => verdict(skb, direction, &packet, unsafe { &*guarded }),
        None => match packet.kind {
            Kind::Arp | Kind::Control => Verdict::Pass(Event::GuardControl),
            _ => Verdict::Refuse(Event::GuardUnknown),
        },
    };
    match verdict {
        Verdict::Pass(event) => {
            count(event);
            PASS
        }
        Verdict::Refuse(event) => {
            tell(event, &packet.source, &packet.destination, packet.destination_port);
            DROP
        }
    }
}

#[inline(always)]
fn verdict(
    skb: *mut __sk_buff,
    direction: Direction,
    packet: &Packet,
    guarded: &Guarded,
) -> Verdict {
    let connection = connection(direction, packet, guarded);
    // Half of all packets are bare acknowledgments, which pass whoever the other side is.
    let remote = match packet.kind {
        Kind::TcpBare => None,
        _ => member(&connection.remote),
    };
    let is_own = *own(guarded, &packet.source) == packet.source;
    let forged = match direction {
        Direction::Out if is_own => false,
        Direction::Out => guard::is_anothers(member(&connection.local), || {
            is_receiver(guarded.netns, &connection.local)
        }),
        Direction::In => is_own && !packet.source.is_unspecified(),
    };
    let strict = guarded.strict != 0;
    if packet.kind == Kind::TcpSyn && !forged {
        begin(&connection, guard::begins_plain(direction, strict, remote));
    }
    let passage = Passage { direction, kind: packet.kind, strict, forged, remote };
    let known = Conversation { skb, connection: &connection, netns_id: guarded.netns_id };
    guard::guard(&passage, &known)
}

#[inline(always)]
fn connection(direction: Direction, packet: &Packet, guarded: &Guarded) -> Connection {
    let Packet { source, destination, source_port, destination_port, .. } = *packet;
    let (local, remote, local_port, remote_port) = match direction {
        Direction::Out => (source, destination, source_port, destination_port),
        Direction::In => (destination, source, destination_port, source_port),
    };
    Connection { netns: guarded.netns, local, remote, local_port, remote_port, padding: 0 }
}

/// The pod's first address of the same family.
#[inline(always)]
fn own<'a>(guarded: &'a Guarded, like: &Address) -> &'a Address {
    match like.as_v4() {
        Some(_) => &guarded.v4,
        None => &guarded.v6,
    }
}

#[inline(always)]
fn member(address: &Address) -> Option<u32> {
    // SAFETY: here and below: entries are freed after a grace period.
    MEMBERS.get_ptr(address).map(|member| unsafe { *member })
}

/// Whether a workload with this network namespace has the address.
#[inline(always)]
fn is_receiver(netns: u64, address: &Address) -> bool {
    RECEIVERS.get_ptr(address).is_some_and(|receiver| unsafe { (*receiver).netns } == netns)
}

/// A new connection inherits nothing from an older one with the same addresses and ports.
#[inline(always)]
fn begin(connection: &Connection, began: Option<Plain>) {
    // SAFETY: here and below: maps are freed after a grace period.
    let Some(plain) = (unsafe { PLAIN.get(&connection.netns) }) else { return };
    // Not stored, it is refused if the other side is enrolled while it lasts.
    let _ = match began {
        Some(began) => plain.insert(connection, &(began as u32), 0),
        None => plain.remove(connection),
    };
}

/// What the kernel knows about a packet's connection.
struct Conversation<'a> {
    skb: *mut __sk_buff,
    connection: &'a Connection,
    netns_id: u32,
}

impl Known for Conversation<'_> {
    #[inline(always)]
    fn owner(&self) -> Owner {
        // As the pod's socket would see what arrives for it.
        let Connection { local, remote, local_port, remote_port, .. } = *self.connection;
        let (sport, dport) = (remote_port.to_be(), local_port.to_be());
        match (remote.as_v4(), local.as_v4()) {
            (Some(saddr), Some(daddr)) => {
                let ipv4 =
                    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 { saddr, daddr, sport, dport };
                let length = size_of_val(&ipv4);
                self.look_up(bpf_sock_tuple__bindgen_ty_1 { ipv4 }, length as u32)
            }
            _ => {
                let (saddr, daddr) = (remote.words, local.words);
                let ipv6 =
                    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 { saddr, daddr, sport, dport };
                let length = size_of_val(&ipv6);
                self.look_up(bpf_sock_tuple__bindgen_ty_1 { ipv6 }, length as u32)
            }
        }
    }

    #[inline(always)]
    fn began(&self) -> Option<Plain> {
        let plain = unsafe { PLAIN.get(&self.connection.netns) }?;
        // SAFETY: a number; at worst it is that of another connection for which the element of this
        // LRU map was used again in this moment.
        plain.get_ptr(self.connection).and_then(|began| Plain::from_value(unsafe { *began }))
    }
}

impl Conversation<'_> {
    #[inline(always)]
    fn look_up(&self, tuple: bpf_sock_tuple__bindgen_ty_1, length: u32) -> Owner {
        let mut tuple = bpf_sock_tuple { __bindgen_anon_1: tuple };
        let (skb, netns) = (self.skb.cast(), u64::from(self.netns_id));
        // SAFETY: the tuple has at least the given length, which says the family.
        let found = unsafe { bpf_skc_lookup_tcp(skb, &raw mut tuple, length, netns, 0) };
        if found.is_null() {
            return Owner::Nobody;
        }
        let owner = owner_of(found);
        // SAFETY: the lookup gave a reference that is given back once, here.
        unsafe { bpf_sk_release(found.cast()) };
        owner
    }
}

#[inline(always)]
fn owner_of(found: *mut bpf_sock) -> Owner {
    let state = load!(found, STATE);
    if state == BPF_TCP_LISTEN {
        return Owner::Nobody;
    }
    if state == BPF_TCP_TIME_WAIT {
        return Owner::Ended;
    }
    if state == BPF_TCP_NEW_SYN_RECV {
        // The caller's first bytes have overtaken its answer to the SYN-ACK.
        // SAFETY: the socket is not null; the listener lives as long as it does.
        let listener = Socket::new(unsafe { bpf_get_listener_sock(found) });
        let is_agents = listener.is_some_and(|listener| listener.read(&DIALS).is_some());
        return if is_agents { Owner::Agent } else { Owner::Nobody };
    }
    match Socket::new(found) {
        Some(socket) if socket.read(&DIALS).is_some() => Owner::Agent,
        _ => Owner::Pod,
    }
}
