//! `sock_ops`: publishes where a connection inside a pod belongs before its SYN leaves, attaches
//! that to the accepted socket, and keeps the list of ports on which applications listen.
//!
//! Inside a pod means: from the pod's own address to the same address. Everything else leaves at
//! the first comparison.

use core::mem::offset_of;

use aya_ebpf::{
    bindings::{
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
        BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_SOCK_OPS_TCP_LISTEN_CB, BPF_TCP_LISTEN, bpf_sock_ops,
    },
    helpers::generated::{bpf_get_netns_cookie, bpf_sock_ops_cb_flags_set},
    macros::sock_ops,
    programs::SockOpsContext,
};
use martlet_ebpf_shared::{Address, Enrollment, Event, Flow, ListeningKey, Published};

use crate::{
    context::{load, load_v6},
    maps::{DIALS, LISTENING, ORIGINS, PEERS, PUBLISHED, WORKLOADS, add, count},
    socket::Socket,
};

const OP: usize = offset_of!(bpf_sock_ops, op);
const FAMILY: usize = offset_of!(bpf_sock_ops, family);
const REMOTE_IP4: usize = offset_of!(bpf_sock_ops, remote_ip4);
const LOCAL_IP4: usize = offset_of!(bpf_sock_ops, local_ip4);
const REMOTE_IP6: usize = offset_of!(bpf_sock_ops, remote_ip6);
const LOCAL_IP6: usize = offset_of!(bpf_sock_ops, local_ip6);
const REMOTE_PORT: usize = offset_of!(bpf_sock_ops, remote_port);
const LOCAL_PORT: usize = offset_of!(bpf_sock_ops, local_port);
const OLD_STATE: usize = offset_of!(bpf_sock_ops, __bindgen_anon_1);

const AF_INET: u32 = 2;

/// The kernel wants 1 from every `sock_ops` program; other values are reserved.
const DONE: u32 = 1;

#[sock_ops]
pub fn martlet_establish(context: SockOpsContext) -> u32 {
    let raw = context.ops;
    match load!(raw, OP) {
        BPF_SOCK_OPS_TCP_CONNECT_CB => publish(raw),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => attach(raw),
        BPF_SOCK_OPS_TCP_LISTEN_CB => listen(raw),
        BPF_SOCK_OPS_STATE_CB if load!(raw, OLD_STATE) == BPF_TCP_LISTEN => unlisten(raw),
        _ => {}
    }
    DONE
}

/// Runs in `connect()`, after the source port is chosen and before the SYN.
#[inline(always)]
fn publish(raw: *mut bpf_sock_ops) {
    let Some(socket) = socket(raw) else { return };
    let published = if let Some(origin) = socket.read(&PEERS) {
        Published { peer: origin, kind: Published::ORIGIN }
    } else if let Some(dial) = socket.read(&DIALS) {
        if dial.shown.port == 0 {
            return;
        }
        Published { peer: dial.shown, kind: Published::CLIENT }
    } else {
        return;
    };
    let flow = Flow {
        address: local_address(raw),
        source_port: load!(raw, LOCAL_PORT) as u16,
        port: remote_port(raw),
    };
    if PUBLISHED.insert(&flow, &published, 0).is_err() {
        // Then the SYN finds nothing published: the connection is the pod's own, to itself.
        count(Event::PublishFailed);
        return;
    }
    count(match published.kind {
        Published::ORIGIN => Event::PublishedOrigin,
        _ => Event::PublishedClient,
    });
}

/// Runs when an accepted connection is established, before `accept()` can return it. The current
/// task is nobody's here.
#[inline(always)]
fn attach(raw: *mut bpf_sock_ops) {
    let address = local_address(raw);
    if address != remote_address(raw) {
        return;
    }
    let flow = Flow { address, source_port: remote_port(raw), port: load!(raw, LOCAL_PORT) as u16 };
    let Some(published) = PUBLISHED.get_ptr(&flow) else { return };
    // SAFETY: the element of an LRU map may be reused for another flow while it is copied; then
    // this one was evicted, which the capacity makes a matter of tens of thousands in flight.
    let published = unsafe { *published };
    let _ = PUBLISHED.remove(&flow);
    let Some(socket) = socket(raw) else { return };
    let (stored, event) = match published.kind {
        Published::ORIGIN => (socket.write(&ORIGINS, &published.peer), Event::Intercepted),
        _ => (socket.write(&PEERS, &published.peer), Event::ClientShown),
    };
    // Without an origin the agent refuses the connection.
    count(if stored.is_ok() { event } else { Event::AttachFailed });
}

