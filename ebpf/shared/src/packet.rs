//! What a packet is, as far as the guard must know: who to whom, and which kind.
//!
//! A packet that hides what it carries, by a tag, a header or a length that lies, is of a kind that
//! is refused where plaintext would be.

use crate::Address;

/// A frame, from its Ethernet header on.
pub trait Bytes {
    /// `None` beyond the frame's end.
    fn read<const N: usize>(&self, at: u32) -> Option<[u8; N]>;
    /// By words in the network's order, which is much quicker than by bytes.
    fn words<const N: usize>(&self, at: u32) -> Option<[u32; N]>;
    fn length(&self) -> u32;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Unspecified where the kind has no addresses.
    pub source: Address,
    pub destination: Address,
    /// 0 where the kind has no ports.
    pub source_port: u16,
    pub destination_port: u16,
    pub kind: Kind,
    /// Bytes behind the headers: of TCP and UDP, else of IP.
    pub payload: u32,
    /// Of TCP.
    pub sequence: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Arp,
    /// The first packet of a connection, without payload.
    TcpSyn,
    /// Any other TCP segment without payload.
    TcpBare,
    /// A TCP segment with payload, also a SYN.
    TcpPayload,
    /// A fragment that may be a part of a TCP segment. The kernel never makes one by itself: TCP
    /// sets DF and keeps below the path's MTU.
    Fragment,
    Udp,
    /// IP or Ethernet within IP: IPIP, 6in4, GRE, MPLS, and VXLAN and Geneve on their ports.
    Tunnel,
    /// ICMP, ICMPv6 with neighbor discovery, IGMP.
    Control,
    /// Another protocol over IP.
    Other,
    /// No IP and no ARP, or a header that makes no sense.
    Unreadable,
}

const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// IEEE 802.1Q and 802.1ad.
const VLAN: [u16; 2] = [0x8100, 0x88a8];
const MAX_TAGS: usize = 2;

/// IP protocol numbers (IANA, "Assigned Internet Protocol Numbers").
mod protocol {
    pub const HOP_BY_HOP: u8 = 0;
    pub const ICMP: u8 = 1;
    pub const IGMP: u8 = 2;
    pub const IPIP: u8 = 4;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const IPV6: u8 = 41;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const GRE: u8 = 47;
    pub const ICMPV6: u8 = 58;
    pub const DESTINATION: u8 = 60;
    pub const MPLS: u8 = 137;
}

/// VXLAN by IANA and by Linux, Geneve.
const TUNNEL_PORTS: [u16; 3] = [4789, 8472, 6081];

/// More headers than this before the protocol are not followed.
const MAX_EXTENSIONS: usize = 4;

/// A frame shorter than this is filled up with bytes that mean nothing (IEEE 802.3, and four for a
/// tag).
const SHORTEST_FRAME: u32 = 64;

const FIN_SYN_RST_ACK: u8 = 0x17;
const SYN: u8 = 0x02;

/// A packet's payload of IP.
struct Inner {
    source: Address,
    destination: Address,
    protocol: u8,
    at: u32,
    /// Where the packet ends by its own header.
    end: u32,
    is_fragment: bool,
}

#[inline(always)]
pub fn parse(bytes: &impl Bytes) -> Packet {
    match ether_type(bytes) {
        Some((ARP, _)) => without_addresses(Kind::Arp),
        Some((IPV4, at)) => v4(bytes, at).unwrap_or_else(unreadable),
        Some((IPV6, at)) => v6(bytes, at).unwrap_or_else(unreadable),
        _ => unreadable(),
    }
}

#[inline(always)]
fn unreadable() -> Packet {
    without_addresses(Kind::Unreadable)
}

#[inline(always)]
fn without_addresses(kind: Kind) -> Packet {
    let nobody = Address::UNSPECIFIED;
    Packet {
        source: nobody,
        destination: nobody,
        source_port: 0,
        destination_port: 0,
        kind,
        payload: 0,
        sequence: 0,
    }
}

/// The type behind all tags, and where what it names begins.
#[inline(always)]
fn ether_type(bytes: &impl Bytes) -> Option<(u16, u32)> {
    let mut at = 14;
    let mut kind = u16::from_be_bytes(bytes.read(12)?);
    for _ in 0..MAX_TAGS {
        if !VLAN.contains(&kind) {
            break;
        }
        kind = u16::from_be_bytes(bytes.read(at + 2)?);
        at += 4;
    }
    Some((kind, at))
}

/// RFC 791, section 3.1.
#[inline(always)]
fn v4(bytes: &impl Bytes, at: u32) -> Option<Packet> {
    let [first, second, third, source, destination] = bytes.words(at)?;
    let (first, second, third) = (u32::from_be(first), u32::from_be(second), u32::from_be(third));
    let words = first >> 24 & 0xf;
    if first >> 28 != 4 || words < 5 {
        return None;
    }
    let inside = Inner {
        source: Address::v4(source),
        destination: Address::v4(destination),
        protocol: (third >> 16) as u8,
        at: at + words * 4,
        end: end(bytes, at, first & 0xffff),
        // More fragments, or an offset.
        is_fragment: second & 0x3fff != 0,
    };
    inner(bytes, &inside)
}

