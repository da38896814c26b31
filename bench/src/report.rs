//! What the load generator says about one run: a line of JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::limits;

/// Counts belong to the measured window; warm-up and ending are left out.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    pub seconds: f64,
    /// Bytes in bulk mode, round trips or connections otherwise.
    pub count: u64,
    /// The same count for each full second of the window.
    pub per_second: Vec<u64>,
    pub latency: Option<Latency>,
    /// What failed, by operation and kind; also outside the window.
    pub errors: BTreeMap<String, u64>,
    /// The load generator's own CPU time.
    pub own_cpu_seconds: f64,
    /// What all processors of the machine were busy for, whoever kept them so.
    pub machine_cpu_seconds: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    pub p50_us: f64,
    pub p99_us: f64,
}

impl Report {
    pub fn rate(&self) -> f64 {
        self.count as f64 / self.seconds
    }

    /// Machine CPU for one byte, round trip or connection.
    pub fn machine_cpu_each(&self) -> f64 {
        self.machine_cpu_seconds / self.count as f64
    }

    /// The rate from the tenth second on, as a part of the rate in the first three.
    ///
    /// Short runs, which only show that everything works, compare their halves.
    pub fn steadiness(&self) -> f64 {
        let half = self.per_second.len() / 2;
        let early = &self.per_second[..limits::EARLY_SECONDS.min(half)];
        self.late_rate() / mean(early)
    }

    /// The rate from the tenth second on, or of a short run's second half.
    pub fn late_rate(&self) -> f64 {
        let half = self.per_second.len() / 2;
        mean(&self.per_second[limits::LATE_FROM_SECOND.min(half)..])
    }
}

fn mean(counts: &[u64]) -> f64 {
    counts.iter().sum::<u64>() as f64 / counts.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steadiness_leaves_out_what_lies_between_start_and_wear() {
        let mut per_second = vec![100; 3];
        per_second.extend([7; 7]);
        per_second.extend([90; 50]);
        let report = Report { per_second, ..Report::default() };
        assert_eq!(report.steadiness(), 0.9);
    }

    #[test]
    fn a_run_of_two_seconds_compares_its_halves() {
        let report = Report { per_second: vec![100, 50], ..Report::default() };
        assert_eq!(report.steadiness(), 0.5);
    }
}
