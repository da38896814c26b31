//! The programs of the node, each behind a pinned link to one cgroup.

use std::{
    fs::File,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    programs::{CgroupAttachMode, Program, ProgramError, links::FdLink},
};
use martlet_model::report::{Hook, RepairKind};

use crate::{
    KernelError,
    link::{self, Links, Target},
    process,
    repair::Finding,
};

/// In the order in which they are attached: nothing is steered before the rest is in place.
const HOOKS: [&str; 5] = [
    "martlet_peername4",
    "martlet_peername6",
    "martlet_establish",
    "martlet_connect4",
    "martlet_connect6",
];

pub struct Hooks {
    cgroup: File,
    target: Target,
    directory: PathBuf,
    hooks: Vec<Attached>,
}

struct Attached {
    name: &'static str,
    /// The number of this process's program.
    program: u32,
    adopted: bool,
}

impl Hooks {
    /// Loads the programs; none is attached yet.
    pub fn load(ebpf: &mut Ebpf, cgroup: &Path, directory: &Path) -> Result<Self, KernelError> {
        let failed = |source| KernelError::Cgroup { path: cgroup.to_owned(), source };
        let file = File::open(cgroup).map_err(failed)?;
        let inode = file.metadata().map_err(failed)?.ino();
        if process::is_below_cgroup(inode).map_err(failed)? == Some(false) {
            return Err(KernelError::AgentOutside { path: cgroup.to_owned() });
        }
        let (target, directory) = (Target::Cgroup(inode), directory.to_owned());
        for name in HOOKS {
            load(ebpf, name)?;
        }
        Ok(Self { cgroup: file, target, directory, hooks: Vec::new() })
    }

    /// Attaches, or adopts.
    pub fn start(&mut self, ebpf: &mut Ebpf, links: &Links) -> Result<(), KernelError> {
        for name in HOOKS {
            let program = number(ebpf, name)?;
            let adopted = self.attach(ebpf, name, links)?;
            self.hooks.push(Attached { name, program, adopted });
        }
        Ok(())
    }

    /// Whether the kernel says that they are attached, and with our programs.
    pub fn report(&self) -> Vec<Hook> {
        let hook = |hook: &Attached| {
            let path = self.directory.join(hook.name);
            let attached = link::is_attached(&path, self.target, hook.program).unwrap_or(false);
            Hook { name: hook.name.to_owned(), attached, adopted: hook.adopted }
        };
        self.hooks.iter().map(hook).collect()
    }

    pub fn repair(&self, ebpf: &mut Ebpf, links: &Links) -> Result<Vec<Finding>, KernelError> {
        let mut findings = Vec::new();
        for hook in &self.hooks {
            let wrong = link::wrong(&self.directory.join(hook.name), self.target, hook.program)?;
            if let Some(kind) = wrong {
                let what = match kind {
                    RepairKind::Program => format!("{} was replaced by another program", hook.name),
                    _ => format!("{} was detached or has lost its pin", hook.name),
                };
                let repaired = self.attach(ebpf, hook.name, links).map(drop);
                findings.push(Finding::new(kind, what, repaired));
            }
        }
        Ok(findings)
    }

    /// Adopts the pinned link, or attaches the program to the cgroup and pins its link.
    fn attach(
        &self,
        ebpf: &mut Ebpf,
        name: &'static str,
        links: &Links,
    ) -> Result<bool, KernelError> {
        let failed = || KernelError::program(name);
        let program = ebpf.program_mut(name).ok_or(KernelError::Absent(name))?;
        let path = self.directory.join(name);
        let fd = program.fd().map_err(failed())?.as_fd();
        if links.adopt(&path, fd, self.target)? {
            return Ok(true);
        }
        // A `bpf_link` lets other programs on the cgroup run too, whatever this mode is called.
        let mode = CgroupAttachMode::Single;
        let absent = || KernelError::Absent("bpf_link");
        let attached = match program {
            Program::CgroupSockAddr(program) => {
                let id = program.attach(&self.cgroup, mode).map_err(failed())?;
                let attached = program.take_link(id).map_err(failed())?;
                FdLink::try_from(attached).map_err(|_| absent())?
            }
            Program::SockOps(program) => {
                let id = program.attach(&self.cgroup, mode).map_err(failed())?;
                let attached = program.take_link(id).map_err(failed())?;
                FdLink::try_from(attached).map_err(|_| absent())?
            }
            _ => return Err(KernelError::Absent(name)),
        };
        links.pin(attached, &path).map(|()| false)
    }
}

fn load(ebpf: &mut Ebpf, name: &'static str) -> Result<(), KernelError> {
    let loaded = match ebpf.program_mut(name).ok_or(KernelError::Absent(name))? {
        Program::CgroupSockAddr(program) => program.load(),
        Program::SockOps(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    loaded.map_err(KernelError::program(name))
}

/// The number of a loaded program.
pub fn number(ebpf: &Ebpf, name: &'static str) -> Result<u32, KernelError> {
    let program = ebpf.program(name).ok_or(KernelError::Absent(name))?;
    Ok(program.info().map_err(KernelError::program(name))?.id())
}
