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
use martlet_ebpf_shared::{Address, Endpoint, Event, Flow, ListeningKey, Published, is_steer_port};

use crate::{
    context::{load, load_v6},
    log::tell,
    maps::{DIALS, LISTENING, ORIGINS, PEERS, PUBLISHED, WORKLOADS, add},
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
const CALLBACKS: usize = offset_of!(bpf_sock_ops, bpf_sock_ops_cb_flags);
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
    let address = local_address(raw);
    if address != remote_address(raw) || address.is_loopback() {
        return;
    }
    let Some(socket) = socket(raw) else { return };
    let port = remote_port(raw);
    let flow = Flow { address, source_port: load!(raw, LOCAL_PORT) as u16, port };
    let Some((published, event)) = to_publish(raw, socket, port) else {
        // What is left from a connection that failed with the same ports is not about this one.
        let _ = PUBLISHED.remove(&flow);
        return;
    };
    let stored = PUBLISHED.insert(&flow, &published, 0).is_ok();
    if !stored {
        // The SYN must find nothing, and be refused, rather than what an earlier connection left.
        let _ = PUBLISHED.remove(&flow);
    }
    let event = if stored { event } else { Event::PublishFailed };
    tell(event, &address, &published.peer.address, published.peer.port);
}

#[inline(always)]
fn to_publish(raw: *mut bpf_sock_ops, socket: Socket, port: u16) -> Option<(Published, Event)> {
    if let Some(peer) = socket.read(&PEERS) {
        let published = Published { peer, kind: Published::ORIGIN };
        return Some((published, Event::PublishedOrigin));
    }
    if let Some(dial) = socket.read(&DIALS) {
        let published = Published { peer: dial.shown, kind: Published::CLIENT };
        return (dial.shown.port != 0).then_some((published, Event::PublishedClient));
    }
    // Said aloud, since a connection to such a port of which nothing is known is refused.
    if !is_steer_port(port) {
        return None;
    }
    workload(raw)?;
    let published = Published { peer: Endpoint::default(), kind: Published::OWN };
    Some((published, Event::PublishedOwn))
}

/// Runs when an accepted connection is established, before `accept()` can return it. The current
/// task is nobody's here.
#[inline(always)]
fn attach(raw: *mut bpf_sock_ops) {
    let address = local_address(raw);
    if address != remote_address(raw) || address.is_loopback() {
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
        Published::CLIENT => (socket.write(&PEERS, &published.peer), Event::ClientShown),
        _ => return,
    };
    // Without an origin the agent refuses the connection.
    let event = if stored.is_ok() { event } else { Event::AttachFailed };
    tell(event, &address, &published.peer.address, published.peer.port);
}

#[inline(always)]
fn listen(raw: *mut bpf_sock_ops) {
    let Some(key) = listener(raw) else { return };
    // Another program on the cgroup may want other callbacks of the socket.
    let callbacks = load!(raw, CALLBACKS) | BPF_SOCK_OPS_STATE_CB_FLAG;
    // SAFETY: the context is a sock_ops program's. Without the flag the end of listening is not
    // seen, and the agent finds nobody listening when it dials.
    unsafe { bpf_sock_ops_cb_flags_set(raw, callbacks as i32) };
    if let Some(sockets) = LISTENING.get_ptr_mut(&key) {
        add(sockets, 1);
    }
    // New, or removed by a socket that ended just now on another CPU.
    let known = LISTENING.get_ptr(&key).is_some() || LISTENING.insert(&key, &1_u64, 0).is_ok();
    let event = if known { Event::ListenSeen } else { Event::ListenLost };
    tell(event, &Address::UNSPECIFIED, &key.bound, key.port as u16);
}

#[inline(always)]
fn unlisten(raw: *mut bpf_sock_ops) {
    let Some(key) = listener(raw) else { return };
    let Some(sockets) = LISTENING.get_ptr_mut(&key) else { return };
    add(sockets, -1);
    // SAFETY: here and below: entries are aligned and freed after a grace period.
    if unsafe { sockets.read_volatile() } as i64 <= 0 {
        let _ = LISTENING.remove(&key);
        // A socket that began to listen meanwhile has counted itself in what is removed now.
        if unsafe { sockets.read_volatile() } as i64 > 0 {
            let _ = LISTENING.insert(&key, &1_u64, 0);
        }
    }
    tell(Event::ListenEnded, &Address::UNSPECIFIED, &key.bound, key.port as u16);
}

/// A listening socket of an enrolled workload.
#[inline(always)]
fn listener(raw: *mut bpf_sock_ops) -> Option<ListeningKey> {
    let netns = workload(raw)?;
    Some(ListeningKey::new(netns, local_address(raw), load!(raw, LOCAL_PORT) as u16))
}

/// The namespace's cookie, if it is an enrolled workload's.
#[inline(always)]
fn workload(raw: *mut bpf_sock_ops) -> Option<u64> {
    // SAFETY: the context is a sock_ops program's.
    let netns = unsafe { bpf_get_netns_cookie(raw.cast()) };
    WORKLOADS.get_ptr(&netns).map(|_| netns)
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
