//! What a process holds, read from `/proc` (proc_pid_status(5)).

use std::fs;

use anyhow::{Context, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resources {
    pub files: usize,
    pub threads: u64,
    pub resident_bytes: u64,
}

impl Resources {
    pub fn of(pid: u32) -> Result<Resources> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))
            .with_context(|| format!("reading the status of process {pid}"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
            number.with_context(|| format!("the status of process {pid} has no {name}"))
        };
        Ok(Resources {
            files: fs::read_dir(format!("/proc/{pid}/fd")).context("listing its files")?.count(),
            threads: field("Threads:")?,
            resident_bytes: field("VmRSS:")? * 1024,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_opened_is_counted() {
        let pid = std::process::id();
        let before = Resources::of(pid).unwrap();
        let opened: Vec<_> = (0..100).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        let after = Resources::of(pid).unwrap();
        assert!(after.files >= before.files + 90, "{before:?} {after:?}");
        assert!(after.threads >= 1 && after.resident_bytes > 1 << 16);
        drop(opened);
    }
}
