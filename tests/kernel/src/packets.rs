//! Packets made by hand, as who wants to get around the stack makes them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const SYN: u8 = 0x02;
pub const PUSH_ACK: u8 = 0x18;

/// To a port on which the callee listens, from one that nobody uses.
pub const PORT: u16 = 8080;
pub const SOURCE_PORT: u16 = 5555;

/// A packet that says of itself what it likes.
pub struct Ip<'a> {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    /// Options of IPv4, a multiple of four bytes.
    pub options: &'a [u8],
    /// Flags and offset of IPv4.
    pub fragment: u16,
    pub payload: &'a [u8],
}

impl<'a> Ip<'a> {
    pub fn new(source: IpAddr, destination: IpAddr, protocol: u8, payload: &'a [u8]) -> Self {
        Self { source, destination, protocol, options: &[], fragment: 0, payload }
    }

    pub fn bytes(&self) -> Vec<u8> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => self.v4(source, destination),
            (IpAddr::V6(source), IpAddr::V6(destination)) => self.v6(source, destination),
            _ => panic!("both ends are of one family"),
        }
    }

    fn v4(&self, source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
        let header = 20 + self.options.len();
        let mut bytes = vec![0x40 | (header / 4) as u8, 0];
        bytes.extend(((header + self.payload.len()) as u16).to_be_bytes());
        bytes.extend([0x12, 0x34]);
        bytes.extend(self.fragment.to_be_bytes());
        bytes.extend([64, self.protocol, 0, 0]);
        bytes.extend(source.octets());
        bytes.extend(destination.octets());
        bytes.extend(self.options);
        let sum = checksum(&bytes);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend(self.payload);
        bytes
    }

    fn v6(&self, source: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend((self.payload.len() as u16).to_be_bytes());
        bytes.extend([self.protocol, 64]);
        bytes.extend(source.octets());
        bytes.extend(destination.octets());
        bytes.extend(self.payload);
        bytes
    }
}

/// Its checksum is wrong: who forwards it does not look, and who sniffs neither.
pub fn tcp(flags: u8, payload: &[u8]) -> Vec<u8> {
    tcp_between(SOURCE_PORT, PORT, flags, payload)
}

pub fn tcp_between(source: u16, destination: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(source.to_be_bytes());
    bytes.extend(destination.to_be_bytes());
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    bytes.extend(payload);
    bytes
}

/// The first packet of a connection, as the stack itself would take it: its checksum is right
/// (RFC 9293, section 3.1).
pub fn opening(from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
    let mut segment = tcp_between(from.port(), to.port(), SYN, &[]);
    let length = segment.len() as u16;
    let pseudo = [&from.ip().octets()[..], &to.ip().octets(), &[0, TCP], &length.to_be_bytes()];
    let sum = checksum(&[&pseudo.concat()[..], &segment].concat());
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    Ip::new((*from.ip()).into(), (*to.ip()).into(), TCP, &segment).bytes()
}

pub fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(SOURCE_PORT.to_be_bytes());
    bytes.extend(port.to_be_bytes());
    bytes.extend((8 + payload.len() as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    bytes
}

/// An extension header of IPv6 without content, and what is behind it.
pub fn extended(next: u8, payload: &[u8]) -> Vec<u8> {
    // PadN over four bytes (RFC 8200, section 4.2).
    [&[next, 0, 1, 4, 0, 0, 0, 0], payload].concat()
}

/// A fragment header of IPv6, and what is behind it.
pub fn fragment6(next: u8, offset_and_flag: u16, payload: &[u8]) -> Vec<u8> {
    let [high, low] = offset_and_flag.to_be_bytes();
    [&[next, 0, high, low, 0, 0, 0x12, 0x34], payload].concat()
}

/// RFC 1071.
pub fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !(((sum & 0xffff) + (sum >> 16)) as u16)
}
