//! A named network namespace, and code that runs inside it.

use std::{fs, fs::File, path::PathBuf, sync::Arc, thread};

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};

use crate::ip;

pub const DIRECTORY: &str = "/run/netns";

/// Cheap to clone; the namespace lives until its lab ends.
#[derive(Clone, Debug)]
pub struct Netns {
    name: String,
    file: Arc<File>,
}

impl Netns {
    /// Made by `ip`, which knows how `/run/netns` must be mounted for `ip netns exec` to work.
    pub(crate) fn make(name: &str) -> Result<Netns> {
        ip::batch(None, &format!("netns add {name}"))?;
        Netns::open(name)
    }

    pub fn open(name: &str) -> Result<Netns> {
        let path = PathBuf::from(DIRECTORY).join(name);
        let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        Ok(Netns { name: name.to_owned(), file: Arc::new(file) })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn path(&self) -> PathBuf {
        PathBuf::from(DIRECTORY).join(&self.name)
    }

    pub(crate) fn file(&self) -> Arc<File> {
        self.file.clone()
    }

    /// Runs code on a fresh thread inside the namespace.
    ///
    /// The thread stays in this process's cgroup, which is not the pod's:
    /// for connections that count as the pod's, start a program instead.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| -> Result<T> {
                setns(&*self.file, CloneFlags::CLONE_NEWNET)
                    .context("entering the network namespace")?;
                Ok(work())
            });
            inside.join().map_err(|_| anyhow!("the code inside {} panicked", self.name))?
        })
    }

    /// Sets `net.*` values of this namespace: `/proc/sys/net` shows the reading thread's own.
    pub fn set_sysctls(&self, values: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            for (name, value) in values {
                let path = format!("/proc/sys/net/{name}");
                fs::write(&path, value).with_context(|| format!("writing {value} to {path}"))?;
            }
            Ok(())
        })?
    }

    pub fn sysctl(&self, name: &str) -> Result<String> {
        let path = format!("/proc/sys/net/{name}");
        let value =
            self.run(|| fs::read_to_string(&path))?.with_context(|| format!("reading {path}"))?;
        Ok(value.trim().to_owned())
    }
}
