//! Frames of every kind, and what each is taken for.

extern crate std;

use std::{vec, vec::Vec};

use super::*;

/// A frame from 10.0.0.1 or fd::1 to 10.0.0.2 or fd::2.
struct Frame(Vec<u8>);

impl Bytes for Frame {
    fn read<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        self.0.get(at as usize..)?.first_chunk().copied()
    }

    fn words<const N: usize>(&self, at: u32) -> Option<[u32; N]> {
        let (words, _) = self.0.get(at as usize..)?.as_chunks();
        let words: Vec<_> = words.iter().copied().map(u32::from_ne_bytes).collect();
        words.first_chunk().copied()
    }

    fn length(&self) -> u32 {
        self.0.len() as u32
    }
}

fn ethernet(kind: u16, packet: &[u8]) -> Vec<u8> {
    [&[0; 12], &kind.to_be_bytes()[..], packet].concat()
}

fn v4_with(options: &[u8], fragment: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let header = 20 + options.len();
    let total = ((header + payload.len()) as u16).to_be_bytes();
    let [high, low] = fragment.to_be_bytes();
    let fixed = [0x40 | (header / 4) as u8, 0, total[0], total[1], 0, 0, high, low, 64, protocol];
    [&fixed[..], &[0, 0, 10, 0, 0, 1, 10, 0, 0, 2], options, payload].concat()
}

fn v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    ethernet(IPV4, &v4_with(&[], 0, protocol, payload))
}

fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u16).to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], next, 64];
    for end in [1, 2] {
        packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, end]);
    }
    packet.extend(payload);
    ethernet(IPV6, &packet)
}

fn tcp_with(flags: u8, options: usize, payload: &[u8]) -> Vec<u8> {
    let offset = (((20 + options) / 4) << 4) as u8;
    let mut header = vec![0x12, 0x34, 0x1f, 0x90, 0, 0, 0, 0, 0, 0, 0, 0, offset, flags];
    header.resize(20 + options, 1);
    header.extend(payload);
    header
}

const ACK: u8 = 0x10;

fn kind(frame: Vec<u8>) -> Kind {
    parse(&Frame(frame)).kind
}

fn by_both(protocol: u8, payload: &[u8]) -> Kind {
    let kind_v4 = kind(v4(protocol, payload));
    assert_eq!(kind(v6(protocol, payload)), kind_v4, "protocol {protocol} by IPv6");
    kind_v4
}

#[test]
fn who_sends_to_whom_is_read() {
    let segment = tcp_with(ACK, 0, b"x");
    let expected = |source, destination| Packet {
        source,
        destination,
        source_port: 0x1234,
        destination_port: 8080,
        kind: Kind::TcpPayload,
        payload: 1,
        sequence: 0,
    };
    let word = |octets| Address::v4(u32::from_ne_bytes(octets));
    let known = expected(word([10, 0, 0, 1]), word([10, 0, 0, 2]));
    assert_eq!(parse(&Frame(v4(6, &segment))), known);
    let six = |end| Address::from_octets([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, end]);
    assert_eq!(parse(&Frame(v6(6, &segment))), expected(six(1), six(2)));
    assert_eq!(parse(&Frame(v4(17, &segment))).destination_port, 8080);
}

#[test]
fn a_segment_has_payload_or_none() {
    for (flags, options, payload, expected) in [
        (SYN, 0, &b""[..], Kind::TcpSyn),
        (SYN, 20, b"", Kind::TcpSyn),
        (SYN | 0xc0, 20, b"", Kind::TcpSyn),
        (SYN, 20, b"x", Kind::TcpPayload),
        (SYN | ACK, 20, b"", Kind::TcpBare),
        (ACK, 12, b"", Kind::TcpBare),
        (ACK | 1, 12, b"", Kind::TcpBare),
        (4, 0, b"", Kind::TcpBare),
        (4, 0, b"x", Kind::TcpPayload),
        (0, 0, b"x", Kind::TcpPayload),
        (ACK, 40, b"x", Kind::TcpPayload),
    ] {
        let segment = tcp_with(flags, options, payload);
        assert_eq!(by_both(6, &segment), expected, "{flags:#x} {options} {payload:?}");
    }
}

#[test]
fn tags_and_headers_before_the_segment_hide_nothing() {
    let segment = tcp_with(ACK, 0, b"x");
    let packet = v4_with(&[], 0, 6, &segment);
    let tagged = [&[0, 5], &IPV4.to_be_bytes()[..], &packet].concat();
    assert_eq!(kind(ethernet(0x8100, &tagged)), Kind::TcpPayload);
    let twice = [&[0, 5], &0x8100_u16.to_be_bytes()[..], &tagged].concat();
    assert_eq!(kind(ethernet(0x88a8, &twice)), Kind::TcpPayload);
    let thrice = [&[0, 5], &0x88a8_u16.to_be_bytes()[..], &twice].concat();
    assert_eq!(kind(ethernet(0x88a8, &thrice)), Kind::Unreadable);
    assert_eq!(kind(ethernet(IPV4, &v4_with(&[1; 40], 0, 6, &segment))), Kind::TcpPayload);

    let extended = |next, inner: &[u8]| [&[next, 1], &[0; 14][..], inner].concat();
    assert_eq!(kind(v6(0, &extended(60, &extended(6, &segment)))), Kind::TcpPayload);
    let mut deep = segment.clone();
    for next in [6, 60, 60, 60, 60] {
        deep = extended(next, &deep);
    }
    assert_eq!(kind(v6(60, &deep)), Kind::Other, "too many headers are not followed");
    assert_eq!(kind(v6(43, &extended(6, &segment))), Kind::Other, "nor is a route");
}

