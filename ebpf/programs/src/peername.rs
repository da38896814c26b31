//! `cgroup/getpeername4` and `getpeername6`: an application sees the peer it asked for, or the real
//! caller.
//!
//! The kernel runs these for `getpeername()` and for the address that `accept()` returns.

use core::mem::offset_of;

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr},
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use martlet_ebpf_shared::{Address, Endpoint, Event};

use crate::{
    context::{load, load_v6, store, store_v6},
    maps::{PEERS, count},
    socket::Socket,
};

const PASS: i32 = 1;

const USER_IP4: usize = offset_of!(bpf_sock_addr, user_ip4);
const USER_IP6: usize = offset_of!(bpf_sock_addr, user_ip6);
const USER_PORT: usize = offset_of!(bpf_sock_addr, user_port);
const SOURCE_IP4: usize = offset_of!(bpf_sock, src_ip4);
const SOURCE_IP6: usize = offset_of!(bpf_sock, src_ip6);

#[cgroup_sock_addr(getpeername4)]
pub fn martlet_peername4(context: SockAddrContext) -> i32 {
    let raw = context.sock_addr;
    let real = Address::v4(load!(raw, USER_IP4));
    if let Some(peer) = peer(&context, &real, |sock| Address::v4(load!(sock, SOURCE_IP4)))
        && let Some(word) = peer.address.as_v4()
    {
        store!(raw, USER_IP4, word);
        store!(raw, USER_PORT, u32::from(peer.port.to_be()));
        count(Event::PeernameShown);
    }
    PASS
}

#[cgroup_sock_addr(getpeername6)]
pub fn martlet_peername6(context: SockAddrContext) -> i32 {
    let raw = context.sock_addr;
    let real = load_v6!(raw, USER_IP6);
    if let Some(peer) = peer(&context, &real, |sock| load_v6!(sock, SOURCE_IP6)) {
        store_v6!(raw, USER_IP6, peer.address);
        store!(raw, USER_PORT, u32::from(peer.port.to_be()));
        count(Event::PeernameShown);
    }
    PASS
}

/// Whom to show. Only a connection from the pod's address to itself has another peer than its real
/// one; a socket that was steered once and is used again after it failed has none.
#[inline(always)]
fn peer(
    context: &SockAddrContext,
    real: &Address,
    own: impl FnOnce(*mut bpf_sock) -> Address,
) -> Option<Endpoint> {
    // SAFETY: a plain field of the context.
    let sock = unsafe { (*context.sock_addr).__bindgen_anon_1.sk };
    let peer = Socket::new(sock)?.read(&PEERS)?;
    (own(sock) == *real).then_some(peer)
}
