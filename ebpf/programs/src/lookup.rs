//! `sk_lookup`, in each pod's network namespace: hands SYNs to the agent's listeners.
//!
//! Runs for SYNs only (and the ACK of a SYN cookie): other packets find their socket first. It also
//! runs when the guard looks for a socket and there is none. There
//! is neither a namespace cookie nor a socket here, so everything is found by the pod's address.
//! `ingress_ifindex` is of no use: for what arrives over the loopback device it names eth0.

use core::mem::offset_of;

use aya_ebpf::{bindings::bpf_sk_lookup, macros::sk_lookup, programs::SkLookupContext};
use martlet_ebpf_shared::{
    Address, Connection, Event, Flow, ListenerKey, ListeningKey, Plain, Receiver, Role,
    decide::{self, Arrival, Lookup},
    ledger::{Class, Party},
};

use crate::{
    context::{load, load_v6},
    failure, ledger,
    log::tell,
    maps::{ASKING, FOUND, LISTENERS, LISTENING, PLAIN, PUBLISHED, RECEIVERS},
};

const PASS: u32 = 1;
/// The peer gets a RST.
const DROP: u32 = 0;

const IPPROTO_TCP: u32 = 6;
const AF_INET: u32 = 2;

const FAMILY: usize = offset_of!(bpf_sk_lookup, family);
const PROTOCOL: usize = offset_of!(bpf_sk_lookup, protocol);
const REMOTE_IP4: usize = offset_of!(bpf_sk_lookup, remote_ip4);
const REMOTE_IP6: usize = offset_of!(bpf_sk_lookup, remote_ip6);
const REMOTE_PORT: usize = offset_of!(bpf_sk_lookup, remote_port);
const LOCAL_IP4: usize = offset_of!(bpf_sk_lookup, local_ip4);
const LOCAL_IP6: usize = offset_of!(bpf_sk_lookup, local_ip6);
const LOCAL_PORT: usize = offset_of!(bpf_sk_lookup, local_port);

/// In the namespace of a permissive pod.
#[sk_lookup]
pub fn martlet_lookup(context: SkLookupContext) -> u32 {
    lookup(&context, false)
}

/// In the namespace of a strict pod: refuses what arrives at addresses that nobody has declared.
#[sk_lookup]
pub fn martlet_lookup_strict(context: SkLookupContext) -> u32 {
    lookup(&context, true)
}

#[inline(always)]
fn lookup(context: &SkLookupContext, pod_strict: bool) -> u32 {
    let raw = context.lookup;
    if load!(raw, PROTOCOL) != IPPROTO_TCP {
        return PASS;
    }
    // SAFETY: the slot is this CPU's own and outlives the program.
    if ASKING.get_ptr(0).is_some_and(|asking| unsafe { asking.read_volatile() } != 0) {
        return DROP;
    }
    let (remote, local) = match load!(raw, FAMILY) {
        AF_INET => (Address::v4(load!(raw, REMOTE_IP4)), Address::v4(load!(raw, LOCAL_IP4))),
        _ => (load_v6!(raw, REMOTE_IP6), load_v6!(raw, LOCAL_IP6)),
    };
    // Network byte order in the lower half of the word.
    let source_port = u16::from_be(load!(raw, REMOTE_PORT) as u16);
    let port = load!(raw, LOCAL_PORT);
    match decide(remote, source_port, local, port as u16, pod_strict) {
        Lookup::Pass(event) => {
            tell(event, &remote, &local, port as u16);
            PASS
        }
        Lookup::Refuse(event) => {
            refused(remote, local, source_port, port as u16);
            tell(event, &remote, &local, port as u16);
            DROP
        }
        Lookup::Outbound => {
            assign(context, remote, local, source_port, port as u16, Role::Outbound)
        }
        Lookup::Inbound => assign(context, remote, local, source_port, port as u16, Role::Inbound),
    }
}

