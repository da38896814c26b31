//! Sockets that the stack's own rules don't hold for, by system calls.

use std::{
    ffi::CString,
    io,
    mem::zeroed,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use libc::{c_int, c_void, socklen_t};

fn checked(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[allow(unsafe_code)]
fn socket(domain: c_int, kind: c_int, protocol: c_int) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the fd is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(checked(libc::socket(domain, kind, protocol))?) })
}

/// A whole IP packet, from this thread's network namespace.
pub fn send_packet(destination: IpAddr, packet: &[u8]) -> io::Result<()> {
    Packets::open(destination)?.send(packet)
}

/// Sends whole IP packets: many.
pub struct Packets {
    socket: OwnedFd,
    to: socket2::SockAddr,
}

impl Packets {
    /// From this thread's network namespace.
    pub fn open(destination: IpAddr) -> io::Result<Self> {
        let domain = if destination.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let socket = socket(domain, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
        // A port means nothing here, and must be 0 for IPv6.
        let to = socket2::SockAddr::from(SocketAddr::new(destination, 0));
        Ok(Self { socket, to })
    }

    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        send_to(&self.socket, packet, self.to.as_ptr().cast(), self.to.len())
    }
}

/// Lets whatever else wants to run before this thread.
#[allow(unsafe_code)]
pub fn be_last() -> io::Result<()> {
    // SAFETY: no pointers. 0 is this thread (setpriority(2), section C library/kernel differences).
    checked(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) }).map(drop)
}

/// A whole Ethernet frame, from an interface of this thread's network namespace.
pub fn send_frame(interface: &str, frame: &[u8]) -> io::Result<()> {
    Frames::open(interface)?.send(frame)
}

/// Sends whole Ethernet frames: many, since the kernel waits for a grace period when it closes one.
pub struct Frames {
    socket: OwnedFd,
    to: libc::sockaddr_ll,
}

impl Frames {
    /// From an interface of this thread's network namespace.
    #[allow(unsafe_code)]
    pub fn open(interface: &str) -> io::Result<Self> {
        let all = (libc::ETH_P_ALL as u16).to_be();
        let socket = socket(libc::AF_PACKET, libc::SOCK_RAW, c_int::from(all))?;
        let name = CString::new(interface)?;
        // SAFETY: all zeroes is a valid address; the name is a C string.
        let mut to: libc::sockaddr_ll = unsafe { zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_protocol = all;
        // SAFETY: as above.
        to.sll_ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) } as c_int;
        to.sll_halen = 6;
        Ok(Self { socket, to })
    }

    pub fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        self.to.sll_addr[..6].copy_from_slice(&frame[..6]);
        let to = (&raw const self.to).cast();
        send_to(&self.socket, frame, to, size_of_val(&self.to) as socklen_t)
    }
}

#[allow(unsafe_code)]
fn send_to(socket: &OwnedFd, bytes: &[u8], to: *const c_void, length: socklen_t) -> io::Result<()> {
    let (fd, start) = (socket.as_raw_fd(), bytes.as_ptr().cast());
    // SAFETY: the bytes and the address are valid for their lengths.
    let sent = unsafe { libc::sendto(fd, start, bytes.len(), 0, to.cast(), length) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The number of an interface of this thread's network namespace.
pub fn interface_index(interface: &str) -> io::Result<u32> {
    Ok(nix::net::if_::if_nametoindex(interface)?)
}

/// The Ethernet address of an interface of this thread's network namespace.
#[allow(unsafe_code)]
pub fn hardware_address(interface: &str) -> io::Result<[u8; 6]> {
    let socket = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    // SAFETY: all zeroes is a valid request.
    let mut request: libc::ifreq = unsafe { zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *place = byte.cast_signed();
    }
    // SAFETY: the request is one of this ioctl, and its name ends in NUL.
    checked(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFHWADDR, &raw mut request) })?;
    // SAFETY: the ioctl has filled this member.
    let data = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
    Ok(std::array::from_fn(|i| data[i].cast_unsigned()))
}

/// Sends a descriptor to this very process by SCM_RIGHTS (unix(7)); gives what arrives.
#[allow(unsafe_code)]
pub fn hand_over(socket: &socket2::Socket) -> io::Result<socket2::Socket> {
    let (here, there) = std::os::unix::net::UnixStream::pair()?;
    // SAFETY: all zeroes is a valid message.
    let (mut message, mut byte) = (unsafe { zeroed::<libc::msghdr>() }, 0_u8);
    let mut part = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    // Room for one header and one descriptor, aligned as a header is.
    let mut control = [0_u64; 4];
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    // SAFETY: it only computes; the room above is 32 bytes.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(size_of::<c_int>() as u32) } as usize;
    // SAFETY: the control buffer has room for the header and the descriptor, and outlives both calls.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<c_int>() as u32) as usize;
        libc::CMSG_DATA(header).cast::<c_int>().write_unaligned(socket.as_raw_fd());
        checked(libc::sendmsg(here.as_raw_fd(), &raw const message, 0) as c_int)?;
        checked(libc::recvmsg(there.as_raw_fd(), &raw mut message, 0) as c_int)?;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        assert!(!header.is_null(), "a descriptor arrives");
        Ok(socket2::Socket::from_raw_fd(libc::CMSG_DATA(header).cast::<c_int>().read_unaligned()))
    }
}

/// Connects and sends by io_uring: no system call of this process names the socket.
#[allow(unsafe_code)]
pub fn connect_by_ring(socket: &socket2::Socket, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
    let mut ring = io_uring::IoUring::new(2)?;
    let (fd, to) = (io_uring::types::Fd(socket.as_raw_fd()), socket2::SockAddr::from(to));
    let connect = io_uring::opcode::Connect::new(fd, to.as_ptr().cast(), to.len()).build();
    let send = io_uring::opcode::Send::new(fd, bytes.as_ptr(), bytes.len() as u32).build();
    for entry in [connect, send] {
        // SAFETY: socket, address and bytes outlive the wait for this entry, just below.
        unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
        ring.submit_and_wait(1)?;
        match ring.completion().next().map(|done| done.result()) {
            Some(error) if error < 0 => return Err(io::Error::from_raw_os_error(-error)),
            _ => {}
        }
    }
    Ok(())
}

/// An option that takes one int or several.
#[allow(unsafe_code)]
pub fn set_option<T: Into<Value>>(
    socket: &socket2::Socket,
    level: c_int,
    name: c_int,
    value: T,
) -> io::Result<()> {
    let Value(words, count) = value.into();
    let (pointer, length) = (words.as_ptr().cast(), (count * size_of::<c_int>()) as socklen_t);
    // SAFETY: the value is at least as long as said.
    checked(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, pointer, length) }).map(drop)
}

/// Words, and how many of them count.
pub struct Value([c_int; 5], usize);

impl From<c_int> for Value {
    fn from(value: c_int) -> Self {
        Self([value, 0, 0, 0, 0], 1)
    }
}

impl From<[c_int; 5]> for Value {
    fn from(value: [c_int; 5]) -> Self {
        Self(value, 5)
    }
}
