//! The TCP connections of a network namespace, and their end by force, as sock_diag(7) does both.
//!
//! The kernel also says which sockets carry our storage, and so which are the agent's own.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd as _, BorrowedFd},
};

use crate::{
    Netns,
    netlink::{NLM_F_ACK, NLM_F_DUMP, Netlink, attribute, attributes_of, nested, number},
};

/// Message types and attributes of include/uapi/linux/{sock_diag,inet_diag}.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// Linux 5.7.
const INET_DIAG_REQ_SK_BPF_STORAGES: u16 = 2;
const SK_DIAG_BPF_STORAGE_REQ_MAP_FD: u16 = 1;
const INET_DIAG_SK_BPF_STORAGES: u16 = 20;
const SK_DIAG_BPF_STORAGE: u16 = 1;

/// States of include/net/tcp_states.h.
const ESTABLISHED: u8 = 1;
const SYN_SENT: u8 = 2;
const SYN_RECV: u8 = 3;
const FIN_WAIT1: u8 = 4;
const FIN_WAIT2: u8 = 5;
const CLOSE_WAIT: u8 = 8;
const LAST_ACK: u8 = 9;
const CLOSING: u8 = 11;
/// What a listening socket holds between SYN and ACK; it is reported as `SYN_RECV`.
const NEW_SYN_RECV: u8 = 12;
const CONNECTED: [u8; 9] = [
    ESTABLISHED,
    SYN_SENT,
    SYN_RECV,
    FIN_WAIT1,
    FIN_WAIT2,
    CLOSE_WAIT,
    LAST_ACK,
    CLOSING,
    NEW_SYN_RECV,
];

/// `struct inet_diag_sockid`, kept as the kernel gave it.
type Id = [u8; 48];
/// `struct inet_diag_msg`
const MESSAGE: usize = 72;

/// A connection, or one half made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// The SYN has come, and the ACK has not.
    pub is_half_open: bool,
    /// Whether it carries the storage that was asked for.
    pub is_marked: bool,
    family: u8,
    id: Id,
}

/// What came of an attempt to end a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Reset,
    /// It had ended by itself.
    Gone,
}

/// Asks about the sockets of one network namespace.
pub struct Sockets(Netlink);

impl Sockets {
    pub fn open(netns: &Netns) -> io::Result<Self> {
        Ok(Self(Netlink::open(netns, libc::NETLINK_SOCK_DIAG)?))
    }

    /// All connections of both families; those whose sockets have an entry in `storage` are marked.
    pub fn connections(&self, storage: BorrowedFd<'_>) -> io::Result<Vec<Socket>> {
        let states = CONNECTED.iter().fold(0_u32, |states, state| states | 1 << state);
        let map = attribute(SK_DIAG_BPF_STORAGE_REQ_MAP_FD, &storage.as_raw_fd().to_ne_bytes());
        let mut found = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut body = request(family as u8, states, &[0; 48]);
            body.extend(nested(INET_DIAG_REQ_SK_BPF_STORAGES, &map));
            let answers =
                self.0.ask(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, &body, SOCK_DIAG_BY_FAMILY)?;
            found.extend(answers.iter().filter_map(|answer| socket(answer)));
        }
        Ok(found)
    }

    /// Ends a connection: its application sees ECONNABORTED, its peer a RST. The kernel knows the
    /// socket by a cookie, so that a later one with the same addresses and ports is left alone.
    pub fn destroy(&self, socket: &Socket) -> io::Result<Ended> {
        let body = request(socket.family, 0, &socket.id);
        match self.0.ask(SOCK_DESTROY, NLM_F_ACK, &body, SOCK_DESTROY) {
            Ok(_) => Ok(Ended::Reset),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESTALE)) => {
                Ok(Ended::Gone)
            }
            Err(error) => Err(error),
        }
    }
}

/// Whether the kernel ends connections by force: `CONFIG_INET_DIAG_DESTROY`, Linux 4.5. Asked
/// about a connection that cannot be.
pub fn can_destroy() -> io::Result<bool> {
    let here = Netns::open(std::path::Path::new("/proc/thread-self/ns/net"));
    let sockets = Sockets::open(&here.map_err(io::Error::other)?)?;
    let body = request(libc::AF_INET as u8, 0, &[0; 48]);
    match sockets.0.ask(SOCK_DESTROY, NLM_F_ACK, &body, SOCK_DESTROY) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(true),
        Err(error) => Err(error),
        Ok(_) => Ok(true),
    }
}