/// Decides where what is known ends: an arrival that is put together from two branches has fields
/// of which the verifier does not know that they were written.
#[inline(always)]
fn decide(
    remote: Address,
    source_port: u16,
    local: Address,
    port: u16,
    pod_strict: bool,
) -> Lookup {
    let receiver = receiver(&local);
    let arrival = Arrival {
        remote,
        local,
        port,
        pod_strict,
        published: None,
        strict: receiver.map(|receiver| receiver.strict != 0),
        member: None,
        listening: false,
        is_probe: false,
    };
    if remote == local {
        let flow = Flow { address: local, source_port, port };
        // SAFETY: as in `receiver`.
        let published = PUBLISHED.get_ptr(&flow).map(|published| unsafe { (*published).kind });
        return decide::lookup(&Arrival { published, ..arrival });
    }
    let member = ledger::membership(&remote).member();
    let listening = receiver.is_some_and(|receiver| listens(receiver.netns, &local, port));
    let is_probe = receiver.is_some_and(|receiver| is_probe(receiver.netns, &arrival, source_port));
    decide::lookup(&Arrival { member, listening, is_probe, ..arrival })
}

/// Whether the guard has just seen this SYN come from the prober. Each SYN that comes into the pod
/// writes or removes the entry of its connection, so none is there for a later look-alike.
#[inline(always)]
fn is_probe(netns: u64, arrival: &Arrival, source_port: u16) -> bool {
    let connection = Connection {
        netns,
        local: arrival.local,
        remote: arrival.remote,
        local_port: arrival.port,
        remote_port: source_port,
        padding: 0,
    };
    // SAFETY: maps are freed after a grace period.
    let Some(plain) = (unsafe { PLAIN.get(&netns) }) else { return false };
    // SAFETY: a number, as in the guard.
    plain.get_ptr(&connection).is_some_and(|began| unsafe { (*began).kind } == Plain::Probe as u32)
}

#[inline(always)]
fn receiver(local: &Address) -> Option<Receiver> {
    // SAFETY: entries are freed after a grace period.
    RECEIVERS.get_ptr(local).map(|receiver| unsafe { *receiver })
}

/// Counts a connection that goes no further: one that arrives, or one that a pod opens and that
/// was steered to the pod's own address.
#[inline(always)]
fn refused(remote: Address, local: Address, source_port: u16, port: u16) {
    let own = receiver(&local).map_or(Party::class(Class::Unknown), |receiver| receiver.party);
    if remote != local {
        return ledger::refused(party(&remote), own);
    }
    let flow = Flow { address: local, source_port, port };
    // SAFETY: as in `receiver`; an entry that is reused meanwhile gives another peer to one number.
    let peer = PUBLISHED.get_ptr(&flow).map(|published| unsafe { (*published).peer.address });
    ledger::refused(own, peer.map_or(Party::class(Class::Unknown), |address| party(&address)));
}

#[inline(always)]
fn party(address: &Address) -> Party {
    ledger::party(address, &ledger::membership(address))
}

/// Whether a socket of the namespace takes connections to an address and port.
#[inline(always)]
fn listens(netns: u64, local: &Address, port: u16) -> bool {
    let bound_to = |bound: Address| {
        let key = ListeningKey::new(netns, bound, port);
        LISTENING.get_ptr(&key).is_some() || FOUND.get_ptr(&key).is_some()
    };
    // A socket bound to `::` takes IPv4 too, unless it is IPv6 only, which is not known here; then
    // the agent finds nobody listening when it dials.
    bound_to(Address::UNSPECIFIED)
        || local.as_v4().is_some() && bound_to(Address::UNSPECIFIED_V4)
        || bound_to(*local)
}

/// Hands the SYN to the agent; without an agent there is no socket to hand it to, and it is refused
/// or, if the node fails open, the application's. What a pod opens itself was decided in `connect`.
#[inline(always)]
fn assign(
    context: &SkLookupContext,
    remote: Address,
    local: Address,
    source_port: u16,
    port: u16,
    role: Role,
) -> u32 {
    let key = ListenerKey { address: local, role: role as u32 };
    let (event, answer) = match (LISTENERS.redirect_sk_lookup(context, key, 0), role) {
        (Ok(()), Role::Outbound) => (Event::LookupOutbound, PASS),
        (Ok(()), Role::Inbound) => (Event::LookupInbound, PASS),
        (Err(_), Role::Inbound) if failure::fails_open(&local, &remote) => {
            (Event::LookupFailedOpen, PASS)
        }
        (Err(_), _) => {
            refused(remote, local, source_port, port);
            (Event::LookupRefusedNoAgent, DROP)
        }
    };
    tell(event, &remote, &local, port);
    answer
}
