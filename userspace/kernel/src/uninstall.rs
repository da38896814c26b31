//! Takes away what agents have put on this node, also what a crash has left in half.
//!
//! Order: the guard and the other programs, then the maps, then the sysctls: while the first half is
//! gone connections of enrolled pods are refused, and when all is gone they are plain.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use aya::programs::tc;

use crate::{
    KernelError, Netns, guard,
    interfaces::Interfaces,
    link,
    pins::{self, all},
    qdisc::{self, At},
    sysctl,
};

/// What an agent was told about where its things are.
#[derive(Debug, Clone)]
pub struct Installed {
    /// The directory on a bpffs.
    pub pin: PathBuf,
    /// The directory for notes on what to restore.
    pub notes: PathBuf,
    /// The network namespace of the node, as [`crate::Settings::host`].
    pub host: PathBuf,
    /// Only say what would be removed.
    pub dry_run: bool,
}

/// The pin directory, held against agents until dropped.
pub struct Idle {
    _lock: Option<File>,
}

impl Installed {
    /// Fails with [`KernelError::PinInUse`] while an agent runs.
    pub fn hold(&self) -> Result<Idle, KernelError> {
        Ok(Idle { _lock: pins::lock(&self.pin)? })
    }

    /// Removes everything that is in the kernel, and the notes; `say` hears of each thing before it
    /// is removed. What can't be removed does not keep the rest, and is the error.
    pub fn remove(&self, _idle: &Idle, say: &mut dyn FnMut(String)) -> Result<(), KernelError> {
        let steps = [
            self.filters(say),
            self.links(say),
            self.qdiscs(say),
            self.pins(say),
            self.sysctls(say),
        ];
        steps.into_iter().collect()
    }

    fn filters(&self, say: &mut dyn FnMut(String)) -> Result<(), KernelError> {
        self.in_host("removing the guard's filters", |host| {
            for (interface, name, direction) in guard::filters(host)? {
                say(format!("filter {name} at {}", interface.name));
                if !self.dry_run {
                    tc::qdisc_detach_program(&interface.name, direction, name)
                        .map_err(io::Error::other)?;
                }
            }
            Ok(())
        })
    }

    /// Those that an agent has made and nobody else uses.
    fn qdiscs(&self, say: &mut dyn FnMut(String)) -> Result<(), KernelError> {
        self.in_host("removing clsact", |host| {
            for interface in host.all()? {
                let at = At { index: interface.index, name: &interface.name };
                // In a dry run the filters are still there.
                if qdisc::is_noted(&self.notes, at)? {
                    say(format!("qdisc clsact at {}, unless others use it", interface.name));
                    if !self.dry_run {
                        qdisc::leave(host, &self.notes, at)?;
                    }
                }
            }
            Ok(())
        })
    }

    fn links(&self, say: &mut dyn FnMut(String)) -> Result<(), KernelError> {
        let is_link = |path: &&PathBuf| path.parent().is_some_and(|at| at.ends_with("links"));
        for path in self.pinned()?.iter().filter(is_link) {
            say(format!("link {}", path.display()));
            if !self.dry_run {
                link::unpin(path)?;
            }
        }
        Ok(())
    }

    /// The maps are freed with their last user.
    fn pins(&self, say: &mut dyn FnMut(String)) -> Result<(), KernelError> {
        for path in self.pinned()? {
            let is_directory = path.is_dir();
            let is_link = path.parent().is_some_and(|at| at.ends_with("links"));
            if !is_link {
                say(format!(
                    "{} {}",
                    if is_directory { "directory" } else { "map" },
                    path.display()
                ));
            }
            if !self.dry_run {
                let removed =
                    if is_directory { fs::remove_dir(&path) } else { fs::remove_file(&path) };
                removed.map_err(|source| KernelError::Pin { path, source })?;
            }
        }
        Ok(())
    }

    fn sysctls(&self, say: &mut dyn FnMut(String)) -> Result<(), KernelError> {
        let notes = &self.notes;
        let failed = |source| KernelError::Notes { path: notes.clone(), source };
        for cookie in sysctl::noted(notes).map_err(failed)? {
            say(format!("net.ipv4.tcp_tw_reuse = 1 of the network namespace {cookie}"));
            if !self.dry_run {
                sysctl::restore_by_cookie(cookie, notes).map_err(failed)?;
            }
        }
        // Those of namespaces and interfaces that are gone, or of an earlier boot.
        for path in all(notes).map_err(failed)? {
            say(format!("file {}", path.display()));
            if !self.dry_run {
                remove(&path).map_err(failed)?;
            }
        }
        Ok(())
    }

    fn pinned(&self) -> Result<Vec<PathBuf>, KernelError> {
        all(&self.pin).map_err(|source| KernelError::Pin { path: self.pin.clone(), source })
    }

    fn in_host(
        &self,
        what: &'static str,
        work: impl FnOnce(&Interfaces) -> io::Result<()>,
    ) -> Result<(), KernelError> {
        let host = Netns::open(&self.host)?;
        let done = Interfaces::open(&host).and_then(|found| host.run(|| work(&found)));
        done.map_err(KernelError::in_netns(&host, what))
    }
}

fn remove(path: &Path) -> io::Result<()> {
    if path.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) }
}
