//! A packet socket that sees all interfaces of the namespace in which it was opened.

use std::{io, mem, os::fd::AsRawFd, time::Duration};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, SockAddrStorage, Socket, Type};

use crate::limits;

#[derive(Debug)]
pub struct PacketSocket {
    socket: Socket,
}

pub struct Arrival {
    pub length: usize,
    pub interface: i32,
    pub is_outgoing: bool,
    pub is_loopback: bool,
}

/// How long one receive waits before the caller looks whether it should stop.
const RECEIVE: Duration = Duration::from_millis(10);

impl PacketSocket {
    #[allow(unsafe_code)]
    pub fn open() -> Result<PacketSocket> {
        // The protocol is in network byte order (packet(7)).
        let all = i32::from((libc::ETH_P_ALL as u16).to_be());
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(all)))
            .context("opening a packet socket")?;
        socket.set_read_timeout(Some(RECEIVE)).context("setting the sniffer's timeout")?;
        let size = limits::SNIFFER_BUFFER as libc::c_int;
        // SAFETY: the option takes one int, whose address and size are given. `FORCE` goes past the limit.
        let done = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVBUFFORCE,
                (&raw const size).cast(),
                mem::size_of_val(&size) as libc::socklen_t,
            )
        };
        if done != 0 {
            return Err(io::Error::last_os_error()).context("enlarging the sniffer's buffer");
        }
        Ok(PacketSocket { socket })
    }

    /// `None` when nothing has come for a while, or without waiting when nothing is there.
    #[allow(unsafe_code)]
    pub fn receive(&self, buffer: &mut [u8], waits: bool) -> Result<Option<Arrival>> {
        let mut storage = SockAddrStorage::zeroed();
        let mut size = storage.size_of();
        // SAFETY: buffer and address are valid for the lengths given, and outlive the call.
        let length = unsafe {
            libc::recvfrom(
                self.socket.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                if waits { 0 } else { libc::MSG_DONTWAIT },
                (&raw mut storage).cast(),
                &raw mut size,
            )
        };
        if length < 0 {
            return match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                error if error.kind() == io::ErrorKind::Interrupted => Ok(None),
                // An interface went down: the others go on.
                error if error.raw_os_error() == Some(libc::ENETDOWN) => Ok(None),
                error => Err(error).context("receiving a frame"),
            };
        }
        // SAFETY: the kernel fills a sockaddr_ll for packet sockets (packet(7)).
        let from = unsafe { storage.view_as::<libc::sockaddr_ll>() };
        Ok(Some(Arrival {
            length: usize::try_from(length)?,
            interface: from.sll_ifindex,
            is_outgoing: from.sll_pkttype == libc::PACKET_OUTGOING,
            is_loopback: from.sll_hatype == libc::ARPHRD_LOOPBACK,
        }))
    }

    /// Frames lost since the last call.
    #[allow(unsafe_code)]
    pub fn drops(&self) -> Result<u64> {
        let mut statistics = [0_u32; 2];
        let mut size = mem::size_of_val(&statistics) as libc::socklen_t;
        // SAFETY: the option fills struct tpacket_stats, two u32: packets and drops (packet(7)).
        let done = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut size,
            )
        };
        if done != 0 {
            return Err(io::Error::last_os_error()).context("reading the sniffer's counters");
        }
        Ok(statistics[1].into())
    }
}
