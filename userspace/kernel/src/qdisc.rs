//! The clsact qdiscs that filters of the guard need: those that an agent has made are noted in a
//! file, and go with the last filter.
//!
//! The file's name carries the boot and the interface's number and name: a number is given again.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{interfaces::Interfaces, sysctl::boot};

const PREFIX: &str = "clsact-";
/// `TC_H_CLSACT` with `TC_H_MIN_INGRESS` and `TC_H_MIN_EGRESS` of include/uapi/linux/pkt_sched.h.
pub const INGRESS: u32 = 0xffff_fff2;
pub const EGRESS: u32 = 0xffff_fff3;

/// An interface of the host.
#[derive(Debug, Clone, Copy)]
pub struct At<'a> {
    pub index: u32,
    pub name: &'a str,
}

/// Notes that an agent has made it.
pub fn note(notes: &Path, at: At<'_>) -> io::Result<()> {
    fs::create_dir_all(notes)?;
    fs::write(path(notes, at)?, [])
}

/// Whether an agent has made it.
pub fn is_noted(notes: &Path, at: At<'_>) -> io::Result<bool> {
    Ok(path(notes, at)?.exists())
}

/// Deletes it if an agent has made it and nobody has a filter there.
pub fn leave(host: &Interfaces, notes: &Path, at: At<'_>) -> io::Result<()> {
    let empty = |parent| host.filters(at.index, parent).map(|filters| filters.is_empty());
    if !is_noted(notes, at)? || !empty(INGRESS)? || !empty(EGRESS)? {
        return Ok(());
    }
    match host.delete_clsact(at.index) {
        // Somebody has deleted it already.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => {}
        deleted => deleted?,
    }
    fs::remove_file(path(notes, at)?)
}

fn path(notes: &Path, at: At<'_>) -> io::Result<PathBuf> {
    Ok(notes.join(format!("{PREFIX}{}-{}-{}", boot()?, at.index, at.name)))
}