/// RFC 8200, sections 3 and 4.
#[inline(always)]
fn v6(bytes: &impl Bytes, at: u32) -> Option<Packet> {
    let [first, second, a, b, c, d, e, f, g, h] = bytes.words(at)?;
    if u32::from_be(first) >> 28 != 6 {
        return None;
    }
    let second = u32::from_be(second);
    let total = match second >> 16 {
        0 => 0,
        length => length + 40,
    };
    let end = end(bytes, at, total);
    let (mut protocol, mut at, mut is_fragment) = ((second >> 8) as u8, at + 40, false);
    for _ in 0..MAX_EXTENSIONS {
        match protocol {
            protocol::HOP_BY_HOP | protocol::DESTINATION => {
                let [next, length] = bytes.read(at)?;
                protocol = next;
                at += (u32::from(length) + 1) * 8;
            }
            protocol::FRAGMENT => {
                // What is behind it is known only in the first fragment.
                [protocol] = bytes.read(at)?;
                is_fragment = true;
                break;
            }
            _ => break,
        }
    }
    let (source, destination) = (Address::v6([a, b, c, d]), Address::v6([e, f, g, h]));
    inner(bytes, &Inner { source, destination, protocol, at, end, is_fragment })
}

/// A length of 0 is a packet beyond 64 KiB that is still to be segmented.
///
/// Bytes behind the packet's end would be delivered to no socket but a packet socket: they count.
#[inline(always)]
fn end(bytes: &impl Bytes, at: u32, total: u32) -> u32 {
    let (end, length) = (at + total, bytes.length());
    let has_hidden = length > end && length > SHORTEST_FRAME;
    if total == 0 || has_hidden { length } else { end }
}

#[inline(always)]
fn inner(bytes: &impl Bytes, inner: &Inner) -> Option<Packet> {
    let may_be_tcp = match inner.protocol {
        protocol::TCP => true,
        // In a later fragment nobody knows what is behind such a header.
        protocol::HOP_BY_HOP | protocol::DESTINATION | protocol::ROUTING | protocol::FRAGMENT => {
            inner.is_fragment
        }
        _ => false,
    };
    if inner.is_fragment && may_be_tcp {
        return Some(portless(inner, Kind::Fragment));
    }
    match inner.protocol {
        protocol::TCP => tcp(bytes, inner),
        protocol::UDP if inner.is_fragment => Some(portless(inner, Kind::Udp)),
        protocol::UDP => udp(bytes, inner),
        protocol::ICMP | protocol::ICMPV6 | protocol::IGMP => Some(portless(inner, Kind::Control)),
        protocol::IPIP | protocol::IPV6 | protocol::GRE | protocol::MPLS => {
            Some(portless(inner, Kind::Tunnel))
        }
        _ => Some(portless(inner, Kind::Other)),
    }
}

#[inline(always)]
fn portless(inner: &Inner, kind: Kind) -> Packet {
    let (source, destination) = (inner.source, inner.destination);
    let payload = inner.end.saturating_sub(inner.at);
    Packet { source, destination, source_port: 0, destination_port: 0, kind, payload, sequence: 0 }
}

/// RFC 9293, section 3.1.
#[inline(always)]
fn tcp(bytes: &impl Bytes, inner: &Inner) -> Option<Packet> {
    let [ports, sequence, _, fourth] = bytes.words(inner.at)?;
    let (ports, fourth) = (u32::from_be(ports), u32::from_be(fourth));
    let words = fourth >> 28;
    let payload = inner.at + words * 4;
    if words < 5 || payload > inner.end {
        return None;
    }
    let kind = match (fourth >> 16) as u8 & FIN_SYN_RST_ACK {
        _ if payload < inner.end => Kind::TcpPayload,
        SYN => Kind::TcpSyn,
        _ => Kind::TcpBare,
    };
    Some(Packet {
        source_port: (ports >> 16) as u16,
        destination_port: ports as u16,
        payload: inner.end - payload,
        sequence: u32::from_be(sequence),
        ..portless(inner, kind)
    })
}

#[inline(always)]
fn udp(bytes: &impl Bytes, inner: &Inner) -> Option<Packet> {
    let [ports] = bytes.words(inner.at)?;
    let (source_port, destination_port) =
        ((u32::from_be(ports) >> 16) as u16, u32::from_be(ports) as u16);
    let kind = if TUNNEL_PORTS.contains(&destination_port) { Kind::Tunnel } else { Kind::Udp };
    let packet = portless(inner, kind);
    let payload = packet.payload.saturating_sub(8);
    Some(Packet { source_port, destination_port, payload, ..packet })
}

#[cfg(test)]
mod tests;
