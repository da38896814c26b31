//! What another process of this node says over a Unix socket, with a descriptor that it passes.

use std::{
    fs::File,
    io::{self, IoSliceMut},
    os::fd::{AsRawFd, FromRawFd as _},
};

use nix::{
    cmsg_space,
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg},
};

/// Reads into `buffer`, as read(2) does, and takes the descriptor that came along; of several the
/// first. All others are closed.
#[allow(unsafe_code)]
pub fn receive_passed(
    socket: &impl AsRawFd,
    buffer: &mut [u8],
) -> io::Result<(usize, Option<File>)> {
    let (mut parts, mut space) = ([IoSliceMut::new(buffer)], cmsg_space!(i32));
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let received = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut files = Vec::new();
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = message {
            // SAFETY: the kernel has just made these descriptors for us, and nobody else knows their
            // numbers.
            files.extend(fds.into_iter().map(|fd| unsafe { File::from_raw_fd(fd) }));
        }
    }
    Ok((received.bytes, files.into_iter().next()))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{IoSlice, Read as _, Write as _},
        os::unix::net::UnixStream,
    };

    use nix::sys::socket::{ControlMessage, sendmsg};

    use super::*;

    fn pass(socket: &UnixStream, text: &[u8], files: &[&File]) {
        let fds: Vec<_> = files.iter().map(|file| file.as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let parts = [IoSlice::new(text)];
        sendmsg::<()>(socket.as_raw_fd(), &parts, &rights, MsgFlags::empty(), None).unwrap();
    }

    #[test]
    fn a_descriptor_comes_with_the_text_that_it_was_passed_with() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let passed = File::open("/proc/self/status").unwrap();
        pass(&theirs, b"one", &[&passed]);
        let mut buffer = [0; 16];
        let (count, file) = receive_passed(&ours, &mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"one");
        let mut text = String::new();
        file.unwrap().read_to_string(&mut text).unwrap();
        assert!(text.starts_with("Name:"), "{text}");
    }

    #[test]
    fn text_alone_brings_none_and_of_several_one_is_taken() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut buffer = [0; 16];
        theirs.write_all(b"two").unwrap();
        let (count, file) = receive_passed(&ours, &mut buffer).unwrap();
        assert_eq!((&buffer[..count], file.is_none()), (&b"two"[..], true));
        let passed = File::open("/proc/self/status").unwrap();
        pass(&theirs, b"3", &[&passed, &passed]);
        let (_, file) = receive_passed(&ours, &mut buffer).unwrap();
        // The kernel gives the lowest free numbers, so the second one would have the next.
        let next = File::open("/proc/self/status").unwrap();
        assert_eq!(next.as_raw_fd(), file.unwrap().as_raw_fd() + 1);
        drop(theirs);
        assert_eq!(receive_passed(&ours, &mut buffer).unwrap().0, 0, "nobody is there any more");
    }
}
