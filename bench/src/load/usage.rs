//! CPU time so far: this process's, and the whole machine's.

use std::fs;

use anyhow::{Context, Result};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::{TimeVal, TimeValLike as _},
};

/// `/proc/stat` counts in `USER_HZ`, which is 100 on every architecture that we run on (proc_stat(5)).
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Debug, Clone, Copy)]
pub struct Usage {
    pub own_cpu_seconds: f64,
    pub machine_cpu_seconds: f64,
}

impl Usage {
    pub fn now() -> Result<Usage> {
        let own = getrusage(UsageWho::RUSAGE_SELF).context("reading our own CPU time")?;
        let machine = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
        Ok(Usage {
            own_cpu_seconds: seconds(own.user_time()) + seconds(own.system_time()),
            machine_cpu_seconds: busy_seconds(&machine).context("parsing /proc/stat")?,
        })
    }

    pub fn since(self, earlier: Usage) -> Usage {
        Usage {
            own_cpu_seconds: self.own_cpu_seconds - earlier.own_cpu_seconds,
            machine_cpu_seconds: self.machine_cpu_seconds - earlier.machine_cpu_seconds,
        }
    }
}

fn seconds(time: TimeVal) -> f64 {
    time.num_microseconds() as f64 / 1e6
}

/// Without idle and iowait (nothing ran), without steal (others ran), and without guests, which
/// are in user time already (proc_stat(5)).
fn busy_seconds(stat: &str) -> Option<f64> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = fields.split_whitespace().map_while(|field| field.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = ticks[..] else { return None };
    Some((user + nice + system + irq + softirq) as f64 / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_stolen_time_is_not_busy() {
        let stat = "cpu  100 20 300 99999 8888 4 6 7777 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(busy_seconds(stat), Some(4.3));
    }

    #[test]
    fn another_text_is_refused() {
        assert_eq!(busy_seconds("cpu 1 2 3\n"), None);
        assert_eq!(busy_seconds("intr 1 2 3 4 5 6 7\n"), None);
    }
}
