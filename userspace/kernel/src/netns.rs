//! Network namespaces: open one, do something in it, come back.

use std::{
    cell::Cell,
    collections::HashSet,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::sched::{CloneFlags, setns};

use crate::{KernelError, confine::opener};

/// A network namespace, held open.
#[derive(Debug, Clone)]
pub struct Netns {
    file: Arc<File>,
    path: Arc<Path>,
    cookie: u64,
}

thread_local! {
    /// The namespace that this thread is at home in, while it is there.
    static HOME: Cell<Option<File>> = const { Cell::new(None) };
}

impl Netns {
    /// Opens a namespace by a path such as `/run/netns/web` or `/proc/123/ns/net`.
    pub fn open(path: &Path) -> Result<Self, KernelError> {
        let failed = |source| KernelError::Netns { path: path.to_owned(), source };
        Self::of_file(open(path).map_err(failed)?, path)
    }

    /// One that another process has opened, by the path that it says.
    pub fn of_file(file: File, path: &Path) -> Result<Self, KernelError> {
        let failed = |source| KernelError::Netns { path: path.to_owned(), source };
        let mut netns = Self { file: Arc::new(file), path: Arc::from(path), cookie: 0 };
        netns.cookie = netns.run(cookie).map_err(failed)?;
        Ok(netns)
    }

    /// Whether a socket was made in this namespace.
    pub(crate) fn is_of(&self, socket: &impl AsRawFd) -> io::Result<bool> {
        Ok(cookie_of(socket)? == self.cookie)
    }

    /// Whether a Unix stream that was accepted here was opened from this namespace. The kernel makes
    /// the accepted socket in the namespace of the connecting one, so nothing that the caller says
    /// or becomes later counts, nor does its process's number:
    /// `unix_stream_connect` in
    /// <https://github.com/torvalds/linux/blob/v5.15/net/unix/af_unix.c>.
    pub fn is_of_caller(&self, accepted: &impl AsRawFd) -> io::Result<bool> {
        Ok(cookie_of(accepted)? == self.cookie)
    }

    pub fn of_pid(pid: u32) -> Result<Self, KernelError> {
        Self::open(&of_process(pid))
    }

    /// The namespace with a cookie, where it was last or wherever else one is known by a name or a
    /// process; `None` if it is gone, or only somebody's open file keeps it.
    pub fn find(cookie: u64, last: &Path) -> io::Result<Option<Self>> {
        let names = |directory: &str| fs::read_dir(directory).into_iter().flatten().flatten();
        let named = names("/run/netns").map(|entry| entry.path());
        let of_processes = names("/proc")
            .filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok())
            .map(|entry| entry.path().join("ns/net"));
        let mut tried = HashSet::new();
        for path in std::iter::once(last.to_owned()).chain(named).chain(of_processes) {
            let Ok(inode) = fs::metadata(&path).map(|found| found.ino()) else { continue };
            if !tried.insert(inode) {
                continue;
            }
            match Self::open(&path) {
                Ok(netns) if netns.cookie == cookie => return Ok(Some(netns)),
                _ => {}
            }
        }
        Ok(None)
    }

    /// The one namespace in which all processes of a cgroup and of those below it are; not the
    /// agent's own, since only network namespaces can be enrolled.
    pub fn of_cgroup(path: &Path) -> Result<Self, KernelError> {
        let failed = |source| KernelError::CgroupProcesses { path: path.to_owned(), source };
        let mut found: Option<Self> = None;
        for pid in processes(path).map_err(failed)? {
            let netns = match Self::of_pid(pid) {
                // The process has ended meanwhile.
                Err(KernelError::Netns { source, .. }) if is_gone(&source) => continue,
                netns => netns?,
            };
            match &found {
                Some(known) if known.cookie != netns.cookie => {
                    return Err(KernelError::CgroupMixed { path: path.to_owned() });
                }
                Some(_) => {}
                None => found = Some(netns),
            }
        }
        let netns = found.ok_or_else(|| KernelError::CgroupEmpty { path: path.to_owned() })?;
        netns.check_foreign(path)?;
        Ok(netns)
    }

    /// The cookies of all namespaces in which processes of the cgroup and of those below it are.
    pub fn cookies_of_cgroup(path: &Path) -> Result<HashSet<u64>, KernelError> {
        let failed = |source| KernelError::CgroupProcesses { path: path.to_owned(), source };
        let (mut seen, mut cookies) = (HashSet::new(), HashSet::new());
        for pid in processes(path).map_err(failed)? {
            // Entering a namespace costs more than its number, which most processes share.
            let number = open(&of_process(pid)).and_then(|found| Ok(found.metadata()?.ino()));
            match number {
                Ok(number) if seen.insert(number) => {}
                Err(error) if !is_gone(&error) => return Err(failed(error)),
                _ => continue,
            }
            match Self::of_pid(pid) {
                Err(KernelError::Netns { source, .. }) if is_gone(&source) => {}
                netns => drop(cookies.insert(netns?.cookie)),
            }
        }
        Ok(cookies)
    }

    /// Fails if this is the namespace of the agent; `path` is what the user has named.
    pub(crate) fn check_foreign(&self, path: &Path) -> Result<(), KernelError> {
        let failed = |source| KernelError::Netns { path: path.to_owned(), source };
        match cookie().map_err(failed)? == self.cookie {
            true => Err(KernelError::OwnNetns { path: path.to_owned() }),
            false => Ok(()),
        }
    }

    /// The number by which links know the namespace.
    pub(crate) fn inode(&self) -> io::Result<u32> {
        u32::try_from(self.file.metadata()?.ino()).map_err(io::Error::other)
    }

    /// The number by which the kernel programs know the namespace; never given twice while the
    /// machine runs.
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `inside` with this thread in the namespace, and brings the thread back.
    ///
    /// `inside` must not block: the thread may be a worker of the runtime. That it can't be async
    /// is what makes this safe. A thread that cannot come back ends the process: in another
    /// namespace it would dial from the wrong pod. Where it comes back to is found out once: nothing
    /// else moves threads.
    pub fn run<T>(&self, inside: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        struct Home(Option<File>);
        impl Drop for Home {
            fn drop(&mut self) {
                if let Some(home) = self.0.take() {
                    if setns(&home, CloneFlags::CLONE_NEWNET).is_err() {
                        std::process::abort();
                    }
                    HOME.set(Some(home));
                }
            }
        }
        let home = HOME.take().map_or_else(|| File::open("/proc/thread-self/ns/net"), Ok)?;
        setns(&*self.file, CloneFlags::CLONE_NEWNET)?;
        let home = Home(Some(home));
        let result = inside();
        drop(home);
        result
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn of_process(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/ns/net"))
}

/// What this process may not open itself, the opener may.
fn open(path: &Path) -> io::Result<File> {
    match File::open(path) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM)) => {
            opener::open(path).unwrap_or(Err(error))
        }
        opened => opened,
    }
}

/// The processes of a cgroup and of all cgroups below it.
pub(crate) fn processes(cgroup: &Path) -> io::Result<Vec<u32>> {
    let listed = fs::read_to_string(cgroup.join("cgroup.procs"))?;
    let mut pids: Vec<u32> = listed.lines().filter_map(|line| line.parse().ok()).collect();
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            pids.extend(processes(&entry.path())?);
        }
    }
    Ok(pids)
}

/// A process that has ended has no namespaces: no entry in /proc, or one that leads nowhere.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

/// The cookie of the namespace that this thread is in.
fn cookie() -> io::Result<u64> {
    cookie_of(&socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::DGRAM, None)?)
}

/// The cookie of the namespace that a socket was made in: `SO_NETNS_COOKIE`, Linux 5.14.
#[allow(unsafe_code)]
fn cookie_of(socket: &impl AsRawFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: getsockopt(2) writes at most `length` bytes to `cookie`, which has that size; the fd
    // is open. nix and socket2 do not know the option.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    match failed {
        0 => Ok(cookie),
        _ => Err(io::Error::last_os_error()),
    }
}
