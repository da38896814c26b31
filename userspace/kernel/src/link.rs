//! Links: attach and pin a program, or swap the program behind a link that is already pinned.
//!
//! A pinned link keeps its program attached when the agent dies. An agent that starts adopts it: it
//! puts its own program in place, without a moment in which none is attached. While the agent lives
//! it holds its links open too, so that none is detached when somebody removes pins.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
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

/// The links of this process, by the paths where they are pinned.
#[derive(Debug, Default)]
pub struct Links(Mutex<HashMap<PathBuf, OwnedFd>>);

impl Links {
    /// Puts `program` behind the link pinned at `path`, and pins it again if its pin is gone.
    /// `false` if there is no such link, or it leads to something else than `target`, which may
    /// have died.
    pub fn adopt(
        &self,
        path: &Path,
        program: BorrowedFd<'_>,
        target: Target,
    ) -> Result<bool, KernelError> {
        let link = match attached(path, target)? {
            Some((link, _)) => link,
            None => match self.pin_again(path, target)? {
                Some(link) => link,
                None => return Ok(false),
            },
        };
        match bpf::update(link.as_fd(), program) {
            Ok(()) => {
                self.held().insert(path.to_owned(), link);
                Ok(true)
            }
            // The cgroup, network namespace or interface has died.
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(false),
            // Another kind of link is pinned there.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
            Err(source) => Err(KernelError::LinkUpdate { path: path.to_owned(), source }),
        }
    }

    /// Pins a link, in the place of what was pinned at `path`: that one is detached only afterwards.
    pub fn pin(&self, link: FdLink, path: &Path) -> Result<(), KernelError> {
        let failed = |source| KernelError::Pin { path: path.to_owned(), source };
        let place = |beside: &Path| link.pin(beside).map(drop).map_err(io::Error::other);
        let link = put(path, place).and_then(|()| bpf::open(path)).map_err(failed)?;
        self.held().insert(path.to_owned(), link);
        Ok(())
    }

    /// Detaches a link and removes its pin, also if only one of them is there.
    pub fn unpin(&self, path: &Path) -> Result<(), KernelError> {
        let held = self.held().remove(path);
        if let Some(link) = held {
            detach(&link).map_err(|source| KernelError::Pin { path: path.to_owned(), source })?;
        }
        unpin(path)
    }

    /// Removes the links of pods other than these. A pod's have its cookie in their names, as
    /// `program-cookie` or `program-cookie-interface`; the node's have none.
    ///
    /// Which links a pod has is not always known otherwise: its interface's number may be another
    /// pod's by now.
    pub fn unpin_others(
        &self,
        directory: &Path,
        cookies: &HashSet<u64>,
    ) -> Result<(), KernelError> {
        let failed = |source| KernelError::Pin { path: directory.to_owned(), source };
        let entries = fs::read_dir(directory).map_err(failed)?;
        let pinned = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
        let mut paths: HashSet<PathBuf> = pinned.map_err(failed)?.into_iter().collect();
        paths.extend(self.held().keys().cloned());
        let is_others = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            let cookie = name.and_then(|name| name.split('-').nth(1)?.parse().ok());
            cookie.is_some_and(|cookie| !cookies.contains(&cookie))
        };
        paths.iter().filter(|path| is_others(path)).try_for_each(|path| self.unpin(path))
    }

    /// A link of ours that is still attached to `target`, and that nothing at `path` leads to.
    fn pin_again(&self, path: &Path, target: Target) -> Result<Option<OwnedFd>, KernelError> {
        let failed = |source| KernelError::Pin { path: path.to_owned(), source };
        let Some(link) = self.held().remove(path) else { return Ok(None) };
        if !target.is(&bpf::info(link.as_fd()).map_err(failed)?) {
            return Ok(None);
        }
        put(path, |beside| bpf::pin(link.as_fd(), beside)).map_err(failed)?;
        Ok(Some(link))
    }

    fn held(&self) -> MutexGuard<'_, HashMap<PathBuf, OwnedFd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether anything is pinned in a directory.
pub fn are_any(directory: &Path) -> Result<bool, KernelError> {
    let entries = fs::read_dir(directory);
    let failed = |source| KernelError::Pin { path: directory.to_owned(), source };
    Ok(entries.map_err(failed)?.next().is_some())
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

/// Pins something by `place`, and gives it the name of what was pinned at `path`.
pub fn put(path: &Path, place: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let beside = beside(path);
    remove(&beside)?;
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    place(&beside)?;
    fs::rename(&beside, path)
}

/// Where something is pinned before it takes a name. A bpffs takes no names with dots.
fn beside(path: &Path) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push("-new");
    PathBuf::from(beside)
}

/// Detaches a link that no agent holds and removes its pin; one that is not there is as good as
/// removed.
///
/// Without its pin alone a link is detached only some time later.
pub fn unpin(path: &Path) -> Result<(), KernelError> {
    let failed = |source| KernelError::Pin { path: path.to_owned(), source };
    match bpf::open(path) {
        Ok(link) => detach(&link).and_then(|()| remove(path)).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

fn detach(link: &OwnedFd) -> io::Result<()> {
    match bpf::detach(link.as_fd()) {
        // Somebody has pinned something else there, which is no link.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        detached => detached,
    }
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
