//! What root, or another tool, can do to Martlet's objects in the kernel, by the system calls alone.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
    ptr,
};

use anyhow::{Context as _, Result};
use socket2::{Protocol, Socket};

/// Commands of `enum bpf_cmd` (include/uapi/linux/bpf.h).
const MAP_CREATE: i64 = 0;
const MAP_LOOKUP: i64 = 1;
const MAP_UPDATE: i64 = 2;
const MAP_DELETE: i64 = 3;
const MAP_NEXT_KEY: i64 = 4;
const PROG_LOAD: i64 = 5;
const PIN: i64 = 6;
const GET: i64 = 7;
const PROG_ATTACH: i64 = 8;
const PROG_DETACH: i64 = 9;
const PROG_BY_ID: i64 = 13;
const MAP_BY_ID: i64 = 14;
const INFO: i64 = 15;
const LINK_UPDATE: i64 = 29;
const LINK_BY_ID: i64 = 30;
const LINK_DETACH: i64 = 34;

/// Of `enum bpf_map_type` (include/uapi/linux/bpf.h).
const HASH: u32 = 1;
const LRU_HASH: u32 = 9;
const HASH_OF_MAPS: u32 = 13;

/// A kind of program, and where it may be attached, as the kernel numbers both.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    pub program: u32,
    pub attach: u32,
    /// What the program answers.
    pub answer: i32,
}

/// One of the words of `union bpf_attr`, in order; they are packed as the kernel lays them out.
#[derive(Clone, Copy)]
enum Word {
    Four(u32),
    Eight(u64),
}

use Word::{Eight, Four};

fn bpf(command: i64, words: &[Word]) -> io::Result<i64> {
    let mut bytes = Vec::new();
    for word in words {
        match word {
            Four(word) => bytes.extend(word.to_ne_bytes()),
            Eight(word) => bytes.extend(word.to_ne_bytes()),
        }
    }
    #[allow(unsafe_code)]
    // SAFETY: bpf(2) reads as many bytes as it is told; pointers in them lead to memory of the
    // caller that is alive and as large as the map or the program says.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, bytes.as_ptr(), bytes.len()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn fd(number: i64) -> Result<OwnedFd> {
    #[allow(unsafe_code)]
    // SAFETY: the kernel has just made this fd for us.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(number)?) })
}

fn number(fd: &OwnedFd) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn text(path: &Path) -> Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// What is pinned at a path.
pub fn open(path: &Path) -> Result<OwnedFd> {
    let name = text(path)?;
    let opened = bpf(GET, &[Eight(name.as_ptr() as u64), Four(0), Four(0)]);
    fd(opened.with_context(|| format!("opening {}", path.display()))?)
}

pub fn detach(link: &Path) -> Result<()> {
    bpf(LINK_DETACH, &[Four(number(&open(link)?))]).context("detaching a link")?;
    Ok(())
}

/// Puts a program that does nothing behind a link.
pub fn replace(link: &Path, kind: Kind) -> Result<()> {
    let (link, program) = (open(link)?, program(kind)?);
    bpf(LINK_UPDATE, &[Four(number(&link)), Four(number(&program)), Four(0), Four(0)])
        .context("replacing the program of a link")?;
    Ok(())
}

/// A program that only answers.
fn program(kind: Kind) -> Result<OwnedFd> {
    // r0 = answer; exit
    let answer = u64::from(kind.answer.cast_unsigned()) << 32 | 0xb7;
    let code = [answer, 0x95_u64];
    let license = c"GPL";
    let mut words = vec![
        Four(kind.program),
        Four(2),
        Eight(code.as_ptr() as u64),
        Eight(license.as_ptr() as u64),
        Four(0),
        Four(0),
        Eight(0),
        Four(0),
        Four(0),
    ];
    words.extend([Eight(0), Eight(0), Four(0), Four(kind.attach)]);
    fd(bpf(PROG_LOAD, &words).context("loading a program")?)
}

/// A program before all others at an interface of this thread's network namespace, until dropped.
pub struct InFront {
    interface: u32,
    program: OwnedFd,
    attach: u32,
}

