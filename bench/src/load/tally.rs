//! What one worker has counted, and the sum of all.

use std::{collections::BTreeMap, io, time::Duration};

use martlet_bench::Report;
use tokio::time::Instant;

use crate::{histogram::Histogram, usage::Usage};

/// What happens from `begin` to before `end` is counted.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    pub begin: Instant,
    pub end: Instant,
}

#[derive(Debug)]
pub struct Tally {
    window: Window,
    count: u64,
    per_second: Vec<u64>,
    durations: Histogram,
    errors: BTreeMap<String, u64>,
}

impl Window {
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    fn length(&self) -> Duration {
        self.end - self.begin
    }
}

impl Tally {
    pub fn new(window: Window) -> Tally {
        Tally {
            window,
            count: 0,
            per_second: vec![0; window.length().as_secs() as usize],
            durations: Histogram::new(),
            errors: BTreeMap::new(),
        }
    }

    /// Counts one operation that began at `begun` and has just ended.
    pub fn exchange(&mut self, begun: Instant) {
        let now = Instant::now();
        if self.add(now, 1) {
            self.durations.add(now - begun);
        }
    }

    pub fn bytes(&mut self, amount: usize) {
        self.add(Instant::now(), amount as u64);
    }

    pub fn error(&mut self, operation: &str, error: &io::Error) {
        self.failure(&format!("{operation}: {}", error.kind()));
    }

    pub fn failure(&mut self, what: &str) {
        *self.errors.entry(what.to_owned()).or_default() += 1;
    }

    pub fn merge(&mut self, other: &Tally) {
        self.count += other.count;
        for (mine, theirs) in self.per_second.iter_mut().zip(&other.per_second) {
            *mine += theirs;
        }
        self.durations.merge(&other.durations);
        for (what, count) in &other.errors {
            *self.errors.entry(what.clone()).or_default() += count;
        }
    }

    pub fn report(self, usage: Usage) -> Report {
        Report {
            seconds: self.window.length().as_secs_f64(),
            count: self.count,
            per_second: self.per_second,
            latency: self.durations.latency(),
            errors: self.errors,
            own_cpu_seconds: usage.own_cpu_seconds,
            machine_cpu_seconds: usage.machine_cpu_seconds,
        }
    }

    fn add(&mut self, at: Instant, amount: u64) -> bool {
        let is_inside = (self.window.begin..self.window.end).contains(&at);
        if is_inside {
            self.count += amount;
            let second = (at - self.window.begin).as_secs() as usize;
            // The last second may be a part of one, which would look like a slow one.
            if let Some(count) = self.per_second.get_mut(second) {
                *count += amount;
            }
        }
        is_inside
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_ends_inside_the_window_counts() {
        let begin = Instant::now();
        let window = Window { begin, end: begin + Duration::from_millis(2500) };
        let mut tally = Tally::new(window);
        for at in [0, 900, 1100, 2400] {
            assert!(tally.add(begin + Duration::from_millis(at), 2));
        }
        assert!(!tally.add(window.end, 2));
        assert!(!tally.add(begin - Duration::from_millis(1), 2));
        assert_eq!((tally.count, tally.per_second), (8, vec![4, 2]));
    }
}
