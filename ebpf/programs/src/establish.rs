//! `sock_ops`: publishes where a connection inside a pod belongs before its SYN leaves, attaches
//! that to the accepted socket, and keeps the list of ports on which applications listen; both
//! within the pod's quota.
//!
//! Inside a pod means: from the pod's own address to the same address. Everything else leaves at
//! the first comparison.

use core::mem::offset_of;

use aya_ebpf::{
    bindings::{
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
        BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_SOCK_OPS_TCP_LISTEN_CB, BPF_TCP_CLOSE, BPF_TCP_LISTEN,
        bpf_sock_ops,
    },
    helpers::generated::{bpf_get_netns_cookie, bpf_sock_ops_cb_flags_set},
    macros::sock_ops,
    programs::SockOpsContext,
};
use martlet_ebpf_shared::{
    Address, Endpoint, Event, Flow, ListeningKey, Published, Used, is_steer_port,
    limits::{IN_FLIGHT, PORTS},
};

use crate::{
    context::{load, load_v6},
    log::tell,
    maps::{
        DESERTED, DIALS, IF_MISSING, LISTENING, ORIGINS, PEERS, PUBLISHED, USED, WORKLOADS, add,
        number,
    },
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
const NEW_STATE: usize = OLD_STATE + size_of::<u32>();

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
        BPF_SOCK_OPS_STATE_CB if load!(raw, NEW_STATE) == BPF_TCP_CLOSE => close(raw),
        _ => {}
    }
    DONE
}

/// Runs in `connect()`, after the source port is chosen and before the SYN.
#[inline(always)]
fn publish(raw: *mut bpf_sock_ops) {
    let Some(address) = inside(raw) else { return };
    let Some(socket) = socket(raw) else { return };
    let (netns, port) = (netns(raw), remote_port(raw));
    let flow = Flow { address, source_port: load!(raw, LOCAL_PORT) as u16, port };
    // What is left from a connection that failed with the same ports is not about this one: its SYN
    // must rather find nothing, and be refused.
    forget(netns, &flow);
    let Some((published, event)) = to_publish(raw, socket, port) else { return };
    let event = store(netns, &flow, &published, event);
    if event as u32 != Event::PublishFailed as u32 && event as u32 != Event::PublishQuota as u32 {
        // Without it, what is published stays until the connection is accepted.
        watch(raw);
    }
    tell(event, &address, &published.peer.address, published.peer.port);
}

/// Publishes within the workload's quota.
#[inline(always)]
fn store(netns: u64, flow: &Flow, published: &Published, event: Event) -> Event {
    let Some(used) = USED.get_ptr_mut(&netns) else { return Event::PublishFailed };
    let used = in_flight(used, published.kind);
    // The agent's own have been counted in `connect`, where they can be refused without harm.
    if published.kind != Published::CLIENT && number(used) >= IN_FLIGHT {
        return Event::PublishQuota;
    }
    if PUBLISHED.insert(flow, published, IF_MISSING).is_err() {
        return Event::PublishFailed;
    }
    add(used, 1);
    event
}

/// Takes back what was published, if it is still there.
#[inline(always)]
fn forget(netns: u64, flow: &Flow) {
    let Some(published) = PUBLISHED.get_ptr(flow) else { return };
    // SAFETY: entries are freed after a grace period.
    let kind = unsafe { (*published).kind };
    remove(netns, flow, kind);
}

/// Whether there was something to remove: of several that try, exactly one counts it.
#[inline(always)]
fn remove(netns: u64, flow: &Flow, kind: u32) -> bool {
    let removed = PUBLISHED.remove(flow).is_ok();
    if removed && let Some(used) = USED.get_ptr_mut(&netns) {
        add(in_flight(used, kind), -1);
    }
    removed
}

