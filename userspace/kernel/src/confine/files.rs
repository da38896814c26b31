//! What can be written: the agent's own directories, and the network's sysctls. By landlock, which
//! counts for root too.
//!
//! Reading is not restricted: the node file may name the authority's directory, cgroups and network
//! namespaces anew while the agent runs, and landlock can't be widened. What is written changes
//! only with a restart.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::Path,
    sync::OnceLock,
};

use landlock::{
    ABI, AccessFs, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
};

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::Places;
use crate::sysctl;

/// The newest whose rights are used here: it came with signals, Linux 6.12. Later ones can also
/// restrict connecting to sockets in the file system, which systemd must be told by.
const NEWEST: ABI = ABI::V6;

/// Held open, since landlock knows a directory by its inode, and that of a sysctl is made anew when
/// the kernel has dropped it.
static HELD: OnceLock<PathFd> = OnceLock::new();

/// `None` if everything is in place.
pub fn restrict(places: &Places) -> io::Result<Option<String>> {
    let (directories, log) = writable(places)?;
    let restricted = apply(&directories, log).map_err(io::Error::other)?;
    Ok(match restricted {
        RulesetStatus::FullyEnforced => None,
        RulesetStatus::PartiallyEnforced => {
            Some("this kernel is older than 6.12 and has only a part of it".to_owned())
        }
        RulesetStatus::NotEnforced => {
            Some("this kernel has none, or it is not on its list of security modules".to_owned())
        }
    })
}

/// The directories below which all can be written, and a file beside them.
fn writable(places: &Places) -> io::Result<(Vec<&Path>, Option<&Path>)> {
    let mut directories: Vec<&Path> = places.directories.iter().map(|path| &**path).collect();
    for directory in &directories {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    // Somebody may remove the pin directory, and then it is made again.
    let bpffs = places.pin.parent().filter(|parent| is_bpffs(parent));
    directories.push(bpffs.unwrap_or(&places.pin));
    let Some(log) = &places.log else { return Ok((directories, None)) };
    let is_device = fs::metadata(log).is_ok_and(|found| !found.is_file());
    match log.parent().filter(|_| !is_device) {
        Some(parent) if parent == Path::new("") => directories.push(Path::new(".")),
        Some(parent) => directories.push(parent),
        None => return Ok((directories, Some(log))),
    }
    Ok((directories, None))
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

fn apply(directories: &[&Path], file: Option<&Path>) -> Result<RulesetStatus, RulesetError> {
    let write = AccessFs::WriteFile | AccessFs::Truncate;
    let devices = AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev;
    let all = AccessFs::from_write(NEWEST) & !devices;
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_write(NEWEST))?
        .handle_access(AccessFs::Execute)?
        .scope(Scope::Signal)?
        .create()?;
    // Of the sysctls only these; `kernel.core_pattern` would run programs as root.
    let sysctls = sysctl::directory();
    let held = [(sysctls, write)].into_iter();
    let rest = directories.iter().map(|path| (*path, all));
    for (path, access) in held.chain(rest).chain(file.map(|path| (path, write))) {
        // What is not there can't be written; whoever wants to says what is missing.
        let Ok(fd) = PathFd::new(path) else { continue };
        rules = rules.add_rule(PathBeneath::new(&fd, access as BitFlags<AccessFs>))?;
        if path == sysctls {
            let _ = HELD.set(fd);
        }
    }
    Ok(rules.restrict_self()?.ruleset)
}
