//! From a frame to a TCP segment: Ethernet, IPv4 and IPv6.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

pub struct Segment<'a> {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub sequence: u32,
    pub is_syn: bool,
    pub is_fin: bool,
    pub is_reset: bool,
    pub payload: &'a [u8],
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TCP: u8 = 6;

impl Segment<'_> {
    /// `None` for whatever is not an unfragmented TCP segment.
    pub fn parse(frame: &[u8]) -> Option<Segment<'_>> {
        let packet = frame.get(14..)?;
        match u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]) {
            IPV4 => parse_v4(packet),
            IPV6 => parse_v6(packet),
            _ => None,
        }
    }
}

fn parse_v4(packet: &[u8]) -> Option<Segment<'_>> {
    let header = usize::from(packet.first()? & 0xf) * 4;
    let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    let fragment = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & 0x3fff;
    if *packet.get(9)? != TCP || fragment != 0 {
        return None;
    }
    let source = Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(12..16)?).ok()?);
    let destination = Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(16..20)?).ok()?);
    // A length of 0 is a packet beyond 64 KiB, still to be segmented.
    let end = if total == 0 { packet.len() } else { total };
    parse_tcp(
        packet.get(header..end)?,
        |port| (source, port).into(),
        |port| (destination, port).into(),
    )
}

fn parse_v6(packet: &[u8]) -> Option<Segment<'_>> {
    let length = usize::from(u16::from_be_bytes([*packet.get(4)?, *packet.get(5)?]));
    if *packet.get(6)? != TCP {
        return None;
    }
    let source = Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(8..24)?).ok()?);
    let destination = Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(24..40)?).ok()?);
    let end = if length == 0 { packet.len() } else { 40 + length };
    parse_tcp(packet.get(40..end)?, |port| (source, port).into(), |port| (destination, port).into())
}

fn parse_tcp(
    segment: &[u8],
    source: impl Fn(u16) -> SocketAddr,
    destination: impl Fn(u16) -> SocketAddr,
) -> Option<Segment<'_>> {
    let header: &[u8; 20] = segment.first_chunk()?;
    let flags = header[13];
    Some(Segment {
        source: source(u16::from_be_bytes([header[0], header[1]])),
        destination: destination(u16::from_be_bytes([header[2], header[3]])),
        sequence: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
        is_fin: flags & 0x01 != 0,
        is_syn: flags & 0x02 != 0,
        is_reset: flags & 0x04 != 0,
        payload: segment.get(usize::from(header[12] >> 4) * 4..)?,
    })
}
