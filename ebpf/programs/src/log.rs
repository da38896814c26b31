//! A line for each verdict, for debugging. Off by default: the switch is a constant that the agent
//! sets before loading, so the verifier removes what is never reached.

use aya_ebpf::Global;
use aya_log_ebpf::info;
use martlet_ebpf_shared::{Address, Event};

use crate::maps::count;

/// 1: the agent reads lines.
#[unsafe(no_mangle)]
static VERBOSE: Global<u8> = Global::new(0);

/// Counts a verdict, and writes a line about it if the agent wants lines.
#[inline(always)]
pub fn tell(event: Event, from: &Address, to: &Address, port: u16) {
    count(event);
    if VERBOSE.load() != 0 {
        write(event as u32, from, to, port.into());
    }
}

/// One copy for each object, not for each verdict. The event is a number, since the target has no
/// tables of strings; the agent knows the names.
#[inline(never)]
fn write(event: u32, from: &Address, to: &Address, port: u32) {
    let (from, to) = (octets(from), octets(to));
    info!((), "{} {:i} {:i} {}", event, from, to, port);
}

#[inline(always)]
fn octets(address: &Address) -> [u8; 16] {
    // SAFETY: sixteen bytes as four words or as themselves, all of whose values are valid.
    unsafe { core::mem::transmute(address.words) }
}
