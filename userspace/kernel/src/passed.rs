//! What another process of this node says over a Unix socket, with a descriptor that it passes.

use std::{fs::File, io, os::fd::AsFd};

use crate::passing;

/// Reads into `buffer`, as read(2) does, and takes the descriptor that came along; of several the
/// first. All others are closed.
pub fn receive_passed(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Option<File>)> {
    let (count, fds) = passing::receive(socket, buffer)?;
    Ok((count, fds.into_iter().next().map(File::from)))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{IoSlice, Read as _, Write as _},
        os::{fd::AsRawFd as _, unix::net::UnixStream},
    };

    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

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