impl InFront {
    pub fn attach(interface: &str, kind: Kind) -> Result<Self> {
        let name = CString::new(interface)?;
        #[allow(unsafe_code)]
        // SAFETY: the name is a string that ends in NUL.
        let interface = unsafe { libc::if_nametoindex(name.as_ptr()) };
        let program = program(kind)?;
        const BEFORE: u32 = 1 << 3;
        let words = [interface, number(&program), kind.attach, BEFORE, 0, 0].map(Four);
        bpf(PROG_ATTACH, &[&words[..], &[Eight(0)]].concat()).context("attaching a program")?;
        Ok(Self { interface, program, attach: kind.attach })
    }

    /// Takes it away again, in the same network namespace.
    pub fn detach(self) -> Result<()> {
        let words = [self.interface, number(&self.program), self.attach, 0, 0, 0].map(Four);
        bpf(PROG_DETACH, &[&words[..], &[Eight(0)]].concat()).context("detaching a program")?;
        Ok(())
    }
}

/// Pins a map of ours in the place of another one.
pub fn replace_map(pin: &Path) -> Result<()> {
    let words = [1, 8, 8, 16, 0].map(Four);
    let map = fd(bpf(MAP_CREATE, &words).context("making a map")?)?;
    fs::remove_file(pin)?;
    let name = text(pin)?;
    bpf(PIN, &[Eight(name.as_ptr() as u64), Four(number(&map)), Four(0)]).context("pinning")?;
    Ok(())
}

/// The entries of a pinned map.
pub struct Entries {
    map: OwnedFd,
    key: usize,
    value: usize,
}

impl Entries {
    pub fn open(pin: &Path) -> Result<Self> {
        Self::of(open(pin)?)
    }

    fn of(map: OwnedFd) -> Result<Self> {
        let info = info(&map)?;
        Ok(Self { map, key: info[2] as usize, value: info[3] as usize })
    }

    pub fn keys(&self) -> Result<Vec<Vec<u8>>> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        loop {
            let mut next = vec![0_u8; self.key];
            let last = keys.last().map_or(ptr::null(), |key| key.as_ptr());
            match self.call(MAP_NEXT_KEY, last, next.as_mut_ptr()) {
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(keys),
                called => called.context("reading the keys")?,
            };
            keys.push(next);
        }
    }

    pub fn get(&self, key: &[u8]) -> Result<Vec<u8>> {
        let mut value = vec![0_u8; self.value];
        self.call(MAP_LOOKUP, key.as_ptr(), value.as_mut_ptr()).context("reading an entry")?;
        Ok(value)
    }

    pub fn set(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let mut value = value.to_vec();
        self.call(MAP_UPDATE, key.as_ptr(), value.as_mut_ptr()).context("writing an entry")?;
        Ok(())
    }

    pub fn remove(&self, key: &[u8]) -> Result<()> {
        self.call(MAP_DELETE, key.as_ptr(), ptr::null_mut()).context("removing an entry")?;
        Ok(())
    }

    /// Keys and values have the map's sizes.
    fn call(&self, command: i64, key: *const u8, value: *mut u8) -> io::Result<i64> {
        let words =
            [Four(number(&self.map)), Four(0), Eight(key as u64), Eight(value as u64), Eight(0)];
        bpf(command, &words)
    }
}

/// What is in the pinned maps whose keys or values have room for so many bytes, by the maps' names;
/// of maps of maps, what is in those within.
pub fn contents(pin: &Path, room: usize) -> Result<Vec<(String, Vec<u8>)>> {
    let mut all = Vec::new();
    for pin in fs::read_dir(version(pin)?.join("maps"))? {
        let pin = pin?.path();
        let name = pin.file_name().context("a pin has a name")?.to_string_lossy().into_owned();
        let map = open(&pin)?;
        let [kind, ..] = info(&map)?;
        // The others belong to sockets, or are read by their readers only.
        let within = match kind {
            HASH | LRU_HASH => vec![map],
            HASH_OF_MAPS => inner(Entries::of(map)?)?,
            _ => continue,
        };
        for map in within {
            let entries = Entries::of(map)?;
            if entries.key.max(entries.value) < room {
                continue;
            }
            let mut bytes = Vec::new();
            for key in entries.keys()? {
                // What is gone meanwhile has been forgotten.
                bytes.extend(entries.get(&key).unwrap_or_default());
                bytes.extend(key);
            }
            all.push((name.clone(), bytes));
        }
    }
    Ok(all)
}