#[inline(always)]
fn listen(raw: *mut bpf_sock_ops) {
    let Some((workload, bound, port)) = listener(raw) else { return };
    // SAFETY: the context is a sock_ops program's. Without the flag the end of listening is not
    // seen, and the agent finds nobody listening when it dials.
    unsafe { bpf_sock_ops_cb_flags_set(raw, BPF_SOCK_OPS_STATE_CB_FLAG as i32) };
    each_address(&workload, &bound, |address| {
        let key = ListeningKey { address, port };
        let known = match LISTENING.get_ptr_mut(&key) {
            Some(sockets) => {
                add(sockets, 1);
                true
            }
            None => LISTENING.insert(&key, &1_u64, 0).is_ok(),
        };
        count(if known { Event::ListenSeen } else { Event::ListenLost });
    });
}

#[inline(always)]
fn unlisten(raw: *mut bpf_sock_ops) {
    let Some((workload, bound, port)) = listener(raw) else { return };
    each_address(&workload, &bound, |address| {
        let key = ListeningKey { address, port };
        let Some(sockets) = LISTENING.get_ptr_mut(&key) else { return };
        // SAFETY: entries are aligned and freed after a grace period.
        if unsafe { sockets.read_volatile() } > 1 {
            add(sockets, -1);
        } else {
            let _ = LISTENING.remove(&key);
        }
        count(Event::ListenEnded);
    });
}

/// The workload that a listening socket belongs to, its address and its port.
#[inline(always)]
fn listener(raw: *mut bpf_sock_ops) -> Option<(Enrollment, Address, u32)> {
    // SAFETY: the context is a sock_ops program's.
    let cookie = unsafe { bpf_get_netns_cookie(raw.cast()) };
    let workload = WORKLOADS.get_ptr(&cookie)?;
    // SAFETY: entries are replaced as a whole and freed after a grace period.
    Some((unsafe { *workload }, local_address(raw), load!(raw, LOCAL_PORT)))
}

/// Those of the workload's addresses at which a socket bound to `bound` is reached.
#[inline(always)]
fn each_address(workload: &Enrollment, bound: &Address, mut reached: impl FnMut(Address)) {
    let any_v6 = *bound == Address::UNSPECIFIED;
    let any_v4 = matches!(bound.as_v4(), Some(0));
    // An IPv6 socket bound to no address takes IPv4 too, unless it is IPv6 only, which cannot be
    // seen from here; then the agent finds nobody listening when it dials.
    if !workload.v4.is_unspecified() && (any_v4 || any_v6 || *bound == workload.v4) {
        reached(workload.v4);
    }
    if !workload.v6.is_unspecified() && (any_v6 || *bound == workload.v6) {
        reached(workload.v6);
    }
}

#[inline(always)]
fn socket(raw: *mut bpf_sock_ops) -> Option<Socket> {
    // SAFETY: a plain field of the context.
    Socket::new(unsafe { (*raw).__bindgen_anon_2.sk })
}

#[inline(always)]
fn local_address(raw: *mut bpf_sock_ops) -> Address {
    match load!(raw, FAMILY) {
        AF_INET => Address::v4(load!(raw, LOCAL_IP4)),
        _ => load_v6!(raw, LOCAL_IP6),
    }
}

#[inline(always)]
fn remote_address(raw: *mut bpf_sock_ops) -> Address {
    match load!(raw, FAMILY) {
        AF_INET => Address::v4(load!(raw, REMOTE_IP4)),
        _ => load_v6!(raw, REMOTE_IP6),
    }
}

/// The context holds it in network byte order in the upper half of the word.
#[inline(always)]
fn remote_port(raw: *mut bpf_sock_ops) -> u16 {
    u32::from_be(load!(raw, REMOTE_PORT)) as u16
}
