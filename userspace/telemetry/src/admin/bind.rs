//! Taking the addresses: a stale socket is replaced, a live one never.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io,
    net::SocketAddr,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use thiserror::Error;
use tokio::net::{TcpListener, UnixListener, UnixStream};

use crate::limits;

#[derive(Debug, Error)]
pub enum AdminError {
    #[error("listening on {address} for metrics")]
    Tcp {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("{}: another agent is serving this socket; stop it, or choose another path", .0.display())]
    Served(PathBuf),
    #[error("{}: there is a file that is not a socket; remove it, or choose another path", .0.display())]
    NotASocket(PathBuf),
    #[error("{}: creating the directory of the admin socket", path.display())]
    Directory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{}: listening on the admin socket", path.display())]
    Socket {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The listening admin socket.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    file: SocketFile,
}

/// Removes the socket when dropped, unless somebody else has put theirs in its place, or will.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    device_and_inode: (u64, u64),
    stays: FileStays,
}

/// By this the file of a socket is left to another agent, which puts its own in its place.
#[derive(Debug, Clone, Default)]
pub struct FileStays(Arc<AtomicBool>);

impl FileStays {
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Takes the address for metrics and health. Needs a tokio runtime.
pub fn bind_tcp(address: SocketAddr) -> Result<TcpListener, AdminError> {
    let bind = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    bind().map_err(|source| AdminError::Tcp { address, source })
}

/// Takes the path of the admin socket. Needs a tokio runtime.
pub fn bind_socket(path: &Path) -> Result<AdminSocket, AdminError> {
    make_directory(path)?;
    make_way(path)?;
    let failed = |source| AdminError::Socket { path: path.to_owned(), source };
    let listener = listen(path).map_err(failed)?;
    admin_socket(listener, path).map_err(failed)
}

/// Takes the path from another agent that gives it up: there is no moment without a socket.
pub fn replace_socket(path: &Path) -> Result<AdminSocket, AdminError> {
    let failed = |source| AdminError::Socket { path: path.to_owned(), source };
    let replace = || {
        let beside = path.with_file_name(".new");
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = listen(&beside)?;
        fs::rename(&beside, path)?;
        admin_socket(listener, path)
    };
    replace().map_err(failed)
}

/// Takes a listener from another agent that has its file at this path: whoever waits there waits on.
pub fn inherit_socket(path: &Path, listener: OwnedFd) -> Result<AdminSocket, AdminError> {
    let failed = |source| AdminError::Socket { path: path.to_owned(), source };
    let listener = std::os::unix::net::UnixListener::from(listener);
    let inherit = move || {
        if !SockRef::from(&listener).is_listener()? {
            return Err(io::Error::other("what another agent has left does not listen"));
        }
        listener.set_nonblocking(true)?;
        admin_socket(UnixListener::from_std(listener)?, path)
    };
    inherit().map_err(failed)
}

fn admin_socket(listener: UnixListener, path: &Path) -> io::Result<AdminSocket> {
    let metadata = fs::symlink_metadata(path)?;
    let device_and_inode = (metadata.dev(), metadata.ino());
    let file = SocketFile { path: path.to_owned(), device_and_inode, stays: FileStays::default() };
    Ok(AdminSocket { listener, file })
}

fn make_directory(path: &Path) -> Result<(), AdminError> {
    let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty())
    else {
        return Ok(());
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| AdminError::Directory { path: directory.to_owned(), source })
}

/// Removes what an agent that died has left.
fn make_way(path: &Path) -> Result<(), AdminError> {
    let failed = |source| AdminError::Socket { path: path.to_owned(), source };
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(AdminError::NotASocket(path.to_owned()));
    }
    match try_connect(path) {
        Ok(()) => Err(AdminError::Served(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Does not wait: an agent with a full queue of connections lives too, and says so by `EAGAIN`.
fn try_connect(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        connected => connected,
    }
}

/// The mode is set before the socket has a name, so that there is no moment at which others can
/// connect: bind(2) gives the file the mode of the socket's own inode, less the umask:
/// `unix_bind_bsd` in <https://github.com/torvalds/linux/blob/v6.12/net/unix/af_unix.c>.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let unnamed = File::from(OwnedFd::from(Socket::new(Domain::UNIX, Type::STREAM, None)?));
    unnamed.set_permissions(Permissions::from_mode(0o600))?;
    let socket = Socket::from(OwnedFd::from(unnamed));
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(limits::ADMIN_BACKLOG)?;
    socket.set_nonblocking(true)?;
    UnixListener::from_std(socket.into())
}

impl AdminSocket {
    /// The next connection.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }

    pub fn stays(&self) -> FileStays {
        self.file.stays.clone()
    }

    /// The listener once more: what waits there waits until the last of them is closed.
    pub fn copy(&self) -> io::Result<OwnedFd> {
        self.listener.as_fd().try_clone_to_owned()
    }

    pub(super) fn into_parts(self) -> (UnixListener, SocketFile) {
        (self.listener, self.file)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == self.device_and_inode);
        if ours && !self.stays.0.load(Ordering::Acquire) {
            // What stays is replaced by the next agent as a stale socket.
            let _ = fs::remove_file(&self.path);
        }
    }
}