/// `struct inet_diag_req_v2`
fn request(family: u8, states: u32, id: &Id) -> Vec<u8> {
    let mut body = vec![family, libc::IPPROTO_TCP as u8, 0, 0];
    body.extend(states.to_ne_bytes());
    body.extend(id);
    body
}

/// `None` also for what is left of a connection that its application has closed: nobody reads from
/// it, and whatever comes for it is answered with a RST.
fn socket(message: &[u8]) -> Option<Socket> {
    let (family, state) = (*message.first()?, *message.get(1)?);
    let id: Id = message.get(4..52)?.try_into().ok()?;
    let inode = number(message.get(MESSAGE - 4..MESSAGE)?)?;
    if state == FIN_WAIT2 && inode == 0 {
        return None;
    }
    let storages = attributes_of(&message[MESSAGE..])
        .find(|(kind, _)| *kind == INET_DIAG_SK_BPF_STORAGES)
        .map_or(&[][..], |(_, storages)| storages);
    Some(Socket {
        local: end(family, &id[4..20], &id[0..2])?,
        remote: end(family, &id[20..36], &id[2..4])?,
        // The other kind of this state, of fast open, has an application already.
        is_half_open: matches!(state, SYN_RECV | NEW_SYN_RECV) && inode == 0,
        is_marked: attributes_of(storages).any(|(kind, _)| kind == SK_DIAG_BPF_STORAGE),
        family,
        id,
    })
}

fn end(family: u8, address: &[u8], port: &[u8]) -> Option<SocketAddr> {
    let ip = match i32::from(family) {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::from(*address.first_chunk::<4>()?)),
        _ => IpAddr::V6(Ipv6Addr::from(*address.first_chunk::<16>()?)).to_canonical(),
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes(*port.first_chunk()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(family: u8, state: u8, local: &[u8], remote: &[u8], inode: u32) -> Vec<u8> {
        let mut message = vec![0; MESSAGE];
        (message[0], message[1]) = (family, state);
        message[4..8].copy_from_slice(&[0x1f, 0x90, 0xc3, 0x50]);
        message[8..8 + local.len()].copy_from_slice(local);
        message[24..24 + remote.len()].copy_from_slice(remote);
        message[MESSAGE - 4..].copy_from_slice(&inode.to_ne_bytes());
        message
    }

    #[test]
    fn a_socket_is_read_with_both_ends_and_its_mark() {
        let mut v4 = message(2, ESTABLISHED, &[10, 0, 0, 2], &[10, 0, 0, 1], 9);
        let plain = socket(&v4).unwrap();
        assert_eq!(plain.local, "10.0.0.2:8080".parse().unwrap());
        assert_eq!(plain.remote, "10.0.0.1:50000".parse().unwrap());
        assert!(!plain.is_marked && !plain.is_half_open);
        v4.extend(nested(INET_DIAG_SK_BPF_STORAGES, &nested(SK_DIAG_BPF_STORAGE, &[])));
        assert!(socket(&v4).unwrap().is_marked);
        let mut mapped = [0; 16];
        mapped[10..].copy_from_slice(&[255, 255, 10, 0, 0, 2]);
        let v6 = socket(&message(10, SYN_RECV, &mapped, &mapped, 0)).unwrap();
        assert_eq!(v6.local.ip(), "10.0.0.2".parse::<IpAddr>().unwrap());
        assert!(v6.is_half_open);
        for length in 0..v4.len() {
            let _ = socket(&v4[..length]);
        }
    }

    #[test]
    fn what_an_application_has_closed_is_no_connection_any_more() {
        let closed = message(2, FIN_WAIT2, &[10, 0, 0, 2], &[10, 0, 0, 1], 0);
        assert_eq!(socket(&closed), None);
        let half_closed = message(2, FIN_WAIT2, &[10, 0, 0, 2], &[10, 0, 0, 1], 9);
        assert!(socket(&half_closed).is_some());
    }
}
