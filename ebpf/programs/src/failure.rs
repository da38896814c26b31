//! What becomes of the agent's connections on a node that fails open, while no agent lives: between
//! permissive workloads they pass in plaintext.
//!
//! Asked only about connections that would be the agent's, and when they begin. A node that fails
//! closed pays for one look into an empty map.

use core::ptr;

use aya_ebpf::helpers::generated::{bpf_map_lookup_elem, bpf_sk_release};
use martlet_ebpf_shared::{Address, Failure, decide};

use crate::{
    ledger,
    maps::{ALIVE, FAILURE, RECEIVERS},
};

/// Whether a connection between an address of a workload of this node and one of the mesh passes,
/// whichever end opens it.
#[inline(always)]
pub fn fails_open(own: &Address, remote: &Address) -> bool {
    if FAILURE.get_ptr(&Failure::OPEN).is_none() {
        return false;
    }
    // SAFETY: entries are replaced as a whole and freed after a grace period.
    let own = RECEIVERS.get_ptr(own).map(|receiver| unsafe { *receiver });
    decide::fails_open(own.as_ref(), &ledger::membership(remote), agent_lives())
}

/// Whether there is a process with the agent's socket: also one that hangs, or is stopped.
#[inline(always)]
fn agent_lives() -> bool {
    let map = ptr::from_ref(&ALIVE).cast_mut().cast();
    // SAFETY: the map's key is a number.
    let socket = unsafe { bpf_map_lookup_elem(map, ptr::from_ref(&0_u32).cast()) };
    if socket.is_null() {
        return false;
    }
    // SAFETY: the lookup gave a reference that is given back once, here.
    unsafe { bpf_sk_release(socket) };
    true
}
