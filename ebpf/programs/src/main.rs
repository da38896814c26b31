//! The kernel half of Martlet: one file for each hook, in the order a connection meets them.
//!
//! `connect` steers, `establish` publishes and remembers, `lookup` hands to the agent's listeners,
//! `peername` shows applications the peer they asked for, and `guard` refuses the packets that got
//! around all of them. Each reads, asks `decide`, and acts; what passed and what did not is in the
//! `ledger`.

#![no_std]
#![no_main]
#![allow(unsafe_code)]
#![feature(asm_experimental_arch)]

mod connect;
mod context;
mod establish;
mod failure;
mod frame;
mod guard;
mod ledger;
mod log;
mod lookup;
mod maps;
mod peername;
mod socket;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The helpers that these programs use are offered to GPL-compatible programs only.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
