//! The ledger's entries: who sent to whom, how it was protected, and how much.
//!
//! Entries are kept by party and not by address, so that an address that is given to another
//! workload takes nothing along.

use crate::Address;

/// One side of an entry: a workload by the number that the agent gives to its name, or a [`Class`].
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Party(pub u64);

/// Everything that is not one workload.
#[repr(u64)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// What found no room in the ledger.
    Others = 0,
    /// The node itself.
    Node = 1,
    /// RFC 1918, RFC 6598 (shared by carriers), RFC 4193 (unique local).
    Private = 2,
    LinkLocal = 3,
    Multicast = 4,
    /// Any other address.
    Public = 5,
    /// The virtual address of a service.
    Service = 6,
    /// No address, one that was forged, or that of a pod about which nothing is decided yet.
    Unknown = 7,
    /// Workloads that are gone and whose entries had to make room.
    Gone = 8,
}

/// The sender of bytes or the opener of connections, and the other side.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Pair {
    pub from: Party,
    pub to: Party,
}

/// How what was counted was protected; the number is the index into a [`Tally`].
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Column {
    /// The agent's, with another workload.
    Mtls = 0,
    /// TCP in plaintext that was let through.
    Plain = 1,
    /// TCP that was refused: seen by steering, or from outside the mesh, or forged.
    Refused = 2,
    /// TCP payload between mesh members in a connection that is not the agent's; refused.
    Unseen = 3,
    /// UDP and other protocols that were let through; their units are packets.
    OtherPassed = 4,
    /// UDP and other protocols that were refused; their units are packets.
    OtherRefused = 5,
}

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Amount {
    /// Payload of TCP and UDP, and of IP for other protocols.
    pub bytes: u64,
    /// Connections of TCP, packets of other protocols.
    pub units: u64,
}

/// By [`Column`]. Numbers only ever grow.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    pub columns: [Amount; Column::COUNT],
}

impl Party {
    /// Numbers of workloads have this bit, and numbers of classes don't.
    const WORKLOAD: u64 = 1 << 63;

    /// A workload, by a number that belongs to its name and to no other.
    pub const fn workload(number: u64) -> Self {
        Self(number | Self::WORKLOAD)
    }

    #[inline(always)]
    pub const fn is_workload(self) -> bool {
        self.0 & Self::WORKLOAD != 0
    }

    #[inline(always)]
    pub const fn class(class: Class) -> Self {
        Self(class as u64)
    }
}

impl Class {
    pub const ALL: [Class; 9] = [
        Class::Others,
        Class::Node,
        Class::Private,
        Class::LinkLocal,
        Class::Multicast,
        Class::Public,
        Class::Service,
        Class::Unknown,
        Class::Gone,
    ];

    /// What an address is that is neither the mesh's nor the node's.
    #[inline(always)]
    pub fn of(address: &Address) -> Self {
        match address.as_v4() {
            Some(word) => Self::of_v4(u32::from_be(word)),
            None => Self::of_v6(u32::from_be(address.words[0])),
        }
    }

    #[inline(always)]
    fn of_v4(address: u32) -> Self {
        match address {
            0x0a00_0000..=0x0aff_ffff
            | 0xac10_0000..=0xac1f_ffff
            | 0xc0a8_0000..=0xc0a8_ffff
            | 0x6440_0000..=0x647f_ffff => Class::Private,
            0xa9fe_0000..=0xa9fe_ffff => Class::LinkLocal,
            // With the limited broadcast.
            0xe000_0000..=0xefff_ffff | u32::MAX => Class::Multicast,
            _ => Class::Public,
        }
    }

    #[inline(always)]
    fn of_v6(first: u32) -> Self {
        match first >> 16 {
            0xfc00..=0xfdff => Class::Private,
            0xfe80..=0xfebf => Class::LinkLocal,
            0xff00..=0xffff => Class::Multicast,
            _ => Class::Public,
        }
    }
}

impl Pair {
    /// How many entries the ledger has room for: less than 12 MiB of kernel memory.
    pub const ROOM: u32 = 65_536;
    /// What finds no room is counted here; the agent makes the entry.
    pub const OTHERS: Pair =
        Pair { from: Party::class(Class::Others), to: Party::class(Class::Others) };
    /// Where the agent adds what made room.
    pub const GONE: Pair = Pair { from: Party::class(Class::Gone), to: Party::class(Class::Gone) };
}

impl Column {
    pub const COUNT: usize = 6;
}

impl Tally {
    pub const EMPTY: Tally = Tally { columns: [Amount { bytes: 0, units: 0 }; Column::COUNT] };

    pub fn of(&self, column: Column) -> Amount {
        self.columns[column as usize]
    }

    pub fn add(&mut self, other: &Tally) {
        for (sum, more) in self.columns.iter_mut().zip(other.columns) {
            sum.bytes = sum.bytes.saturating_add(more.bytes);
            sum.units = sum.units.saturating_add(more.units);
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::net::IpAddr;

    use super::*;

    fn class(text: &str) -> Class {
        Class::of(&Address::from_octets(match text.parse().unwrap() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        }))
    }

    #[test]
    fn an_address_outside_the_mesh_has_a_class() {
        for (addresses, wanted) in [
            (
                &["10.0.0.0", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.3.4"][..],
                Class::Private,
            ),
            (&["100.64.0.1", "100.127.255.255", "fc00::1", "fdff:1::1"], Class::Private),
            (&["169.254.0.1", "169.254.255.254", "fe80::1", "febf::1"], Class::LinkLocal),
            (&["224.0.0.251", "239.1.2.3", "255.255.255.255", "ff02::fb"], Class::Multicast),
            (
                &["9.255.255.255", "11.0.0.0", "172.15.0.1", "172.32.0.1", "192.169.0.1"],
                Class::Public,
            ),
            (&["100.63.0.1", "100.128.0.1", "8.8.8.8", "2001:db8::1", "fec0::1"], Class::Public),
        ] {
            for address in addresses {
                assert_eq!(class(address), wanted, "{address}");
            }
        }
    }

    #[test]
    fn workloads_and_classes_have_no_number_in_common() {
        for class in Class::ALL {
            assert!(!Party::class(class).is_workload());
            assert!(Party::workload(class as u64).is_workload());
        }
    }
}