/// The number of a workload's connections of a kind.
#[inline(always)]
fn in_flight(used: *mut Used, kind: u32) -> *mut u64 {
    // SAFETY: both are fields of the entry that the pointer leads to.
    match kind {
        Published::CLIENT => unsafe { &raw mut (*used).dialed },
        _ => unsafe { &raw mut (*used).opening },
    }
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
    let Some(address) = inside(raw) else { return };
    let flow = Flow { address, source_port: remote_port(raw), port: load!(raw, LOCAL_PORT) as u16 };
    let Some(published) = PUBLISHED.get_ptr(&flow) else { return };
    // SAFETY: entries are freed after a grace period.
    let published = unsafe { *published };
    // Removed before, it may have been another flow's by the time it was copied.
    if !remove(netns(raw), &flow, published.kind) {
        return;
    }
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

/// Runs when a connection that was published is closed: the last moment to take it back.
#[inline(always)]
fn close(raw: *mut bpf_sock_ops) {
    let Some(address) = inside(raw) else { return };
    let (source_port, port) = (load!(raw, LOCAL_PORT) as u16, remote_port(raw));
    forget(netns(raw), &Flow { address, source_port, port });
}

#[inline(always)]
fn listen(raw: *mut bpf_sock_ops) {
    let Some(key) = listener(raw) else { return };
    watch(raw);
    let event = match join(&key) {
        true => Event::ListenSeen,
        false => list(&key),
    };
    tell(event, &Address::UNSPECIFIED, &key.bound, key.port as u16);
}

/// One more socket on a port that is known.
#[inline(always)]
fn join(key: &ListeningKey) -> bool {
    let Some(sockets) = LISTENING.get_ptr_mut(key) else { return false };
    add(sockets, 1);
    // Or it was removed by a socket that ended just now on another CPU.
    LISTENING.get_ptr(key).is_some()
}

/// A port that is new, within the workload's quota.
#[inline(always)]
fn list(key: &ListeningKey) -> Event {
    let Some(used) = USED.get_ptr_mut(&key.netns) else { return Event::ListenLost };
    // SAFETY: a field of the entry that the pointer leads to.
    let ports = unsafe { &raw mut (*used).ports };
    if number(ports) >= PORTS {
        return Event::ListenQuota;
    }
    if LISTENING.insert(key, &1_u64, IF_MISSING).is_ok() {
        add(ports, 1);
        return Event::ListenSeen;
    }
    // Another CPU was faster, or there is no memory.
    if join(key) { Event::ListenSeen } else { Event::ListenLost }
}

#[inline(always)]
fn unlisten(raw: *mut bpf_sock_ops) {
    let Some(key) = listener(raw) else { return };
    let Some(sockets) = LISTENING.get_ptr_mut(&key) else { return };
    add(sockets, -1);
    let mut event = Event::ListenEnded;
    if number(sockets) as i64 <= 0 {
        if LISTENING.remove(&key).is_ok()
            && let Some(used) = USED.get_ptr_mut(&key.netns)
        {
            // SAFETY: a field of the entry that the pointer leads to.
            add(unsafe { &raw mut (*used).ports }, -1);
        }
        // A socket that began to listen meanwhile has counted itself in what is removed now.
        if number(sockets) as i64 > 0 {
            list(&key);
        } else if DESERTED.output(key, 0).is_err() {
            event = Event::ListenEndUntold;
        }
    }
    tell(event, &Address::UNSPECIFIED, &key.bound, key.port as u16);
}

/// Asks to be told of the socket's end.
#[inline(always)]
fn watch(raw: *mut bpf_sock_ops) {
    // Another program on the cgroup may want other callbacks of the socket.
    let callbacks = load!(raw, CALLBACKS) | BPF_SOCK_OPS_STATE_CB_FLAG;
    // SAFETY: the context is a sock_ops program's. Where it fails, the end of listening is not seen,
    // and the agent finds nobody listening when it dials.
    unsafe { bpf_sock_ops_cb_flags_set(raw, callbacks as i32) };
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
    let netns = netns(raw);
    WORKLOADS.get_ptr(&netns).map(|_| netns)
}

#[inline(always)]
fn netns(raw: *mut bpf_sock_ops) -> u64 {
    // SAFETY: the context is a sock_ops program's.
    unsafe { bpf_get_netns_cookie(raw.cast()) }
}

/// The address of a connection inside a pod: from that address to the same.
#[inline(always)]
fn inside(raw: *mut bpf_sock_ops) -> Option<Address> {
    let address = local_address(raw);
    (address == remote_address(raw) && !address.is_loopback()).then_some(address)
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
