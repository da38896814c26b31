//! What the agent asks of the system for its own process.

use std::{
    fs, io,
    os::{
        fd::AsFd,
        unix::{fs::MetadataExt as _, net::UnixStream},
    },
    path::PathBuf,
};

use nix::{
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::{Signal, kill},
        socket::{getsockopt, sockopt::PeerCredentials},
        statfs::{CGROUP2_SUPER_MAGIC, statfs},
    },
    unistd::{Pid, geteuid},
};

/// Raises the number of files that this process may have open to what it is allowed to have: each
/// connection needs two.
pub fn raise_open_files() -> io::Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

/// The process that listens at the other end of a Unix socket.
pub fn peer_of(socket: &UnixStream) -> io::Result<i32> {
    Ok(getsockopt(socket, PeerCredentials)?.pid())
}

/// Whether the process at the other end of a Unix socket acts as the same user as this one, or did so
/// when it connected or began to listen (unix(7)).
pub fn is_of_own_user(socket: &impl AsFd) -> io::Result<bool> {
    Ok(getsockopt(socket, PeerCredentials)?.uid() == geteuid().as_raw())
}

/// Asks a process to end, in order.
pub fn terminate(process: i32) -> io::Result<()> {
    Ok(kill(Pid::from_raw(process), Signal::SIGTERM)?)
}

/// Where the cgroup v2 hierarchy is mounted; of several mounts, the one that shows most of it.
pub fn cgroup_root() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    find_cgroup2(&mounts).ok_or_else(|| {
        io::Error::other(
            "no cgroup v2 is mounted; mount one, or name its directory as `node.cgroup`",
        )
    })
}

/// Mounts are `id parent device root path … - type …` (proc_pid_mountinfo(5)). In a container, the
/// host's hierarchy has a root like `/../..`, seen from the container's own cgroup namespace, which
/// is mounted as `/`.
fn find_cgroup2(mounts: &str) -> Option<PathBuf> {
    let found = mounts.lines().filter_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, path) = (fields.next()?, fields.next()?);
        let above = root.split('/').filter(|part| *part == "..").count();
        let is_whole = root == "/" || above > 0;
        kind.starts_with("cgroup2 ").then(|| ((above, is_whole), PathBuf::from(path)))
    });
    // The first of equals.
    let mut best: Option<((usize, bool), PathBuf)> = None;
    for one in found {
        if best.as_ref().is_none_or(|best| one.0 > best.0) {
            best = Some(one);
        }
    }
    best.map(|(_, path)| path)
}

/// Whether this process is in a cgroup, given by its directory's inode, or below it. `None` if that
/// can't be seen from here, as in a cgroup namespace of one's own.
pub(crate) fn is_below_cgroup(inode: u64) -> io::Result<Option<bool>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let groups = fs::read_to_string("/proc/self/cgroup")?;
    let Some(own) = own_cgroup(&mounts, &groups) else { return Ok(None) };
    for directory in own.ancestors() {
        // Above the root of the hierarchy are directories of other file systems.
        if statfs(directory)?.filesystem_type() != CGROUP2_SUPER_MAGIC {
            break;
        }
        if fs::metadata(directory)?.ino() == inode {
            return Ok(Some(true));
        }
    }
    Ok(Some(false))
}

/// Mounts are `id parent device root path … - type …` (proc_pid_mountinfo(5)); a root other than
/// `/` is that of another cgroup namespace. Groups are `0::path` (cgroups(7)).
fn own_cgroup(mounts: &str, groups: &str) -> Option<PathBuf> {
    let root = mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, path) = (fields.next()?, fields.next()?);
        (kind.starts_with("cgroup2 ") && root == "/").then(|| PathBuf::from(path))
    })?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    (!path.starts_with("..")).then(|| root.join(path))
}

