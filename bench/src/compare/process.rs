//! What a process has used so far, as `/proc` says.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use martlet_bench::limits;

/// `/proc/<pid>/stat` counts in `USER_HZ`, which is 100 on every architecture that we run on
/// (proc_pid_stat(5)).
const TICKS_PER_SECOND: f64 = 100.0;

pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    parse_cpu_seconds(&stat).with_context(|| format!("parsing {path}"))
}

/// What a process has in memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    pub resident: u64,
    /// Without pages of files: of those, more is mapped the more of the program runs, and they are
    /// the page cache's.
    pub anonymous: u64,
}

/// Memory of each, its smallest within some time: what is freed is not always free at once.
pub fn settled_memory(pids: &[u32], within: Duration) -> Result<Vec<Memory>> {
    let deadline = Instant::now() + within;
    let look = || pids.iter().map(|pid| memory(*pid)).collect::<Result<Vec<_>>>();
    let mut smallest = look()?;
    while Instant::now() < deadline {
        thread::sleep(limits::LOOK_AT_MEMORY);
        for (smallest, now) in smallest.iter_mut().zip(look()?) {
            smallest.resident = now.resident.min(smallest.resident);
            smallest.anonymous = now.anonymous.min(smallest.anonymous);
        }
    }
    Ok(smallest)
}

/// `VmRSS` of `status` is counted per processor and may be off; this is not (proc_pid_smaps(5)).
fn memory(pid: u32) -> Result<Memory> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let rollup = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    parse_memory(&rollup).with_context(|| format!("parsing {path}"))
}

fn parse_memory(rollup: &str) -> Option<Memory> {
    let bytes = |name: &str| -> Option<u64> {
        let value = rollup.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    };
    Some(Memory { resident: bytes("Rss:")?, anonymous: bytes("Anonymous:")? })
}

/// The name, field 2, may hold anything, also spaces and parentheses.
fn parse_cpu_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some((ticks()? + ticks()?) as f64 / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_system_time_are_found_behind_an_odd_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 9 9 20 0 5 0 1 1 1\n";
        assert_eq!(parse_cpu_seconds(stat), Some(3.0));
        assert_eq!(parse_cpu_seconds("7 (a"), None);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let rollup = "55d0-7ffe ---p 00000000 00:00 0   [rollup]\nRss:    1234 kB\nPss:  12 kB\n\
            Anonymous:  7 kB\n";
        let read = Memory { resident: 1234 * 1024, anonymous: 7 * 1024 };
        assert_eq!(parse_memory(rollup), Some(read));
        assert_eq!(parse_memory("Rss: 1 kB\n"), None);
    }

    #[test]
    fn our_own_process_has_memory_and_time() {
        let own = std::process::id();
        assert!(settled_memory(&[own], Duration::ZERO).unwrap()[0].anonymous > 0);
        assert!(cpu_seconds(own).unwrap() >= 0.0);
    }
}
