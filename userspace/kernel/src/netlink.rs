//! Questions to the kernel over netlink(7), and the attributes of its answers.

use std::io::{self, Read as _, Write as _};

use socket2::{Domain, Protocol, Socket, Type};

use crate::Netns;

/// Message types and flags of include/uapi/linux/netlink.h.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
/// An answer also where there is nothing to say but that it is done.
pub const NLM_F_ACK: u16 = 4;
pub const NLM_F_DUMP: u16 = 0x300;
const NLA_F_NESTED: u16 = 1 << 15;

const HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;
/// As much as the kernel puts in one answer (netlink(7)).
const ANSWER: usize = 32 << 10;

/// Asks about one network namespace.
pub struct Netlink {
    socket: Socket,
}

impl Netlink {
    pub fn open(netns: &Netns, family: i32) -> io::Result<Self> {
        let protocol = Some(Protocol::from(family));
        let open = || Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, protocol);
        Ok(Self { socket: netns.run(open)? })
    }

    /// The bodies of all answers of a type.
    pub fn ask(&self, kind: u16, flags: u16, body: &[u8], wanted: u16) -> io::Result<Vec<Vec<u8>>> {
        let length = u32::try_from(HEADER + body.len()).map_err(io::Error::other)?;
        let mut request = Vec::with_capacity(HEADER + body.len());
        request.extend(length.to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        request.extend([0; 8]);
        request.extend(body);
        let mut socket = &self.socket;
        socket.write_all(&request)?;
        let mut answers = Vec::new();
        let mut buffer = vec![0; ANSWER];
        loop {
            let length = socket.read(&mut buffer)?;
            for (kind, body) in messages(&buffer[..length]) {
                match kind {
                    NLMSG_DONE => return Ok(answers),
                    NLMSG_ERROR => match number(body).unwrap_or(0).cast_signed() {
                        0 => return Ok(answers),
                        code => return Err(io::Error::from_raw_os_error(-code)),
                    },
                    _ if kind == wanted => answers.push(body.to_vec()),
                    _ => {}
                }
            }
            if flags & (NLM_F_DUMP | NLM_F_ACK) == 0 {
                return Ok(answers);
            }
        }
    }
}

/// An attribute as a request holds it.
pub fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(ATTRIBUTE_HEADER + value.len()).expect("attributes are short");
    let mut bytes = Vec::with_capacity(usize::from(length).next_multiple_of(4));
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// An attribute that holds others.
pub fn nested(kind: u16, attributes: &[u8]) -> Vec<u8> {
    attribute(kind | NLA_F_NESTED, attributes)
}

/// Type and body of each message; each begins at a multiple of four.
fn messages(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    parts(bytes, HEADER, |header| {
        let length = number(header)?;
        Some((usize::try_from(length).ok()?, u16::from_ne_bytes([header[4], header[5]])))
    })
}

/// The upper bits of an attribute's type say how it is encoded.
pub fn attributes_of(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    parts(bytes, ATTRIBUTE_HEADER, |header| {
        let length = u16::from_ne_bytes([header[0], header[1]]);
        Some((length.into(), u16::from_ne_bytes([header[2], header[3]]) & 0x3fff))
    })
}

fn parts(
    mut bytes: &[u8],
    header: usize,
    read: impl Fn(&[u8]) -> Option<(usize, u16)>,
) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (length, kind) = read(bytes.get(..header)?)?;
        let body = bytes.get(header..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

pub fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.first_chunk()?))
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}
