//! Everything that a lab leaves on the machine, in one place, so that it can all be removed:
//! by drop, by a signal handler, or by the next lab when this process was killed.
//!
//! A lab `m1a2b-0` owns `/run/martlet-lab/m1a2b-0/` (whose `lock` it holds while it lives, with a bpffs
//! and logs inside), the namespaces `/run/netns/m1a2b-0-*` and the cgroup `m1a2b-0`.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    mount::{MntFlags, MsFlags, mount, umount2},
};

use crate::{cgroup, netns};

const ROOT: &str = "/run/martlet-lab";
/// Says that the first lab found no `/run/netns`, so the last one takes it away again.
const MADE_NETNS_DIRECTORY: &str = "/run/martlet-lab/made-netns-directory";

static NEXT: AtomicU32 = AtomicU32::new(0);

#[derive(Debug)]
pub struct Site {
    prefix: String,
    directory: PathBuf,
    cgroup: PathBuf,
    /// Whether the site still stands. Held while something is added to it.
    open: Mutex<bool>,
    /// Tells other processes that this lab lives.
    _alive: Flock<File>,
}

impl Site {
    pub fn establish() -> Result<Site> {
        if !nix::unistd::geteuid().is_root() {
            bail!("the lab makes network namespaces and cgroups: run as root");
        }
        let _exclusive = exclusive()?;
        sweep()?;
        let prefix = format!("m{:x}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = Path::new(ROOT).join(&prefix);
        let found_netns = Path::new(netns::DIRECTORY).exists();
        fs::create_dir_all(directory.join("logs")).context("making the lab's directory")?;
        if !found_netns {
            fs::write(MADE_NETNS_DIRECTORY, "").context("noting that /run/netns is ours")?;
        }
        let lock = File::create(directory.join("lock")).context("making the lab's lock")?;
        let Ok(alive) = Flock::lock(lock, FlockArg::LockExclusiveNonblock) else {
            bail!("the new lab's lock is taken");
        };
        let cgroup = cgroup::mount_point()?.join(&prefix);
        let site = Site { prefix, directory, cgroup, open: Mutex::new(true), _alive: alive };
        cgroup::make(&site.cgroup)?;
        mount_bpffs(&site.bpffs())?;
        Ok(site)
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// The lab's own bpffs: unmounting it undoes every pin.
    pub fn bpffs(&self) -> PathBuf {
        self.directory.join("bpf")
    }

    /// To be held while something is added, so that nothing is added behind the back of `close`.
    pub fn adding(&self) -> Result<MutexGuard<'_, bool>> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if !*open {
            bail!("the lab has ended");
        }
        Ok(open)
    }

    /// Removes everything; a second call does nothing.
    pub fn close(&self) -> Result<()> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::take(&mut *open) {
            return Ok(());
        }
        let _exclusive = exclusive()?;
        remove(&self.prefix)?;
        remove_root()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            eprintln!("the lab {} was not removed: {error:#}", self.prefix);
        }
    }
}

/// One lab at a time is made, swept or removed. A lock on `/run` itself leaves no file behind.
fn exclusive() -> Result<Flock<File>> {
    let run = File::open("/run").context("opening /run")?;
    Flock::lock(run, FlockArg::LockExclusive).map_err(|(_, errno)| errno).context("locking /run")
}

/// Removes what killed labs have left: those whose lock nobody holds.
fn sweep() -> Result<()> {
    let Ok(entries) = fs::read_dir(ROOT) else { return Ok(()) };
    for entry in entries {
        let path = entry.context("listing the labs")?.path();
        let (true, Some(prefix)) = (path.is_dir(), path.file_name().and_then(|name| name.to_str()))
        else {
            continue;
        };
        if is_dead(&path)? {
            remove(prefix).with_context(|| format!("sweeping the dead lab {prefix}"))?;
        }
    }
    remove_root()
}

fn is_dead(directory: &Path) -> Result<bool> {
    match File::open(directory.join("lock")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error).context("opening a lab's lock"),
        Ok(lock) => match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
            Ok(_) => Ok(true),
            Err((_, Errno::EWOULDBLOCK)) => Ok(false),
            Err((_, errno)) => Err(errno).context("trying a lab's lock"),
        },
    }
}

/// Processes first: they hold everything else.
fn remove(prefix: &str) -> Result<()> {
    cgroup::remove(&cgroup::mount_point()?.join(prefix))?;
    remove_namespaces(&format!("{prefix}-"))?;
    let directory = Path::new(ROOT).join(prefix);
    unmount_below(&directory)?;
    fs::remove_dir_all(&directory).with_context(|| format!("removing {}", directory.display()))
}

/// The bpffs, and disks that nodes were given. Paths of a lab have no characters that would be
/// escaped in the list.
fn unmount_below(directory: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("reading the mounts")?;
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new);
    for point in points.filter(|point| point.starts_with(directory)) {
        umount2(point, MntFlags::MNT_DETACH)
            .with_context(|| format!("unmounting {}", point.display()))?;
    }
    Ok(())
}

fn remove_namespaces(prefix: &str) -> Result<()> {
    let Ok(entries) = fs::read_dir(netns::DIRECTORY) else { return Ok(()) };
    for entry in entries {
        let entry = entry.context("listing the network namespaces")?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(prefix)) {
            let path = entry.path();
            match umount2(&path, MntFlags::MNT_DETACH) {
                Ok(()) | Err(Errno::EINVAL) => {}
                Err(errno) => {
                    return Err(errno).with_context(|| format!("unmounting {}", path.display()));
                }
            }
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    Ok(())
}

/// The last lab takes the directories away, and `/run/netns` if the first lab had not found one.
fn remove_root() -> Result<()> {
    let Ok(entries) = fs::read_dir(ROOT) else { return Ok(()) };
    if entries.flatten().any(|entry| entry.path().is_dir()) {
        return Ok(());
    }
    let directory = Path::new(netns::DIRECTORY);
    let is_empty = fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none());
    if Path::new(MADE_NETNS_DIRECTORY).exists() && is_empty {
        // `ip` made it a mount of its own.
        let _ = umount2(directory, MntFlags::MNT_DETACH);
        fs::remove_dir(directory).context("removing /run/netns")?;
    }
    fs::remove_dir_all(ROOT).with_context(|| format!("removing {ROOT}"))
}

/// A file system in memory that is full after so many bytes; it goes with the lab.
pub fn mount_disk(at: &Path, bytes: u64) -> Result<()> {
    fs::create_dir_all(at).context("making the mount point of a disk")?;
    let options = format!("size={bytes}");
    mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
        .context("mounting a disk")
}

fn mount_bpffs(at: &Path) -> Result<()> {
    fs::create_dir_all(at).context("making the mount point of the lab's bpffs")?;
    mount(Some("bpffs"), at, Some("bpf"), MsFlags::empty(), None::<&str>)
        .context("mounting a bpffs")?;
    fs::set_permissions(at, fs::Permissions::from_mode(0o700)).context("closing the lab's bpffs")
}
