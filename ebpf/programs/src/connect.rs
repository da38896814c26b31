//! `cgroup/connect4` and `connect6`: an enrolled workload's connection to the mesh is turned to the
//! workload's own address, and its origin is kept on the socket.
//!
//! A process whose network namespace is neither a workload's nor outside by decision is a pod's about
//! which nothing is decided yet: it can't reach the mesh.
//!
//! Runs for every `connect()` on the node. UDP, what is outside by decision, and the agent's own dials
//! leave within a few instructions.

use core::mem::offset_of;

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::generated::{bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_setsockopt},
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use martlet_ebpf_shared::{
    ALL_OUTSIDE, Address, Dial, Endpoint, Enrollment, Event,
    decide::{self, Connect},
    limits::IN_FLIGHT,
};

use crate::{
    context::{load, load_v6, store, store_v6},
    failure, ledger,
    log::tell,
    maps::{DIALS, OUTSIDE, PEERS, RECEIVERS, USED, WORKLOADS, count},
    socket::Socket,
};

const PASS: i32 = 1;
/// The caller sees EPERM.
const REFUSE: i32 = 0;

const SOCK_STREAM: u32 = 1;
const IPPROTO_TCP: u32 = 6;
const SOL_SOCKET: i32 = 1;
const SO_BINDTODEVICE: i32 = 25;

const USER_IP4: usize = offset_of!(bpf_sock_addr, user_ip4);
const USER_IP6: usize = offset_of!(bpf_sock_addr, user_ip6);
const USER_PORT: usize = offset_of!(bpf_sock_addr, user_port);
const SOURCE_IP4: usize = offset_of!(bpf_sock, src_ip4);
const SOURCE_IP6: usize = offset_of!(bpf_sock, src_ip6);
const TYPE: usize = offset_of!(bpf_sock_addr, type_);
const PROTOCOL: usize = offset_of!(bpf_sock_addr, protocol);

/// A connection of an enrolled workload, or of a pod about which nothing is decided yet.
struct Attempt<'a> {
    socket: Socket,
    sock: *mut bpf_sock,
    /// The cookie of its network namespace.
    netns: u64,
    /// Where it stands: most connections go elsewhere than to the mesh, and need nothing of it.
    workload: &'a Enrollment,
}

#[cgroup_sock_addr(connect4)]
pub fn martlet_connect4(context: SockAddrContext) -> i32 {
    let attempt = match attempt(&context) {
        Ok(attempt) => attempt,
        Err(answer) => return answer,
    };
    let raw = context.sock_addr;
    let destination = Address::v4(load!(raw, USER_IP4));
    let bound = Address::v4(load!(attempt.sock, SOURCE_IP4));
    match verdict(&attempt, &bound, &destination, raw) {
        Ok((own, port)) => {
            // An own address of the family was asked for, so it is a v4-mapped one.
            store!(raw, USER_IP4, own.words[3]);
            store!(raw, USER_PORT, u32::from(port.to_be()));
            PASS
        }
        Err(answer) => answer,
    }
}

#[cgroup_sock_addr(connect6)]
pub fn martlet_connect6(context: SockAddrContext) -> i32 {
    let attempt = match attempt(&context) {
        Ok(attempt) => attempt,
        Err(answer) => return answer,
    };
    let raw = context.sock_addr;
    let destination = load_v6!(raw, USER_IP6);
    let bound = load_v6!(attempt.sock, SOURCE_IP6);
    match verdict(&attempt, &bound, &destination, raw) {
        Ok((own, port)) => {
            store_v6!(raw, USER_IP6, own);
            store!(raw, USER_PORT, u32::from(port.to_be()));
            PASS
        }
        Err(answer) => answer,
    }
}

/// The answer to give at once to what is not ours to decide about.
#[inline(always)]
fn attempt(context: &SockAddrContext) -> Result<Attempt<'_>, i32> {
    let raw = context.sock_addr;
    // Also called for UDP, and for raw sockets.
    if load!(raw, TYPE) != SOCK_STREAM || load!(raw, PROTOCOL) != IPPROTO_TCP {
        return Err(PASS);
    }
    // SAFETY: the context is that of a cgroup program, which this helper accepts.
    let netns = unsafe { bpf_get_netns_cookie(raw.cast()) };
    let workload = WORKLOADS.get_ptr(&netns);
    // SAFETY: entries are replaced as a whole and freed after a grace period.
    let workload = workload.map_or(&Enrollment::UNDECIDED, |workload| unsafe { &*workload });
    // Also while it is being enrolled: a pod that was outside until then runs on undisturbed.
    if workload.steered == 0 && is_outside(netns) {
        return Err(PASS);
    }
    // SAFETY: a plain field of the context.
    let sock = unsafe { (*raw).__bindgen_anon_1.sk };
    let socket = Socket::new(sock).ok_or(PASS)?;
    if let Some(dial) = socket.read(&DIALS) {
        return Err(agents(netns, dial));
    }
    Ok(Attempt { socket, sock, netns, workload })
}

