//! The lab's part of the cgroup v2 tree: made, joined, killed, removed.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{limits, wait::wait_for};

/// Where cgroup v2 is mounted: not always `/sys/fs/cgroup`, where v1 may sit.
pub fn mount_point() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("reading the mounts")?;
    match find_mount(&mounts) {
        Some(path) => Ok(path),
        None => bail!("cgroup v2 is not mounted on this machine"),
    }
}

/// Field 5 is the mount point; the file system's type follows the lone dash (proc_pid_mountinfo(5)).
fn find_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        let kind = back.split(' ').next()?;
        (kind == "cgroup2").then(|| front.split(' ').nth(4).map(PathBuf::from))?
    })
}

pub fn make(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("making the cgroup {}", path.display()))
}

/// Kills every process below and removes the whole subtree.
pub fn remove(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    fs::write(path.join("cgroup.kill"), "1").context("killing the cgroup")?;
    wait_for("the killed processes to end", limits::KILL, || {
        let events = fs::read_to_string(path.join("cgroup.events"))?;
        Ok(events.lines().any(|line| line == "populated 0").then_some(()))
    })?;
    remove_empty(path).with_context(|| format!("removing the cgroup {}", path.display()))
}

fn remove_empty(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_empty(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_v2_mount_is_found_beside_v1() {
        let text = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                    32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                    41 31 0:38 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(find_mount(text), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(find_mount("32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"), None);
    }
}
