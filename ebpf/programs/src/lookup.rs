//! `sk_lookup`, in each pod's network namespace: hands SYNs to the agent's listeners.
//!
//! Runs for SYNs only (and the ACK of a SYN cookie): other packets find their socket first. There
//! is neither a namespace cookie nor a socket here, so everything is found by the pod's address.
//! `ingress_ifindex` is of no use: for what arrives over the loopback device it names eth0.

use core::mem::offset_of;

use aya_ebpf::{bindings::bpf_sk_lookup, macros::sk_lookup, programs::SkLookupContext};
use martlet_ebpf_shared::{
    Address, Event, Flow, ListenerKey, ListeningKey, Role,
    decide::{self, Arrival, Lookup},
};

use crate::{
    context::{load, load_v6},
    maps::{LISTENERS, LISTENING, MEMBERS, PUBLISHED, RECEIVERS, count},
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

#[sk_lookup]
pub fn martlet_lookup(context: SkLookupContext) -> u32 {
    let raw = context.lookup;
    if load!(raw, PROTOCOL) != IPPROTO_TCP {
        return PASS;
    }
    let (remote, local) = match load!(raw, FAMILY) {
        AF_INET => (Address::v4(load!(raw, REMOTE_IP4)), Address::v4(load!(raw, LOCAL_IP4))),
        _ => (load_v6!(raw, REMOTE_IP6), load_v6!(raw, LOCAL_IP6)),
    };
    // Network byte order in the lower half of the word.
    let source_port = u16::from_be(load!(raw, REMOTE_PORT) as u16);
    let port = load!(raw, LOCAL_PORT);
    match decide::lookup(&arrival(remote, source_port, local, port)) {
        Lookup::Pass(event) => {
            count(event);
            PASS
        }
        Lookup::Refuse(event) => {
            count(event);
            DROP
        }
        Lookup::Outbound => assign(&context, local, Role::Outbound, Event::LookupOutbound),
        Lookup::Inbound => assign(&context, local, Role::Inbound, Event::LookupInbound),
    }
}

#[inline(always)]
fn arrival(remote: Address, source_port: u16, local: Address, port: u32) -> Arrival {
    let mut arrival =
        Arrival { remote, local, published: None, strict: None, member: None, listening: false };
    if remote == local {
        let flow = Flow { address: local, source_port, port: port as u16 };
        // SAFETY: here and below: entries are freed after a grace period.
        arrival.published = PUBLISHED.get_ptr(&flow).map(|published| unsafe { (*published).kind });
        return arrival;
    }
    let receiver = RECEIVERS.get_ptr(&local);
    arrival.strict = receiver.map(|receiver| unsafe { (*receiver).strict } != 0);
    arrival.member = MEMBERS.get_ptr(&remote).map(|member| unsafe { *member });
    arrival.listening = LISTENING.get_ptr(&ListeningKey { address: local, port }).is_some();
    arrival
}

/// Hands the SYN to the agent; without an agent there is no socket to hand it to.
#[inline(always)]
fn assign(context: &SkLookupContext, address: Address, role: Role, event: Event) -> u32 {
    let key = ListenerKey { address, role: role as u32 };
    if LISTENERS.redirect_sk_lookup(context, key, 0).is_err() {
        count(Event::LookupRefusedNoAgent);
        return DROP;
    }
    count(event);
    PASS
}