#[test]
fn a_fragment_that_may_be_of_tcp_is_one() {
    let segment = tcp_with(ACK, 0, b"x");
    for fragment in [0x2000, 0x2001, 0x0001] {
        assert_eq!(kind(ethernet(IPV4, &v4_with(&[], fragment, 6, &segment))), Kind::Fragment);
        assert_eq!(kind(ethernet(IPV4, &v4_with(&[], fragment, 17, &segment))), Kind::Udp);
        assert_eq!(kind(ethernet(IPV4, &v4_with(&[], fragment, 1, &segment))), Kind::Control);
        assert_eq!(kind(ethernet(IPV4, &v4_with(&[], fragment, 132, &segment))), Kind::Other);
    }
    let do_not_fragment = v4_with(&[], 0x4000, 6, &segment);
    assert_eq!(kind(ethernet(IPV4, &do_not_fragment)), Kind::TcpPayload);
    let fragment = |next, offset: u8| [&[next, 0, offset, 0, 0, 0, 0, 0], &segment[..]].concat();
    for (next, expected) in [
        (6, Kind::Fragment),
        (60, Kind::Fragment),
        (43, Kind::Fragment),
        (44, Kind::Fragment),
        (17, Kind::Udp),
        (58, Kind::Control),
        (47, Kind::Tunnel),
    ] {
        // Also one that is whole: the kernel sends none.
        for offset in [0, 8] {
            assert_eq!(kind(v6(44, &fragment(next, offset))), expected, "{next} at {offset}");
        }
    }
}

#[test]
fn other_protocols_are_told_apart() {
    let datagram = |port: u16| [&[0, 1], &port.to_be_bytes()[..], &[0; 8]].concat();
    assert_eq!(by_both(17, &datagram(53)), Kind::Udp);
    for port in TUNNEL_PORTS {
        assert_eq!(by_both(17, &datagram(port)), Kind::Tunnel);
    }
    for protocol in [4, 41, 47, 137] {
        assert_eq!(by_both(protocol, &[0; 40]), Kind::Tunnel);
    }
    for protocol in [1, 2, 58] {
        assert_eq!(by_both(protocol, &[0; 8]), Kind::Control);
    }
    for protocol in [50, 51, 132, 136, 253] {
        assert_eq!(by_both(protocol, &[0; 8]), Kind::Other);
    }
    assert_eq!(kind(ethernet(ARP, &[0; 28])), Kind::Arp);
    for ether_type in [0x88cc, 0x8847, 0x8864, 0x1234] {
        assert_eq!(kind(ethernet(ether_type, &[0; 40])), Kind::Unreadable);
    }
}

#[test]
fn bytes_behind_the_packets_end_are_payload_unless_they_fill_up_the_frame() {
    let bare = v4(6, &tcp_with(ACK, 0, b""));
    let with = |extra: usize| kind([&bare[..], &[7; 64][..extra]].concat());
    assert_eq!(with(6), Kind::TcpBare, "60 bytes are the shortest frame");
    assert_eq!(with(10), Kind::TcpBare);
    assert_eq!(with(11), Kind::TcpPayload);
    // A packet beyond 64 KiB, still to be segmented, says no length.
    let mut jumbo = v4(6, &tcp_with(ACK, 0, b"x"));
    jumbo[16..18].fill(0);
    assert_eq!(kind(jumbo), Kind::TcpPayload);
}

#[test]
fn what_is_cut_short_or_contradicts_itself_is_unreadable() {
    for whole in [v4(6, &tcp_with(ACK, 0, b"")), v6(6, &tcp_with(ACK, 0, b""))] {
        for length in 0..whole.len() - 6 {
            assert_eq!(kind(whole[..length].to_vec()), Kind::Unreadable, "{length} bytes");
        }
    }
    let mut wrong = v4(6, &tcp_with(ACK, 0, b""));
    wrong[14] = 0x44;
    assert_eq!(kind(wrong), Kind::Unreadable, "a header of four words");
    let mut wrong = v4(6, &tcp_with(ACK, 0, b""));
    wrong[14] = 0x65;
    assert_eq!(kind(wrong), Kind::Unreadable, "IPv6 in a frame of IPv4");
    let mut wrong = tcp_with(ACK, 0, b"");
    wrong[12] = 0x40;
    assert_eq!(by_both(6, &wrong), Kind::Unreadable, "a TCP header of four words");
    wrong[12] = 0x60;
    assert_eq!(by_both(6, &wrong), Kind::Unreadable, "a TCP header beyond the packet");
}

#[test]
fn what_counts_as_payload_is_behind_the_headers() {
    let payload = |frame| parse(&Frame(frame)).payload;
    assert_eq!(payload(v4(6, &tcp_with(ACK, 12, b"seven b"))), 7);
    assert_eq!(payload(v6(6, &tcp_with(ACK, 0, b""))), 0);
    let datagram = [&[0x12, 0x34, 0, 53, 0, 12, 0, 0][..], b"four"].concat();
    assert_eq!(payload(v4(17, &datagram)), 4);
    assert_eq!(payload(v6(17, &datagram)), 4);
    assert_eq!(payload(v4(132, b"sctp")), 4);
    // What fills a short frame up is nobody's.
    let mut short = v4(6, &tcp_with(ACK, 0, b""));
    short.resize(60, 0);
    assert_eq!(payload(short), 0);
}
