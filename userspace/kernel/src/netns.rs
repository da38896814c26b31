//! Network namespaces: open one, do something in it, come back.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::sched::{CloneFlags, setns};

use crate::KernelError;

/// A network namespace, held open.
#[derive(Debug, Clone)]
pub struct Netns {
    file: Arc<File>,
    path: Arc<Path>,
    cookie: u64,
}

impl Netns {
    /// Opens a namespace by a path such as `/run/netns/web` or `/proc/123/ns/net`.
    pub fn open(path: &Path) -> Result<Self, KernelError> {
        let failed = |source| KernelError::Netns { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let mut netns = Self { file: Arc::new(file), path: Arc::from(path), cookie: 0 };
        netns.cookie = netns.run(cookie).map_err(failed)?;
        Ok(netns)
    }

    pub fn of_pid(pid: u32) -> Result<Self, KernelError> {
        Self::open(&PathBuf::from(format!("/proc/{pid}/ns/net")))
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
    /// namespace it would dial from the wrong pod.
    pub fn run<T>(&self, inside: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        struct Home(File);
        impl Drop for Home {
            fn drop(&mut self) {
                if setns(&self.0, CloneFlags::CLONE_NEWNET).is_err() {
                    std::process::abort();
                }
            }
        }
        let home = Home(File::open("/proc/thread-self/ns/net")?);
        setns(&*self.file, CloneFlags::CLONE_NEWNET)?;
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

/// The cookie of the namespace that this thread is in: `SO_NETNS_COOKIE`, Linux 5.14.
#[allow(unsafe_code)]
fn cookie() -> io::Result<u64> {
    use std::os::fd::AsRawFd as _;
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::DGRAM, None)?;
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
