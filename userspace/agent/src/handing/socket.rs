//! The files of the Workload API's sockets. Everybody may reach them: who is answered is decided by
//! the network namespace of the connection.
//!
//! Directories stay, since they may be mounted into containers, where one that is made anew would
//! not be seen.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::Path,
};

use tokio::net::UnixListener;
use tracing::warn;

const DIRECTORY_MODE: u32 = 0o755;
const SOCKET_MODE: u32 = 0o666;

/// Makes the socket, and the two directories above it, whatever the process's umask.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    let namespace = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let all = namespace.parent().ok_or(io::ErrorKind::InvalidInput)?;
    for directory in [all, namespace] {
        match fs::create_dir(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => fs::set_permissions(directory, Permissions::from_mode(DIRECTORY_MODE))?,
        }
    }
    if !is_there(path) && path.exists() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    // In the place of an earlier one there is a socket at every moment.
    let beside = namespace.join(".new");
    if is_there(&beside) {
        fs::remove_file(&beside)?;
    }
    let listener = UnixListener::bind(&beside)?;
    fs::set_permissions(&beside, Permissions::from_mode(SOCKET_MODE))?;
    fs::rename(&beside, path)?;
    Ok(listener)
}

pub fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

pub fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            warn!(%error, socket = %path.display(), "a socket was not removed");
        }
        _ => {}
    }
}

/// Removes every socket but some; what is not there needs no removing.
pub fn clear(all: &Path, stays: impl Fn(&Path) -> bool) -> io::Result<()> {
    for namespace in entries(all)? {
        if namespace.file_type()?.is_dir() {
            for found in entries(&namespace.path())? {
                if found.file_type()?.is_socket() && !stays(&found.path()) {
                    fs::remove_file(found.path())?;
                }
            }
        }
    }
    Ok(())
}

fn entries(directory: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(directory) {
        Ok(found) => found.collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
