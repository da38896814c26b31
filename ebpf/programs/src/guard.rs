//! tc, on the host's side of each enrolled pod's interface: packets that got around steering end
//! here, out of the pod's reach, and the ledger learns what passed and what did not.
//!
//! Who owns a connection is asked of the kernel's own table of sockets, in the pod's network
//! namespace: the agent's sockets carry storage that only the agent writes. So there is no list of
//! connections to keep, and a connection with the same addresses and ports inherits nothing.
//!
//! Most packets are the agent's, and bare acknowledgments: they take the shortest way.

use core::{cell::Cell, mem::offset_of};

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_NOEXIST, BPF_TCP_LISTEN, BPF_TCP_NEW_SYN_RECV, BPF_TCP_TIME_WAIT, bpf_sock,
        bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2,
    },
    helpers::generated::{
        bpf_get_listener_sock, bpf_sk_release, bpf_skb_ancestor_cgroup_id, bpf_skc_lookup_tcp,
    },
    macros::classifier,
    programs::TcContext,
};
use martlet_ebpf_shared::{
    Address, Begun, Connection, Dial, Endpoint, Event, Guarded, Membership, Plain,
    guard::{self, Direction, Known, Owner, Passage, Sender, Verdict},
    ledger::{Amount, Class, Column, Pair, Party},
    packet::{self, Kind, Packet},
};

use crate::{
    context::load,
    failure,
    frame::Frame,
    ledger,
    log::tell,
    maps::{ASKING, DIALS, GUARDED, PLAIN, PROBES, RECEIVERS, REFUSED, count},
    socket::Socket,
};

/// `TC_ACT_UNSPEC` and `TCX_NEXT`: other programs on the interface have their say too.
const PASS: i32 = -1;
/// `TC_ACT_SHOT` and `TCX_DROP`.
const DROP: i32 = 2;

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
    let is_own = *own(guarded, &packet.source) == packet.source;
    let is_honest = is_own == (direction == Direction::Out);
    // Half of all packets are bare acknowledgments, which pass whoever the other side is.
    if packet.kind == Kind::TcpBare && is_honest {
        return Verdict::Pass(Event::GuardBare);
    }
    let connection = connection(direction, packet, guarded);
    let strict = guarded.strict != 0;
    let known = Conversation {
        skb,
        connection: &connection,
        netns_id: guarded.netns_id,
        own: guarded.party,
        owner: Cell::new(None),
        lane: Cell::new(Lane::default()),
    };
    if packet.kind == Kind::TcpPayload && is_honest && known.is_agents(direction, strict) {
        return known.count_lane(direction, packet);
    }
    let remote = ledger::membership(&connection.remote);
    let forged = match direction {
        Direction::Out if is_own => false,
        Direction::Out => {
            let member = ledger::membership(&connection.local).member();
            guard::is_anothers(member, || is_receiver(guarded.netns, &connection.local))
        }
        Direction::In => is_own && !packet.source.is_unspecified(),
    };
    let member = remote.member();
    let refuses_udp = guarded.refuses_udp != 0;
    let passage =
        Passage { direction, kind: packet.kind, strict, refuses_udp, forged, remote: member };
    let mut verdict = guard::guard(&passage, &known);
    if known.owner.get() == Some(Owner::Agent) && verdict == Verdict::Pass(Event::GuardAgent) {
        return known.count_lane(direction, packet);
    }
    let mut column = guard::column(packet.kind, verdict, member.is_some());
    let mut units = 1;
    if packet.kind == Kind::TcpSyn && !forged {
        let began = guard::begins_plain(direction, strict, member, &known);
        if began.is_some() && member.is_some() {
            verdict = Verdict::Pass(Event::GuardFailedOpen);
        }
        if begin(&connection, began, packet.sequence) {
            column = Some(Column::Plain);
        }
    } else if matches!(column, Some(Column::Plain)) {
        units = 0;
    }
    if let Some(column) = column {
        if matches!(column, Column::Refused | Column::Unseen) && packet.kind != Kind::TcpSyn {
            units = refuse(&connection).into();
        }
        count_others(&known, direction, packet, guarded, &remote, forged, verdict, column, units);
    }
    verdict
}

/// What is not the agent's.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "all of it is on the stack of one program")]
fn count_others(
    known: &Conversation<'_>,
    direction: Direction,
    packet: &Packet,
    guarded: &Guarded,
    remote: &Membership,
    forged: bool,
    verdict: Verdict,
    column: Column,
    units: u64,
) {
    let address = &known.connection.remote;
    // Counted where it arrives, and may be refused still.
    let leaves = direction == Direction::Out && matches!(verdict, Verdict::Pass(_));
    if leaves && remote.kind != 0 && RECEIVERS.get_ptr(address).is_some() {
        return;
    }
    let peer = match remote {
        _ if forged && direction == Direction::In => Party::class(Class::Unknown),
        _ if packet.kind == Kind::Unreadable => Party::class(Class::Unknown),
        _ => ledger::party(address, remote),
    };
    let amount = Amount { bytes: packet.payload.into(), units };
    ledger::tally(&pair(direction, guarded.party, peer), column, amount);
}

