//! What the agent's program in `connect()` costs, as the kernel itself counts it.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

/// Commands of bpf(2), from `enum bpf_cmd`.
/// <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/bpf.h>
const OBJ_GET: libc::c_long = 7;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const ENABLE_STATS: libc::c_long = 32;

/// The program behind a link that an agent has pinned.
pub struct Program(OwnedFd);

/// While it lives, the kernel counts what all programs cost. (Counting has its price, too.)
pub struct Counting(#[expect(dead_code, reason = "ends with it")] OwnedFd);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Runs {
    pub nanoseconds: u64,
    pub count: u64,
}

/// The part of `union bpf_attr` that these commands read; the kernel takes the rest for zero.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    first: u64,
    second: u64,
}

impl Program {
    /// `pin` is the agent's directory on the bpffs.
    pub fn behind_link(pin: &Path, name: &str) -> Result<Program> {
        let path = find_link(pin, name)?;
        let text = CString::new(path.as_os_str().as_bytes()).context("a path with a NUL")?;
        let attributes = Attributes { first: text.as_ptr() as u64, second: 0 };
        let link = bpf(OBJ_GET, &attributes)
            .with_context(|| format!("opening the link {}", path.display()))?;
        let id = field(&fdinfo(&link)?, "prog_id").context("the link shows no program")?;
        let program = bpf(PROG_GET_FD_BY_ID, &Attributes { first: id, second: 0 })
            .with_context(|| format!("opening the program {id}"))?;
        Ok(Program(program))
    }

    pub fn runs(&self) -> Result<Runs> {
        parse_runs(&fdinfo(&self.0)?).context("the kernel does not show a program's runs")
    }
}

impl Counting {
    pub fn begin() -> Result<Counting> {
        let stats = bpf(ENABLE_STATS, &Attributes::default());
        Ok(Counting(stats.context("asking the kernel to count programs' time")?))
    }
}

impl Runs {
    /// Nanoseconds of one run since `earlier`.
    pub fn each_since(self, earlier: Runs) -> Result<f64> {
        let count = self.count - earlier.count;
        ensure!(count > 0, "the program has not run");
        Ok((self.nanoseconds - earlier.nanoseconds) as f64 / count as f64)
    }
}

/// Below a directory that carries the version of the maps' layout.
fn find_link(pin: &Path, name: &str) -> Result<PathBuf> {
    let versions = fs::read_dir(pin).context("listing the agent's pins")?;
    versions
        .filter_map(|entry| Some(entry.ok()?.path().join("links").join(name)))
        .find(|path| path.exists())
        .with_context(|| format!("no link {name} is pinned below {}", pin.display()))
}

fn fdinfo(fd: &OwnedFd) -> Result<String> {
    let path = format!("/proc/self/fdinfo/{}", fd.as_raw_fd());
    fs::read_to_string(&path).with_context(|| format!("reading {path}"))
}

fn parse_runs(info: &str) -> Option<Runs> {
    Some(Runs { nanoseconds: field(info, "run_time_ns")?, count: field(info, "run_cnt")? })
}

fn field(info: &str, name: &str) -> Option<u64> {
    let rest = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    rest.trim().parse().ok()
}

#[allow(unsafe_code)]
fn bpf(command: libc::c_long, attributes: &Attributes) -> io::Result<OwnedFd> {
    // SAFETY: the attributes are as long as said and live until after the call, and so does the
    // path that OBJ_GET's point to; none of the commands writes to them.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, attributes, std::mem::size_of::<Attributes>())
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: each of the commands gives a new file descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(result as i32) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_read_from_what_the_kernel_shows() {
        let info = "pos:\t0\nprog_type:\t18\nrun_time_ns:\t1200\nrun_cnt:\t4\n";
        assert_eq!(parse_runs(info), Some(Runs { nanoseconds: 1200, count: 4 }));
        assert_eq!(parse_runs("pos:\t0\n"), None);
    }

    #[test]
    fn a_run_costs_its_part_of_the_difference() {
        let before = Runs { nanoseconds: 1000, count: 10 };
        let after = Runs { nanoseconds: 4000, count: 20 };
        assert_eq!(after.each_since(before).unwrap(), 300.0);
        assert!(before.each_since(before).is_err());
    }
}
