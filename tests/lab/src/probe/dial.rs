//! The many ways in which a program can open a TCP connection.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpStream},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::Result;
use clap::{Args, ValueEnum};
use io_uring::{IoUring, opcode, types::Fd};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, SockAddr, Socket, Type};

#[derive(Args, Clone)]
pub struct Dial {
    /// The address and port to connect to.
    #[arg(long)]
    pub to: SocketAddr,
    #[arg(long, value_enum, default_value = "blocking")]
    pub how: How,
    /// The own address (and port, or 0) to bind to.
    #[arg(long)]
    pub from: Option<SocketAddr>,
    /// The interface to bind to (SO_BINDTODEVICE).
    #[arg(long)]
    pub device: Option<String>,
    #[arg(long, default_value_t = 20_000)]
    pub connect_timeout_ms: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum How {
    Blocking,
    Nonblocking,
    /// MSG_FASTOPEN: the first byte with the SYN, if there is a cookie.
    Fastopen,
    /// TCP_FASTOPEN_CONNECT: connect returns at once.
    FastopenConnect,
    IoUring,
    /// An IPv4 destination as `::ffff:a.b.c.d` on an IPv6 socket.
    Mapped,
    Mptcp,
}

/// Why there is no connection, and what it would have come from, if the kernel had chosen that.
pub struct Failed {
    pub error: io::Error,
    pub local: Option<SocketAddr>,
}

impl Dial {
    /// `first` goes along with fast open, and nowhere else.
    pub fn connect(&self, first: &[u8]) -> Result<(TcpStream, usize), Failed> {
        let socket = self.socket().map_err(|error| Failed { error, local: None })?;
        match self.connect_socket(&socket, first) {
            Ok(sent) => Ok((socket.into(), sent)),
            Err(error) => {
                let local = socket.local_addr().ok().and_then(|local| local.as_socket());
                Err(Failed { error, local: local.filter(|local| local.port() != 0) })
            }
        }
    }

    fn socket(&self) -> io::Result<Socket> {
        let to = self.destination();
        let protocol = (self.how == How::Mptcp).then(|| libc::IPPROTO_MPTCP.into());
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, protocol)?;
        socket.set_tcp_nodelay(true)?;
        if let Some(from) = self.from {
            socket.set_reuse_address(true)?;
            socket.bind(&from.into())?;
        }
        if let Some(device) = &self.device {
            socket.bind_device(Some(device.as_bytes()))?;
        }
        Ok(socket)
    }

    fn connect_socket(&self, socket: &Socket, first: &[u8]) -> io::Result<usize> {
        let (to, mut sent) = (self.destination(), 0);
        match self.how {
            How::Blocking | How::Mapped | How::Mptcp => {
                socket
                    .connect_timeout(&to.into(), Duration::from_millis(self.connect_timeout_ms))?;
            }
            How::Nonblocking => self.connect_nonblocking(socket, to)?,
            How::Fastopen => {
                sent = socket.send_to_with_flags(first, &to.into(), libc::MSG_FASTOPEN)?
            }
            How::FastopenConnect => {
                set_fastopen_connect(socket)?;
                socket.connect(&to.into())?;
            }
            How::IoUring => connect_by_ring(socket, to)?,
        }
        Ok(sent)
    }

    fn destination(&self) -> SocketAddr {
        match (self.how, self.to.ip()) {
            (How::Mapped, IpAddr::V4(v4)) => (v4.to_ipv6_mapped(), self.to.port()).into(),
            _ => self.to,
        }
    }

    fn connect_nonblocking(&self, socket: &Socket, to: SocketAddr) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        match socket.connect(&to.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
                let mut waiting =
                    [PollFd::new(std::os::fd::AsFd::as_fd(socket), PollFlags::POLLOUT)];
                let timeout =
                    PollTimeout::try_from(self.connect_timeout_ms).unwrap_or(PollTimeout::MAX);
                if poll(&mut waiting, timeout)? == 0 {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                if let Some(error) = socket.take_error()? {
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
        socket.set_nonblocking(false)
    }
}

#[allow(unsafe_code)]
fn set_fastopen_connect(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option takes one int, whose address and size are given.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_FASTOPEN_CONNECT,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[allow(unsafe_code)]
fn connect_by_ring(socket: &Socket, to: SocketAddr) -> io::Result<()> {
    let mut ring = IoUring::new(2)?;
    let address = SockAddr::from(to);
    let entry =
        opcode::Connect::new(Fd(socket.as_raw_fd()), address.as_ptr().cast(), address.len())
            .build();
    // SAFETY: socket and address outlive the wait for the only entry, just below.
    unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    let result = ring.completion().next().map(|done| done.result());
    match result {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(-error)),
        None => Err(io::ErrorKind::WouldBlock.into()),
    }
}

/// Ends with RST instead of FIN.
pub fn reset(stream: TcpStream) -> Result<()> {
    Socket::from(stream).set_linger(Some(Duration::ZERO))?;
    Ok(())
}
