//! Links: attach and pin a program, or swap the program behind a link that is already pinned.
//!
//! A pinned link keeps its program attached when the agent dies. An agent that starts adopts it: it
//! puts its own program in place, without a moment in which none is attached.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya::programs::links::FdLink;

use crate::KernelError;

/// `BPF_OBJ_GET` of `enum bpf_cmd`, Linux 4.4 (include/uapi/linux/bpf.h).
const BPF_OBJ_GET: libc::c_long = 7;
/// `BPF_LINK_UPDATE`, Linux 5.7.
const BPF_LINK_UPDATE: libc::c_long = 29;

/// The part of `union bpf_attr` that `BPF_OBJ_GET` reads.
#[repr(C)]
struct ObjectGet {
    path: u64,
    fd: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that `BPF_LINK_UPDATE` reads.
#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// Puts `program` behind the link pinned at `path`. `false` if there is no such link, or its
/// target is gone, in which case the pin is removed.
pub fn adopt(path: &Path, program: BorrowedFd<'_>) -> Result<bool, KernelError> {
    if !path.exists() {
        return Ok(false);
    }
    let failed = |source| KernelError::LinkUpdate { path: path.to_owned(), source };
    match open(path).and_then(|link| update(&link, program)) {
        Ok(()) => Ok(true),
        // The cgroup or network namespace has died.
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {
            std::fs::remove_file(path).map_err(failed)?;
            Ok(false)
        }
        Err(error) => Err(failed(error)),
    }
}

pub fn pin(link: FdLink, path: &Path) -> Result<(), KernelError> {
    let pinned = link.pin(path);
    pinned.map(drop).map_err(|error| KernelError::Pin {
        path: path.to_owned(),
        source: io::Error::other(error),
    })
}

#[allow(unsafe_code)]
fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = ObjectGet { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    // SAFETY: bpf(2) reads the attributes, which have the given size, and the path, which ends in
    // NUL and lives until after the call. aya opens pinned links but does not lend their fd.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &raw const attributes, size_of::<ObjectGet>())
    };
    match i32::try_from(fd) {
        // SAFETY: the kernel has just made this fd for us.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[allow(unsafe_code)]
fn update(link: &OwnedFd, program: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = LinkUpdate {
        link_fd: link.as_raw_fd().cast_unsigned(),
        new_prog_fd: program.as_raw_fd().cast_unsigned(),
        flags: 0,
        old_prog_fd: 0,
    };
    // SAFETY: bpf(2) reads the attributes, which have the given size; both fds are open. aya 0.14
    // has no call for it.
    let failed = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_LINK_UPDATE,
            &raw const attributes,
            size_of::<LinkUpdate>(),
        )
    };
    match failed {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