#[inline(always)]
fn pair(direction: Direction, own: Party, peer: Party) -> Pair {
    match direction {
        Direction::Out => Pair { from: own, to: peer },
        Direction::In => Pair { from: peer, to: own },
    }
}

/// Looks for a socket without `sk_lookup`, which would only find listeners.
#[inline(always)]
fn quietly(ask: impl FnOnce() -> *mut bpf_sock) -> *mut bpf_sock {
    let asking = ASKING.get_ptr_mut(0);
    if let Some(asking) = asking {
        // SAFETY: here and below: the slot is this CPU's own and outlives the program.
        unsafe { asking.write_volatile(1) };
    }
    let found = ask();
    if let Some(asking) = asking {
        unsafe { asking.write_volatile(0) };
    }
    found
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

/// Whether a workload with this network namespace has the address.
#[inline(always)]
fn is_receiver(netns: u64, address: &Address) -> bool {
    // SAFETY: entries are freed after a grace period.
    RECEIVERS.get_ptr(address).is_some_and(|receiver| unsafe { (*receiver).netns } == netns)
}

/// A new connection inherits nothing from an older one with the same addresses and ports. Whether
/// it is plaintext whose SYN was not seen before.
#[inline(always)]
fn begin(connection: &Connection, began: Option<Plain>, sequence: u32) -> bool {
    // SAFETY: here and below: maps are freed after a grace period.
    let Some(plain) = (unsafe { PLAIN.get(&connection.netns) }) else { return began.is_some() };
    let _ = REFUSED.remove(connection);
    let Some(began) = began else {
        let _ = plain.remove(connection);
        return false;
    };
    let begun = Begun { kind: began as u32, sequence };
    // SAFETY: the element of an LRU map may be reused meanwhile: then a SYN counts twice.
    let is_again = plain.get_ptr(connection).is_some_and(|known| unsafe { *known } == begun);
    // Not stored, it is refused if the other side is enrolled while it lasts.
    let _ = plain.insert(connection, &begun, 0);
    !is_again
}

/// Whether this is the first payload of the connection that is refused.
#[inline(always)]
fn refuse(connection: &Connection) -> bool {
    REFUSED.insert(connection, &1, BPF_NOEXIST.into()).is_ok()
}

/// What the kernel knows about a packet's connection.
struct Conversation<'a> {
    skb: *mut __sk_buff,
    connection: &'a Connection,
    netns_id: u32,
    own: Party,
    /// Kept when it was asked for.
    owner: Cell<Option<Owner>>,
    /// Of an agent's connection, what its socket remembers.
    lane: Cell<Lane>,
}

/// An agent's connection, as the ledger counts it.
#[derive(Clone, Copy, Default)]
struct Lane {
    own: Party,
    peer: Party,
    /// The other side is a workload of this node.
    is_here: bool,
    is_first: bool,
}

impl Known for Conversation<'_> {
    #[inline(always)]
    fn owner(&self) -> Owner {
        if let Some(owner) = self.owner.get() {
            return owner;
        }
        let owner = self.look_up();
        self.owner.set(Some(owner));
        owner
    }

    #[inline(always)]
    fn began(&self) -> Option<Plain> {
        let plain = unsafe { PLAIN.get(&self.connection.netns) }?;
        // SAFETY: a number; at worst it is that of another connection for which the element of this
        // LRU map was used again in this moment.
        plain.get_ptr(self.connection).and_then(|begun| Plain::from_value(unsafe { (*begun).kind }))
    }

    #[inline(always)]
    fn sender(&self) -> Sender {
        let Connection { local, local_port, .. } = *self.connection;
        match PROBES.get_ptr(&Endpoint::new(local, local_port)) {
            // SAFETY: entries are freed after a grace period. No cgroup has the number 0.
            Some(cgroup) => match unsafe { *cgroup } {
                cgroup if cgroup != 0 && is_sent_from(self.skb, cgroup) => Sender::Prober,
                _ => Sender::NotProber,
            },
            None => Sender::Anybody,
        }
    }

    #[inline(always)]
    fn fails_open(&self) -> bool {
        failure::fails_open(&self.connection.local, &self.connection.remote)
    }
}

/// How deep below the root of all cgroups a prober's processes may be.
const CGROUP_LEVELS: i32 = 16;

/// Whether a packet's own socket was made in a cgroup or below it. The kernel sets a packet's socket
/// to the one that sends it, also for raw ones, and keeps it until the packet is received: what the
/// node forwards by its routes has none.
#[inline(always)]
fn is_sent_from(skb: *mut __sk_buff, cgroup: u64) -> bool {
    for level in 0..CGROUP_LEVELS {
        // SAFETY: the context is that of a tc program.
        let ancestor = unsafe { bpf_skb_ancestor_cgroup_id(skb, level) };
        if ancestor == cgroup || ancestor == 0 {
            return ancestor == cgroup;
        }
    }
    false
}