/// Gives back the pages of this program's code: most of them were needed for the start alone. What is
/// needed again is mapped again from the page cache, a few pages at a time. Marked as cold, they are
/// also the first to go when memory is short (`MADV_COLD`, Linux 5.4).
pub fn give_back_code() -> io::Result<()> {
    for (start, length) in own_code(&fs::read_to_string("/proc/self/maps")?) {
        for advice in [libc::MADV_COLD, libc::MADV_DONTNEED] {
            // SAFETY: pages of a file that is mapped without the right to write differ from the file
            // in nothing, so what is dropped is read again as it was.
            #[allow(unsafe_code)]
            let advised = unsafe { libc::madvise(start as *mut libc::c_void, length, advice) };
            if advised != 0 {
                return Err(io::Error::last_os_error());
            }
        }
    }
    Ok(())
}

/// Mappings are `from-to permissions offset device inode path` (proc_pid_maps(5)).
fn own_code(maps: &str) -> Vec<(usize, usize)> {
    let code = maps.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (range, permissions) = (fields.next()?, fields.next()?);
        let inode = fields.nth(2)?;
        let (from, to) = range.split_once('-')?;
        let from = usize::from_str_radix(from, 16).ok()?;
        let to = usize::from_str_radix(to, 16).ok()?;
        (permissions == "r-xp" && inode != "0").then_some((from, to - from))
    });
    code.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_what_is_mapped_from_files_to_be_run_and_not_to_be_written() {
        let maps = "\
            1000-3000 r--p 00000000 fd:00 7     /usr/bin/martlet-agent\n\
            3000-8000 r-xp 00002000 fd:00 7     /usr/bin/martlet-agent\n\
            8000-9000 r--p 00007000 fd:00 7     /usr/bin/martlet-agent\n\
            9000-a000 rw-p 00008000 fd:00 7     /usr/bin/martlet-agent\n\
            b000-c000 rwxp 00000000 fd:00 8     /tmp/patched\n\
            d000-e000 r-xp 00000000 00:00 0     [vdso]\n\
            f000-f800 r-xp 00000000 00:00 0\n";
        assert_eq!(own_code(maps), [(0x3000, 0x5000)]);
    }

    #[test]
    fn a_program_runs_on_after_it_has_given_back_its_code() {
        let resident = || -> usize {
            let statm = fs::read_to_string("/proc/self/statm").unwrap();
            statm.split(' ').nth(2).unwrap().parse().unwrap()
        };
        let before = resident();
        give_back_code().unwrap();
        let after = resident();
        assert!(after < before, "{after} of {before} shared pages");
    }

    #[test]
    fn the_own_cgroup_is_known_unless_a_namespace_hides_it() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw\n";
        let own = own_cgroup(mounts, "1:cpu:/x\n0::/system.slice/martlet\n");
        assert_eq!(own, Some("/sys/fs/cgroup/system.slice/martlet".into()));
        assert_eq!(own_cgroup(mounts, "0::/\n"), Some("/sys/fs/cgroup/".into()));
        assert_eq!(own_cgroup(mounts, "0::/../other\n"), None);
        let hidden = mounts.replace(" / /sys", " /../.. /sys");
        assert_eq!(own_cgroup(&hidden, "0::/\n"), None);
    }

    #[test]
    fn the_second_version_is_told_from_the_first() {
        let mounts = "30 23 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
            31 23 0:28 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(find_cgroup2(mounts), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(find_cgroup2("22 1 0:5 / /proc rw - proc proc rw\n"), None);
    }

    #[test]
    fn in_a_container_the_hosts_hierarchy_is_taken_and_not_the_containers() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n\
            32 23 0:28 /../../.. /host/cgroup rw - cgroup2 cgroup2 rw\n\
            33 23 0:28 /some/group /other rw - cgroup2 cgroup2 rw\n";
        assert_eq!(find_cgroup2(mounts), Some("/host/cgroup".into()));
        let parts = "33 23 0:28 /some/group /other rw - cgroup2 cgroup2 rw\n\
            34 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(find_cgroup2(parts), Some("/sys/fs/cgroup".into()));
    }

    #[test]
    fn the_limit_of_open_files_is_raised_to_the_hard_one() {
        let raised = raise_open_files().unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (raised, raised));
    }
}
