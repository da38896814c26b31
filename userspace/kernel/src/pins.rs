//! The directory on a bpffs that keeps programs attached and maps alive without an agent.
//!
//! ```text
//! /sys/fs/bpf/martlet/          held by the agent that uses it
//!   v2/                         the version of the maps' layout
//!     maps/LISTENING …
//!     links/martlet_connect4 …  one for each hook of the node, and one for each enrolled pod
//! ```

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::DirBuilderExt as _,
    },
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use martlet_ebpf_shared::ABI_VERSION;
use martlet_model::report::RepairKind;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::{KernelError, bpf, link, repair::Finding};

/// The directory, held against a second agent. The kernel lets go of it when the last copy of this
/// is closed, however a process with one ends.
#[derive(Debug)]
pub struct Hold(pub(crate) OwnedFd);

impl Hold {
    /// Makes the directory if it is missing; mounts a bpffs on `/sys/fs/bpf` if there is none.
    pub fn take(path: &Path) -> Result<Self, KernelError> {
        let failed = |source| KernelError::Pin { path: path.to_owned(), source };
        prepare(path)?;
        let found = statfs(path).map_err(io::Error::from).map_err(failed)?;
        if found.filesystem_type() != BPF_FS_MAGIC {
            let what = "is not on a bpffs; mount one there or choose a directory below /sys/fs/bpf";
            return Err(failed(io::Error::other(what)));
        }
        let gone = || failed(io::Error::from(io::ErrorKind::NotFound));
        Ok(Self(lock(path)?.ok_or_else(gone)?.into()))
    }
}

pub struct Pins {
    path: PathBuf,
    hold: Mutex<Option<Hold>>,
}

impl Pins {
    /// Makes what is missing below the directory; it is not held yet.
    pub fn open(path: &Path) -> Result<Self, KernelError> {
        let failed = |source| KernelError::Pin { path: path.to_owned(), source };
        let pins = Self { path: path.to_owned(), hold: Mutex::default() };
        for part in [pins.maps(), pins.links()] {
            fs::create_dir_all(part).map_err(failed)?;
        }
        Ok(pins)
    }

    pub fn hold(&self, hold: Hold) {
        *self.holding() = Some(hold);
    }

    /// Another agent holds the directory from now on.
    pub fn let_go(&self) {
        *self.holding() = None;
    }

    /// A copy; `None` if another agent has it.
    pub fn copy_of_hold(&self) -> io::Result<Option<Hold>> {
        self.holding().as_ref().map(|hold| hold.0.try_clone().map(Hold)).transpose()
    }

    fn holding(&self) -> MutexGuard<'_, Option<Hold>> {
        // Every change is one assignment.
        self.hold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn maps(&self) -> PathBuf {
        self.path.join(version()).join("maps")
    }

    pub fn links(&self) -> PathBuf {
        self.path.join(version()).join("links")
    }

    /// Detaches what agents with another layout of the maps have left. Until then their programs
    /// run beside ours, and refuse: there is no agent behind them.
    pub fn retire_other_versions(&self) -> Result<(), KernelError> {
        let failed = |source| KernelError::Pin { path: self.path.clone(), source };
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if is_version(&name.to_string_lossy()) && name != *version() {
                let links = entry.path().join("links");
                for link in fs::read_dir(&links).map_err(failed)? {
                    link::unpin(&link.map_err(failed)?.path())?;
                }
                remove(&entry.path())?;
                tracing::info!(version = %name.display(), "kernel programs retired");
            }
        }
        Ok(())
    }
}

/// The pinned maps, as this process's programs use them.
pub struct MapPins {
    directory: PathBuf,
    maps: Vec<PinnedMap>,
}

struct PinnedMap {
    name: &'static str,
    map: OwnedFd,
    number: u32,
}

impl MapPins {
    /// To be called when the programs' maps were just pinned, or found there.
    pub fn open(directory: PathBuf, names: &[&'static str]) -> Result<Self, KernelError> {
        let open = |name: &&'static str| {
            let path = directory.join(name);
            let opened = bpf::open(&path).and_then(|map| {
                let number = bpf::info(map.as_fd())?.id;
                Ok(PinnedMap { name, map, number })
            });
            opened.map_err(|source| KernelError::Pin { path, source })
        };
        let maps = names.iter().map(open).collect::<Result<_, _>>()?;
        Ok(Self { directory, maps })
    }

    /// A map without its name goes on, but the next agent would begin with an empty one.
    pub fn repair(&self) -> Result<Vec<Finding>, KernelError> {
        let mut findings = Vec::new();
        for PinnedMap { name, map, number } in &self.maps {
            let path = self.directory.join(name);
            let failed = |source| KernelError::Pin { path: path.clone(), source };
            let found = bpf::open(&path).and_then(|found| bpf::info(found.as_fd()));
            let what = match found {
                Ok(found) if found.id == *number => continue,
                Ok(_) => format!("another object is pinned as the map {name}"),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    format!("the pin of the map {name} is gone")
                }
                Err(source) => return Err(failed(source)),
            };
            let repaired = link::put(&path, |beside| bpf::pin(map.as_fd(), beside)).map_err(failed);
            findings.push(Finding::new(RepairKind::Pin, what, repaired));
        }
        Ok(findings)
    }
}

/// Holds the directory against agents; `None` if there is none.
pub fn lock(path: &Path) -> Result<Option<File>, KernelError> {
    let failed = |source| KernelError::Pin { path: path.to_owned(), source };
    let lock = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        lock => lock.map_err(failed)?,
    };
    lock.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => KernelError::PinInUse { path: path.to_owned() },
        TryLockError::Error(source) => failed(source),
    })?;
    Ok(Some(lock))
}

/// What is pinned below a directory, and the directories: what is inside one comes before it.
pub fn all(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => {
            for entry in entries? {
                let entry = entry?;
                match entry.file_type()?.is_dir() {
                    true => found.extend(all(&entry.path())?),
                    false => found.push(entry.path()),
                }
            }
        }
    }
    found.push(path.to_owned());
    Ok(found)
}

/// Makes the directory, and mounts a bpffs if there is none: what a confined agent no longer can.
pub fn prepare(path: &Path) -> Result<(), KernelError> {
    let failed = |source| KernelError::Pin { path: path.to_owned(), source };
    mount_bpffs(path).map_err(failed)?;
    // Whoever can open the maps can write them.
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)
}

fn remove(path: &Path) -> Result<(), KernelError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(KernelError::Pin { path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

/// The version of the maps' layout, as this build knows them.
pub fn layout() -> u32 {
    ABI_VERSION
}

fn version() -> String {
    format!("v{ABI_VERSION}")
}

fn is_version(name: &str) -> bool {
    name.strip_prefix('v').is_some_and(|number| number.parse::<u32>().is_ok())
}

fn mount_bpffs(pin: &Path) -> io::Result<()> {
    let usual = Path::new("/sys/fs/bpf");
    let found = statfs(usual)?;
    if !pin.starts_with(usual) || found.filesystem_type() == BPF_FS_MAGIC {
        return Ok(());
    }
    let none: Option<&str> = None;
    nix::mount::mount(Some("bpf"), usual, Some("bpf"), nix::mount::MsFlags::empty(), none)?;
    tracing::info!(path = %usual.display(), "bpffs mounted");
    Ok(())
}
