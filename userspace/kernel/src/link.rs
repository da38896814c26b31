//! Links: attach and pin a program, or swap the program behind a link that is already pinned.
//!
//! A pinned link keeps its program attached when the agent dies. An agent that starts adopts it: it
//! puts its own program in place, without a moment in which none is attached.

use std::{
    collections::HashSet,
    fs, io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use aya::programs::links::FdLink;
use martlet_model::report::RepairKind;

use crate::{KernelError, bpf};

/// What a link is attached to, as the kernel numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The inode of the cgroup's directory.
    Cgroup(u64),
    /// The inode of the network namespace.
    Netns(u32),
    /// The number of the interface, in the agent's network namespace.
    Interface(u32),
}

impl Target {
    /// A link whose target has died, or that was detached, has the number 0.
    fn is(self, info: &bpf::Info) -> bool {
        match self {
            Target::Cgroup(id) => id == bytes_of(info.target),
            Target::Netns(number) | Target::Interface(number) => number == info.target[0],
        }
    }
}

/// Puts `program` behind the link pinned at `path`. `false` if there is no such link, or it leads
/// to something else than `target`, which may have died.
pub fn adopt(path: &Path, program: BorrowedFd<'_>, target: Target) -> Result<bool, KernelError> {
    let Some((link, _)) = attached(path, target)? else { return Ok(false) };
    match bpf::update(link.as_fd(), program) {
        Ok(()) => Ok(true),
        // The cgroup, network namespace or interface has died.
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(false),
        // Another kind of link is pinned there.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(source) => Err(KernelError::LinkUpdate { path: path.to_owned(), source }),
    }
}

/// Whether a link is pinned at `path` and a program of ours is attached to `target` by it.
pub fn is_attached(path: &Path, target: Target, program: u32) -> Result<bool, KernelError> {
    Ok(wrong(path, target, program)?.is_none())
}

/// What is wrong with the link that should be pinned at `path` and lead `program`, given by its
/// number, to `target`.
pub fn wrong(path: &Path, target: Target, program: u32) -> Result<Option<RepairKind>, KernelError> {
    Ok(match attached(path, target)? {
        None => Some(RepairKind::Link),
        Some((_, info)) if info.program != program => Some(RepairKind::Program),
        Some(_) => None,
    })
}

/// What is pinned at `path`, if it is attached to `target`.
fn attached(path: &Path, target: Target) -> Result<Option<(OwnedFd, bpf::Info)>, KernelError> {
    let found = bpf::open(path).and_then(|link| {
        let info = bpf::info(link.as_fd())?;
        Ok((link, info))
    });
    match found {
        Ok((link, info)) => Ok(target.is(&info).then_some((link, info))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(KernelError::Pin { path: path.to_owned(), source }),
    }
}

/// Pins a link, in the place of what was pinned at `path`: that one is detached only afterwards.
pub fn pin(link: FdLink, path: &Path) -> Result<(), KernelError> {
    let failed = |source| KernelError::Pin { path: path.to_owned(), source };
    let beside = beside(path);
    remove(&beside).map_err(failed)?;
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(failed)?;
    }
    link.pin(&beside).map_err(|error| failed(io::Error::other(error)))?;
    fs::rename(&beside, path).map_err(failed)
}

/// Where something is pinned before it takes a name. A bpffs takes no names with dots.
pub fn beside(path: &Path) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push("-new");
    PathBuf::from(beside)
}

/// Detaches a link and removes its pin; one that is not there is as good as removed.
///
/// Without its pin alone a link is detached only some time later.
pub fn unpin(path: &Path) -> Result<(), KernelError> {
    let failed = |source| KernelError::Pin { path: path.to_owned(), source };
    match bpf::open(path) {
        Ok(link) => {
            match bpf::detach(link.as_fd()) {
                // Somebody has pinned something else there, which is no link.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                detached => detached.map_err(failed)?,
            }
            remove(path).map_err(failed)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// Removes the links of pods other than these. A pod's have its cookie in their names, as
/// `program-cookie` or `program-cookie-interface`; the node's have none.
///
/// Which links a pod has is not always known otherwise: its interface's number may be another
/// pod's by now.
pub fn unpin_others(links: &Path, cookies: &HashSet<u64>) -> Result<(), KernelError> {
    let failed = |source| KernelError::Pin { path: links.to_owned(), source };
    for entry in fs::read_dir(links).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let cookie = name.to_str().and_then(|name| name.split('-').nth(1)?.parse().ok());
        if cookie.is_some_and(|cookie| !cookies.contains(&cookie)) {
            unpin(&entry.path())?;
        }
    }
    Ok(())
}

pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn bytes_of(words: [u32; 2]) -> u64 {
    let [a, b] = words.map(u32::to_ne_bytes);
    u64::from_ne_bytes([a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]])
}
