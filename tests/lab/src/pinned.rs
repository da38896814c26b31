//! What is pinned below a directory, asked of the kernel itself: links, and how many entries each
//! map has.

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
    ptr,
};

use anyhow::{Context as _, Result};

/// Of `enum bpf_cmd` and `union bpf_attr` (include/uapi/linux/bpf.h).
const BPF_MAP_GET_NEXT_KEY: libc::c_long = 4;
const BPF_OBJ_GET: libc::c_long = 7;
/// Maps with entries for pods; the two that are left out hold what is in flight or was, and drop
/// the oldest.
pub const OF_PODS: &[&str] =
    &["WORKLOADS", "OUTSIDE", "MEMBERS", "RECEIVERS", "LISTENERS", "LISTENING", "FOUND", "GUARDED"];
/// No key of ours is longer.
const KEY: usize = 256;

#[repr(C)]
struct ObjectGet {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
struct NextKey {
    map: u32,
    padding: u32,
    key: u64,
    next: u64,
}

/// How many entries each of the maps pinned in `pin/v*/maps` has, and how many links there are,
/// under the name `links`. Maps without keys that can be listed are left out.
pub fn entries(pin: &Path, maps: &[&str]) -> Result<BTreeMap<String, usize>> {
    let mut found = BTreeMap::new();
    for version in fs::read_dir(pin).context("listing the pins")? {
        let version = version?.path();
        let links = fs::read_dir(version.join("links")).context("listing the links")?.count();
        *found.entry("links".to_owned()).or_insert(0) += links;
        for name in maps {
            let count = count(&version.join("maps").join(name))
                .with_context(|| format!("counting the entries of {name}"))?;
            *found.entry((*name).to_owned()).or_insert(0) += count;
        }
    }
    Ok(found)
}

fn count(path: &Path) -> io::Result<usize> {
    let map = open(path)?;
    let (mut key, mut next) = ([0_u8; KEY], [0_u8; KEY]);
    let mut entries = 0;
    loop {
        let attributes = NextKey {
            map: map.as_raw_fd().cast_unsigned(),
            padding: 0,
            // No key: the first one.
            key: if entries == 0 { 0 } else { key.as_mut_ptr() as u64 },
            next: next.as_mut_ptr() as u64,
        };
        match bpf(BPF_MAP_GET_NEXT_KEY, &attributes) {
            Ok(_) => entries += 1,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(entries),
            Err(error) => return Err(error),
        }
        key = next;
    }
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let fd = bpf(BPF_OBJ_GET, &ObjectGet { path: path.as_ptr() as u64, fd: 0, flags: 0 })?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    #[allow(unsafe_code)]
    // SAFETY: the kernel has just made this fd for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[allow(unsafe_code)]
fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<libc::c_long> {
    // SAFETY: bpf(2) reads the attributes, which have the given size; pointers in them lead to a
    // path that ends in NUL or to buffers of KEY bytes, which no map's key exceeds.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_ref(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