impl Conversation<'_> {
    /// Asked before anything else is: what leaves the pod still belongs to the socket that has sent
    /// it; what comes to a strict pod has to be looked up in any case.
    #[inline(always)]
    fn is_agents(&self, direction: Direction, strict: bool) -> bool {
        match direction {
            Direction::Out => self.is_from_agent(),
            Direction::In => strict && self.owner() == Owner::Agent,
        }
    }

    #[inline(always)]
    fn is_from_agent(&self) -> bool {
        // SAFETY: a plain field of the context.
        let sender = unsafe { (*self.skb).__bindgen_anon_2.sk };
        let Some(socket) = Socket::new(sender) else { return false };
        // The pod may have turned around what the agent gives to its application.
        socket.has_ends_of(self.connection) && self.belongs(socket)
    }

    /// Whether a connected socket is the agent's; what the ledger needs is kept.
    #[inline(always)]
    fn belongs(&self, socket: Socket) -> bool {
        let dial: *mut Dial = socket.find(&DIALS);
        if dial.is_null() {
            return false;
        }
        // SAFETY: here and below: a value of the map, which lives as long as the socket.
        let found = unsafe { (*dial).found };
        if found & Dial::KNOWN == 0 {
            self.meet(dial);
        }
        let found = unsafe { (*dial).found };
        let is_first = found & Dial::COUNTED == 0;
        if is_first {
            unsafe { (*dial).found = found | Dial::COUNTED };
        }
        let (own, peer) = unsafe { ((*dial).own, (*dial).peer) };
        self.lane.set(Lane { own, peer, is_here: found & Dial::HERE != 0, is_first });
        true
    }

    /// Once for each connection of the agent's.
    #[inline(always)]
    fn meet(&self, dial: *mut Dial) {
        let remote = &self.connection.remote;
        let is_here = RECEIVERS.get_ptr(remote).is_some();
        let found = Dial::KNOWN | if is_here { Dial::HERE } else { 0 };
        // SAFETY: as in `belongs`.
        unsafe {
            (*dial).own = self.own;
            (*dial).peer = ledger::party(remote, &ledger::membership(remote));
            (*dial).found = found;
        }
    }

    /// Between workloads of this node what leaves one is counted where it arrives.
    #[inline(always)]
    fn count_lane(&self, direction: Direction, packet: &Packet) -> Verdict {
        let Lane { own, peer, is_here, is_first } = self.lane.get();
        let (event, column) = guard::agents(peer);
        if !(direction == Direction::Out && is_here) {
            // What is plaintext was counted at its SYN.
            let units = (is_first && column == Column::Mtls).into();
            let amount = Amount { bytes: packet.payload.into(), units };
            ledger::tally(&pair(direction, own, peer), column, amount);
        }
        Verdict::Pass(event)
    }

    #[inline(always)]
    fn look_up(&self) -> Owner {
        // As the pod's socket would see what arrives for it.
        let Connection { local, remote, local_port, remote_port, .. } = *self.connection;
        let (sport, dport) = (remote_port.to_be(), local_port.to_be());
        let (tuple, length) = match (remote.as_v4(), local.as_v4()) {
            (Some(saddr), Some(daddr)) => {
                let ipv4 =
                    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 { saddr, daddr, sport, dport };
                (bpf_sock_tuple__bindgen_ty_1 { ipv4 }, size_of_val(&ipv4))
            }
            _ => {
                let (saddr, daddr) = (remote.words, local.words);
                let ipv6 =
                    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 { saddr, daddr, sport, dport };
                (bpf_sock_tuple__bindgen_ty_1 { ipv6 }, size_of_val(&ipv6))
            }
        };
        self.look_up_by(tuple, length as u32)
    }

    #[inline(always)]
    fn look_up_by(&self, tuple: bpf_sock_tuple__bindgen_ty_1, length: u32) -> Owner {
        let mut tuple = bpf_sock_tuple { __bindgen_anon_1: tuple };
        let (skb, netns) = (self.skb.cast(), u64::from(self.netns_id));
        // SAFETY: the tuple has at least the given length, which says the family.
        let ask = || unsafe { bpf_skc_lookup_tcp(skb, &raw mut tuple, length, netns, 0) };
        let found = quietly(ask);
        if found.is_null() {
            return Owner::Nobody;
        }
        let owner = self.owner_of(found);
        // SAFETY: the lookup gave a reference that is given back once, here.
        unsafe { bpf_sk_release(found.cast()) };
        owner
    }

    #[inline(always)]
    fn owner_of(&self, found: *mut bpf_sock) -> Owner {
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
            if !listener.is_some_and(|listener| listener.read(&DIALS).is_some()) {
                return Owner::Nobody;
            }
            // There is no socket yet that could remember. The connection itself is counted with
            // what follows.
            let remote = &self.connection.remote;
            let peer = ledger::party(remote, &ledger::membership(remote));
            self.lane.set(Lane { own: self.own, peer, is_here: false, is_first: false });
            return Owner::Agent;
        }
        match Socket::new(found) {
            Some(socket) if self.belongs(socket) => Owner::Agent,
            _ => Owner::Pod,
        }
    }
}
