//! The commands of bpf(2) that aya 0.14 has no function for.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
    ptr,
};

use aya::Pod;

/// `BPF_MAP_CREATE` of `enum bpf_cmd`, Linux 3.18 (include/uapi/linux/bpf.h); maps of maps since 4.12.
const BPF_MAP_CREATE: libc::c_long = 0;
/// `BPF_OBJ_PIN`, Linux 4.4.
const BPF_OBJ_PIN: libc::c_long = 6;
/// `BPF_OBJ_GET`, Linux 4.4.
const BPF_OBJ_GET: libc::c_long = 7;
/// `BPF_OBJ_GET_INFO_BY_FD`, Linux 4.13; of links since 5.8.
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
/// `BPF_PROG_QUERY`, Linux 4.15; of tcx since 6.6.
const BPF_PROG_QUERY: libc::c_long = 16;
/// `BPF_MAP_LOOKUP_BATCH`, Linux 5.6.
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
/// `BPF_LINK_UPDATE`, Linux 5.7.
const BPF_LINK_UPDATE: libc::c_long = 29;
/// `BPF_LINK_DETACH`, Linux 5.9.
const BPF_LINK_DETACH: libc::c_long = 34;

/// Entries that are read with one call. A bucket of a hash table must fit whole.
const BATCH: usize = 4096;

/// `BPF_MAP_TYPE_HASH_OF_MAPS` of `enum bpf_map_type`.
const HASH_OF_MAPS: u32 = 13;

/// The part of `union bpf_attr` that `BPF_MAP_CREATE` reads of a map without types.
#[repr(C)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    name: [u8; 16],
}

/// The part of `union bpf_attr` that `BPF_OBJ_GET` and `BPF_OBJ_PIN` read.
#[repr(C)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that `BPF_OBJ_GET_INFO_BY_FD` reads.
#[repr(C)]
struct ObjectInfo {
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

/// The part of `union bpf_attr` that `BPF_PROG_QUERY` reads and writes.
#[repr(C)]
#[derive(Default)]
struct Query {
    interface: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
    padding: u32,
    program_flags: u64,
    links: u64,
    link_flags: u64,
    revision: u64,
}

/// The part of `union bpf_attr` that `BPF_MAP_LOOKUP_BATCH` reads and writes.
#[repr(C)]
struct Batch {
    from: u64,
    next: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    element_flags: u64,
    flags: u64,
}

/// The start of `struct bpf_link_info`, whose first two words those of maps and programs have too.
/// The last part is a union: a cgroup's number takes both words, a network namespace's and an
/// interface's the first.
#[repr(C)]
#[derive(Default)]
pub struct Info {
    kind: u32,
    pub id: u32,
    pub program: u32,
    padding: u32,
    pub target: [u32; 2],
}

/// What is pinned at a path.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = Object { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    let fd = bpf(BPF_OBJ_GET, &mut attributes)?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    #[allow(unsafe_code)]
    // SAFETY: the kernel has just made this fd for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A map by whose entries of 64 bits other maps are found, each of the kind of `inner`. `flags` are
/// those of `BPF_MAP_CREATE`.
#[allow(unsafe_code)]
pub fn map_of_maps(
    inner: BorrowedFd<'_>,
    max_entries: u32,
    flags: u32,
    name: &str,
) -> io::Result<OwnedFd> {
    let mut attributes = MapCreate {
        kind: HASH_OF_MAPS,
        key_size: 8,
        value_size: 4,
        max_entries,
        flags,
        inner_map_fd: number(inner),
        numa_node: 0,
        name: [0; 16],
    };
    // The last byte stays zero.
    for (to, from) in attributes.name[..15].iter_mut().zip(name.bytes()) {
        *to = from;
    }
    let fd = bpf(BPF_MAP_CREATE, &mut attributes)?;
    let fd = libc::c_int::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this file descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = Object { path: path.as_ptr() as u64, fd: number(object), flags: 0 };
    bpf(BPF_OBJ_PIN, &mut attributes).map(drop)
}

pub fn info(object: BorrowedFd<'_>) -> io::Result<Info> {
    let mut info = Info::default();
    let mut attributes = ObjectInfo {
        fd: number(object),
        length: size_of::<Info>() as u32,
        info: (&raw mut info) as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attributes)?;
    Ok(info)
}

/// Puts another program behind a link.
pub fn update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let (link_fd, new_prog_fd) = (number(link), number(program));
    let mut attributes = LinkUpdate { link_fd, new_prog_fd, flags: 0, old_prog_fd: 0 };
    bpf(BPF_LINK_UPDATE, &mut attributes).map(drop)
}

pub fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    bpf(BPF_LINK_DETACH, &mut LinkDetach { link_fd: number(link) }).map(drop)
}

/// Which program is the first at an interface of this thread's network namespace.
pub fn first_program(interface: u32, attach_type: u32) -> io::Result<Option<u32>> {
    let mut first = 0_u32;
    let programs = (&raw mut first) as u64;
    let mut query = Query { interface, attach_type, programs, count: 1, ..Query::default() };
    match bpf(BPF_PROG_QUERY, &mut query) {
        // There are more than one.
        Err(error) if error.raw_os_error() != Some(libc::ENOSPC) => Err(error),
        _ => Ok((first != 0).then_some(first)),
    }
}

/// All entries of a hash map, whose keys and values must be of these types.
pub fn entries<K: Pod + Default, V: Pod + Default>(map: BorrowedFd<'_>) -> io::Result<Vec<(K, V)>> {
    let mut all = Vec::new();
    let (mut keys, mut values) = (vec![K::default(); BATCH], vec![V::default(); BATCH]);
    let (mut at, mut next) = (0_u32, 0_u32);
    let mut is_first = true;
    loop {
        let mut batch = Batch {
            from: if is_first { 0 } else { (&raw mut at) as u64 },
            next: (&raw mut next) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: BATCH as u32,
            map_fd: number(map),
            element_flags: 0,
            flags: 0,
        };
        let result = bpf(BPF_MAP_LOOKUP_BATCH, &mut batch);
        let is_last = match result {
            Ok(_) => false,
            // The end of the table.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) => return Err(error),
        };
        let count = batch.count as usize;
        all.extend(keys.iter().copied().zip(values.iter().copied()).take(count));
        if is_last {
            return Ok(all);
        }
        (at, is_first) = (next, false);
    }
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// One of the calls above. The attributes' type must be the command's.
#[allow(unsafe_code)]
fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: bpf(2) reads and writes the attributes, which have the given size; pointers in them
    // lead to memory of their caller that is alive: a path that ends in NUL, an `Info` or a program's
    // number of the given length, or arrays of as many keys and values as the attributes say.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