fn inner(outer: Entries) -> Result<Vec<OwnedFd>> {
    let mut maps = Vec::new();
    for key in outer.keys()? {
        let number = u32::from_ne_bytes(outer.get(&key)?.try_into().ok().context("a number")?);
        maps.push(fd(bpf(MAP_BY_ID, &[Four(number), Four(0), Four(0)])?)?);
    }
    Ok(maps)
}

/// Where an agent has pinned its maps and links: below the version of their layout.
pub fn version(pin: &Path) -> Result<PathBuf> {
    let mut found = fs::read_dir(pin).context("listing the pins")?;
    Ok(found.next().context("nothing is pinned")??.path())
}

/// The pinned links whose names begin so.
pub fn links(pin: &Path, beginning: &str) -> Result<Vec<PathBuf>> {
    let all = fs::read_dir(version(pin)?.join("links"))?;
    let mut found = Vec::new();
    for entry in all {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(beginning) {
            found.push(entry.path());
        }
    }
    found.sort();
    anyhow::ensure!(!found.is_empty(), "no link is called {beginning}");
    Ok(found)
}

/// Copies of the sockets on which a process listens by TCP.
pub fn listeners_of(process: u32) -> Result<Vec<Socket>> {
    let pid = libc::pid_t::try_from(process)?;
    #[allow(unsafe_code)]
    // SAFETY: pidfd_open(2) takes two numbers.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    anyhow::ensure!(pidfd >= 0, "opening a process: {}", io::Error::last_os_error());
    let pidfd = fd(pidfd)?;
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/proc/{process}/fd"))? {
        let entry = entry?;
        if !fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))
        {
            continue;
        }
        let theirs: i32 = entry.file_name().to_string_lossy().parse()?;
        #[allow(unsafe_code)]
        // SAFETY: pidfd_getfd(2) takes three numbers.
        let ours = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), theirs, 0) };
        anyhow::ensure!(ours >= 0, "copying a socket: {}", io::Error::last_os_error());
        let socket = Socket::from(fd(ours)?);
        let is_tcp = socket.protocol().is_ok_and(|protocol| protocol == Some(Protocol::TCP));
        if is_tcp && socket.is_listener()? {
            found.push(socket);
        }
    }
    Ok(found)
}

/// Something in the kernel, by its number among those of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Object {
    Program(u32),
    Map(u32),
    Link(u32),
}

impl Object {
    pub fn exists(&self) -> bool {
        let (command, number) = match *self {
            Object::Program(number) => (PROG_BY_ID, number),
            Object::Map(number) => (MAP_BY_ID, number),
            Object::Link(number) => (LINK_BY_ID, number),
        };
        bpf(command, &[Four(number), Four(0), Four(0)]).is_ok_and(|found| fd(found).is_ok())
    }
}

/// All maps and links that are pinned below a directory, and the links' programs.
pub fn objects(pin: &Path) -> Result<Vec<Object>> {
    let mut found = Vec::new();
    for path in fs::read_dir(version(pin)?.join("maps"))? {
        found.push(Object::Map(info(&open(&path?.path())?)?[1]));
    }
    for path in links(pin, "")? {
        let info = info(&open(&path)?)?;
        found.extend([Object::Link(info[1]), Object::Program(info[2])]);
    }
    Ok(found)
}

/// Type, number, and for links the program's number, for maps the sizes of key and value: the start
/// of `struct bpf_link_info` and `struct bpf_map_info`.
fn info(object: &OwnedFd) -> Result<[u32; 4]> {
    let mut info = [0_u32; 4];
    let words = [Four(number(object)), Four(16), Eight(info.as_mut_ptr() as u64)];
    bpf(INFO, &words).context("asking about an object")?;
    Ok(info)
}
