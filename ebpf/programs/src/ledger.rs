//! Counts who sent how much to whom, and how it was protected.

use aya_ebpf::bindings::BPF_NOEXIST;
use martlet_ebpf_shared::{
    Address, Event, Membership,
    ledger::{Amount, Class, Column, Pair, Party, Tally},
};

use crate::maps::{HOST, LEDGER, MEMBERS, add, count};

/// Adds to the pair's entry; every packet and connection is counted exactly once.
#[inline(always)]
pub fn tally(pair: &Pair, column: Column, more: Amount) {
    let Some(tally) = entry(pair) else { return };
    // SAFETY: the pointer is that of a map's value, and the column is one of its.
    let amount = unsafe { &raw mut (*tally).columns[column as usize] };
    // SAFETY: as above.
    let (bytes, units) = unsafe { (&raw mut (*amount).bytes, &raw mut (*amount).units) };
    if more.bytes != 0 {
        add(bytes, more.bytes as i64);
    }
    if more.units != 0 {
        add(units, more.units as i64);
    }
}

#[inline(always)]
fn entry(pair: &Pair) -> Option<*mut Tally> {
    if let Some(tally) = LEDGER.get_ptr_mut(pair) {
        return Some(tally);
    }
    // Another CPU may have made it meanwhile, which is as good.
    let _ = LEDGER.insert(pair, &Tally::EMPTY, BPF_NOEXIST.into());
    if let Some(tally) = LEDGER.get_ptr_mut(pair) {
        return Some(tally);
    }
    count(Event::LedgerFull);
    LEDGER.get_ptr_mut(&Pair::OTHERS)
}

/// Counts a connection that was refused before it carried anything.
#[inline(always)]
pub fn refused(from: Party, to: Party) {
    tally(&Pair { from, to }, Column::Refused, Amount { bytes: 0, units: 1 });
}

/// Whose an address of the mesh is; the default for one outside.
#[inline(always)]
pub fn membership(address: &Address) -> Membership {
    match MEMBERS.get_ptr(address) {
        // SAFETY: entries are replaced as a whole and freed after a grace period.
        Some(member) => unsafe { *member },
        None => Membership::default(),
    }
}

/// Whose an address is, as far as the mesh is known.
#[inline(always)]
pub fn party(address: &Address, member: &Membership) -> Party {
    if member.kind != 0 {
        return member.party;
    }
    Party::class(match HOST.get_ptr(address) {
        Some(_) => Class::Node,
        None => Class::of(address),
    })
}
