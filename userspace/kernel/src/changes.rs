//! Whether interfaces, or the filters on them, have changed since one last looked: rtnetlink(7)
//! tells it, so that nobody has to read the whole list each time.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
    },
};

use crate::Netns;

/// `RTMGRP_LINK` and `RTMGRP_TC` of include/uapi/linux/rtnetlink.h.
const GROUPS: u32 = 1 | 8;
/// What is still queued after so many messages is left for the next look.
const MESSAGES: usize = 4096;

/// The news of one network namespace.
pub struct Changes {
    socket: OwnedFd,
}

impl Changes {
    pub fn open(netns: &Netns) -> io::Result<Self> {
        let open = || {
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            let route = SockProtocol::NetlinkRoute;
            let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, route)?;
            bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
            Ok(Self { socket })
        };
        netns.run(open)
    }

    /// Whether there was any change since the last call. Not being able to hear is one too: the
    /// kernel says so when the socket's buffer was too small.
    pub fn are_there(&self) -> bool {
        let (mut any, mut start) = (false, [0; 4]);
        for _ in 0..MESSAGES {
            match recv(self.socket.as_raw_fd(), &mut start, MsgFlags::empty()) {
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                _ => any = true,
            }
        }
        any
    }
}
