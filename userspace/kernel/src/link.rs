//! Links: attach and pin a program, or swap the program behind a link that is already pinned.
//!
//! A pinned link keeps its program attached when the agent dies. An agent that starts adopts it: it
//! puts its own program in place, without a moment in which none is attached.

use std::{
    collections::HashSet,
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
    ptr,
};

use aya::programs::links::FdLink;

use crate::KernelError;

/// `BPF_OBJ_GET` of `enum bpf_cmd`, Linux 4.4 (include/uapi/linux/bpf.h).
const BPF_OBJ_GET: libc::c_long = 7;
/// `BPF_OBJ_GET_INFO_BY_FD`, Linux 4.13; of links since 5.8.
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
/// `BPF_LINK_UPDATE`, Linux 5.7.
const BPF_LINK_UPDATE: libc::c_long = 29;
/// `BPF_LINK_DETACH`, Linux 5.9.
const BPF_LINK_DETACH: libc::c_long = 34;

/// What a link is attached to, as the kernel numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The inode of the cgroup's directory.
    Cgroup(u64),
    /// The inode of the network namespace.
    Netns(u32),
    /// The number of the interface, in the agent's network namespace.
    Interface(u32),
}

/// The part of `union bpf_attr` that `BPF_OBJ_GET` reads.
#[repr(C)]
struct ObjectGet {
    path: u64,
    fd: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that `BPF_OBJ_GET_INFO_BY_FD` reads.
#[repr(C)]
struct ObjectGetInfo {
    fd: u32,
    length: u32,
    info: u64,
}

/// The part of `union bpf_attr` that `BPF_LINK_DETACH` reads.
#[repr(C)]
struct LinkDetach {
    link_fd: u32,
}

/// The part of `union bpf_attr` that `BPF_LINK_UPDATE` reads.
#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// The start of `struct bpf_link_info`. The last part is a union: a cgroup's number takes both
/// words, a network namespace's and an interface's the first.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    padding: u32,
    target: [u32; 2],
}

/// Puts `program` behind the link pinned at `path`. `false` if there is no such link, or it leads
/// to something else than `target`, which may have died.
pub fn adopt(path: &Path, program: BorrowedFd<'_>, target: Target) -> Result<bool, KernelError> {
    if !is_attached(path, target)? {
        return Ok(false);
    }
    match open(path).and_then(|link| update(&link, program)) {
        Ok(()) => Ok(true),
        // The cgroup, network namespace or interface has died.
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(false),
        Err(source) => Err(KernelError::LinkUpdate { path: path.to_owned(), source }),
    }
}

/// Whether a link is pinned at `path` and its program is attached to `target`.
pub fn is_attached(path: &Path, target: Target) -> Result<bool, KernelError> {
    let found = open(path).and_then(|link| info(&link));
    match found {
        Ok(info) => Ok(match target {
            // A link whose target has died has the number 0.
            Target::Cgroup(id) => id == bytes_of(info.target),
            Target::Netns(number) | Target::Interface(number) => number == info.target[0],
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(KernelError::Pin { path: path.to_owned(), source }),
    }
}

/// Pins a link, in the place of what was pinned at `path`: that one is detached only afterwards.
pub fn pin(link: FdLink, path: &Path) -> Result<(), KernelError> {
    let failed = |source| KernelError::Pin { path: path.to_owned(), source };
    // A bpffs takes no names with dots.
    let mut beside = path.as_os_str().to_owned();
    beside.push("-new");
    let beside = PathBuf::from(beside);
    remove(&beside).map_err(failed)?;
    link.pin(&beside).map_err(|error| failed(io::Error::other(error)))?;
    fs::rename(&beside, path).map_err(failed)
}

/// Detaches a link and removes its pin; one that is not there is as good as removed.
///
/// Without its pin alone a link is detached only some time later.
pub fn unpin(path: &Path) -> Result<(), KernelError> {
    let failed = |source| KernelError::Pin { path: path.to_owned(), source };
    match open(path) {
        Ok(link) => {
            let attributes = LinkDetach { link_fd: link.as_raw_fd().cast_unsigned() };
            bpf(BPF_LINK_DETACH, &attributes).map_err(failed)?;
            remove(path).map_err(failed)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// Removes the links of pods other than these. A pod's have its cookie in their names, as
/// `program-cookie` or `program-cookie-interface`; the node's have none.
///
/// Which links a pod has is not always known otherwise: its interface's number may be another
/// pod's by now.
pub fn unpin_others(links: &Path, cookies: &HashSet<u64>) -> Result<(), KernelError> {
    let failed = |source| KernelError::Pin { path: links.to_owned(), source };
    for entry in fs::read_dir(links).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let cookie = name.to_str().and_then(|name| name.split('-').nth(1)?.parse().ok());
        if cookie.is_some_and(|cookie| !cookies.contains(&cookie)) {
            unpin(&entry.path())?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn bytes_of(words: [u32; 2]) -> u64 {
    let [a, b] = words.map(u32::to_ne_bytes);
    u64::from_ne_bytes([a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]])
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = ObjectGet { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    let fd = bpf(BPF_OBJ_GET, &attributes)?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    #[allow(unsafe_code)]
    // SAFETY: the kernel has just made this fd for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn info(link: &OwnedFd) -> io::Result<LinkInfo> {
    let mut info = LinkInfo::default();
    let attributes = ObjectGetInfo {
        fd: link.as_raw_fd().cast_unsigned(),
        length: size_of::<LinkInfo>() as u32,
        info: (&raw mut info) as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &attributes)?;
    Ok(info)
}

fn update(link: &OwnedFd, program: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = LinkUpdate {
        link_fd: link.as_raw_fd().cast_unsigned(),
        new_prog_fd: program.as_raw_fd().cast_unsigned(),
        flags: 0,
        old_prog_fd: 0,
    };
    bpf(BPF_LINK_UPDATE, &attributes).map(drop)
}

/// One of the calls above; aya 0.14 has none of them for links. The attributes' type must be the
/// command's.
#[allow(unsafe_code)]
fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<libc::c_long> {
    // SAFETY: bpf(2) reads the attributes, which have the given size; pointers in them lead to a
    // path that ends in NUL or to a `LinkInfo`, alive and of the given length, of its caller.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_ref(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
