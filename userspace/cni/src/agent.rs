//! The node's agent, over its socket.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, IoSlice, Read as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use socket2::{Domain, MsgHdr, SockAddr, Socket, Type};
use thiserror::Error;

use crate::{
    limits,
    message::{Answer, Ask},
};

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum AgentError {
    #[error(
        "the node's agent is not there ({}: {source}); no pod has a network before it is",
        path.display()
    )]
    Away { path: PathBuf, source: io::Error },
    #[error("the node's agent does not answer: {0}")]
    Silent(#[source] io::Error),
    #[error("the node's agent answers what is not understood: {0}")]
    Strange(#[source] serde_json::Error),
}

/// Asks, with a network namespace if one is given, and waits for the answer, each at most for `patience`.
///
/// # Errors
///
/// There is no agent, or no answer.
pub fn ask(
    socket: &Path,
    ask: &Ask,
    netns: Option<&File>,
    patience: Duration,
) -> Result<Answer, AgentError> {
    let away = |source| AgentError::Away { path: socket.to_owned(), source };
    let stream = connect(socket, patience).map_err(away)?;
    let answer = exchange(stream, ask, netns).map_err(AgentError::Silent)?;
    serde_json::from_str(&answer).map_err(AgentError::Strange)
}

/// An agent that takes nothing off its queue is as good as none: the kernel waits for room there as
/// long as for room to write, and then says `EAGAIN`.
fn connect(path: &Path, patience: Duration) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(patience))?;
    socket.set_read_timeout(Some(patience))?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket)
}

fn exchange(socket: Socket, ask: &Ask, netns: Option<&File>) -> io::Result<String> {
    let line = serde_json::to_string(ask)? + "\n";
    let rights = netns.map(rights).unwrap_or_default();
    let text = [IoSlice::new(line.as_bytes())];
    let message = MsgHdr::new().with_buffers(&text);
    let sent = match rights.is_empty() {
        true => socket.sendmsg(&message, 0)?,
        false => socket.sendmsg(&message.with_control(&rights), 0)?,
    };
    let stream = UnixStream::from(OwnedFd::from(socket));
    io::Write::write_all(&mut &stream, &line.as_bytes()[sent..])?;
    let mut answer = String::new();
    BufReader::new(stream.take(limits::MESSAGE_BYTES as u64)).read_line(&mut answer)?;
    match answer.ends_with('\n') {
        true => Ok(answer),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// One descriptor as a control message: cmsg(3), unix(7). Length, level and type, and then it; padded
/// to whole words. The numbers are those of amd64 and arm64.
fn rights(file: &File) -> Vec<u8> {
    const SOL_SOCKET: i32 = 1;
    const SCM_RIGHTS: i32 = 1;
    let word = size_of::<usize>();
    let length = word + 2 * size_of::<i32>() + size_of::<i32>();
    let mut bytes = length.to_ne_bytes().to_vec();
    for part in [SOL_SOCKET, SCM_RIGHTS, file.as_raw_fd()] {
        bytes.extend(part.to_ne_bytes());
    }
    bytes.resize(length.next_multiple_of(word), 0);
    bytes
}