/// The agent's own connections pass. Of those to the pod's applications no more than the pod's
/// quota may be in flight: one that is not published would show the application a wrong peer.
#[inline(always)]
fn agents(netns: u64, dial: Dial) -> i32 {
    // SAFETY: entries are freed after a grace period.
    let dialed = USED.get_ptr(&netns).map(|used| unsafe { (*used).dialed });
    if dial.shown.port != 0 && dialed.is_none_or(|dialed| dialed >= IN_FLIGHT) {
        count(Event::ConnectDialQuota);
        return REFUSE;
    }
    count(Event::ConnectAgent);
    PASS
}

#[inline(always)]
fn is_outside(netns: u64) -> bool {
    OUTSIDE.get_ptr(&netns).is_some() || OUTSIDE.get_ptr(&ALL_OUTSIDE).is_some()
}

/// Where to connect to instead, or the answer to give at once.
#[inline(always)]
fn verdict(
    attempt: &Attempt<'_>,
    bound: &Address,
    destination: &Address,
    raw: *mut bpf_sock_addr,
) -> Result<(Address, u16), i32> {
    let port = u16::from_be(load!(raw, USER_PORT) as u16);
    let member = ledger::membership(destination);
    let refused = || ledger::refused(attempt.workload.party, ledger::party(destination, &member));
    let owned = |address: &Address| {
        let receiver = RECEIVERS.get_ptr(address);
        // SAFETY: entries are replaced as a whole and freed after a grace period.
        receiver.is_some_and(|receiver| unsafe { (*receiver).netns } == attempt.netns)
    };
    let opens = |own: &Address| failure::fails_open(own, destination);
    match decide::connect(attempt.workload, bound, destination, member.member(), owned, opens) {
        Connect::Pass(event) => {
            // The socket may have been steered before and is now connected to somewhere else.
            attempt.socket.forget(&PEERS);
            tell(event, bound, destination, port);
            Err(PASS)
        }
        Connect::Refuse(event) => {
            refused();
            tell(event, bound, destination, port);
            Err(REFUSE)
        }
        Connect::Steer(own) => match steer(attempt, destination, port, raw) {
            Ok(steered) => {
                tell(Event::ConnectSteered, &own, destination, port);
                Ok((own, steered))
            }
            Err(event) => {
                refused();
                tell(event, &own, destination, port);
                Err(REFUSE)
            }
        },
    }
}

/// Keeps the origin; the port to connect to instead.
#[inline(always)]
fn steer(
    attempt: &Attempt<'_>,
    destination: &Address,
    port: u16,
    raw: *mut bpf_sock_addr,
) -> Result<u16, Event> {
    // SAFETY: plain fields of the socket, readable from this context.
    let (device, source_port) = unsafe { ((*attempt.sock).bound_dev_if, (*attempt.sock).src_port) };
    if device != 0 && !unbind_device(raw) {
        return Err(Event::ConnectDevice);
    }
    if attempt.socket.write(&PEERS, &Endpoint::new(*destination, port)).is_err() {
        return Err(Event::ConnectNoMemory);
    }
    // SAFETY: the helper has no conditions.
    let random = unsafe { bpf_get_prandom_u32() };
    Ok(decide::steer_port(random, source_port))
}

/// A socket bound to a device does not get the answers that arrive over the loopback device. Which
/// device the connection leaves by is no longer its own choice but the lane's.
#[inline(always)]
fn unbind_device(raw: *mut bpf_sock_addr) -> bool {
    let mut none = [0_u8; 4];
    let (value, length) = (none.as_mut_ptr().cast(), none.len() as i32);
    // SAFETY: the option value is a valid buffer of the given length.
    let failed = unsafe { bpf_setsockopt(raw.cast(), SOL_SOCKET, SO_BINDTODEVICE, value, length) };
    failed == 0
}
