//! `cgroup/getpeername4` and `getpeername6`: an application sees the peer it asked for, or the real
//! caller.
//!
//! The kernel runs these for `getpeername()` and for the address that `accept()` returns.

use core::mem::offset_of;

use aya_ebpf::{bindings::bpf_sock_addr, macros::cgroup_sock_addr, programs::SockAddrContext};
use martlet_ebpf_shared::{Endpoint, Event};

use crate::{
    context::{store, store_v6},
    maps::{PEERS, count},
    socket::Socket,
};

const PASS: i32 = 1;

const USER_IP4: usize = offset_of!(bpf_sock_addr, user_ip4);
const USER_IP6: usize = offset_of!(bpf_sock_addr, user_ip6);
const USER_PORT: usize = offset_of!(bpf_sock_addr, user_port);

#[cgroup_sock_addr(getpeername4)]
pub fn martlet_peername4(context: SockAddrContext) -> i32 {
    let raw = context.sock_addr;
    if let Some(peer) = peer(&context)
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
    if let Some(peer) = peer(&context) {
        store_v6!(raw, USER_IP6, peer.address);
        store!(raw, USER_PORT, u32::from(peer.port.to_be()));
        count(Event::PeernameShown);
    }
    PASS
}

#[inline(always)]
fn peer(context: &SockAddrContext) -> Option<Endpoint> {
    // SAFETY: a plain field of the context.
    Socket::new(unsafe { (*context.sock_addr).__bindgen_anon_1.sk })?.read(&PEERS)
}
