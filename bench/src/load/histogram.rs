//! Durations counted in buckets that are at most 1/128 wide of what they hold.

use std::time::Duration;

use martlet_bench::Latency;

const SUB_BITS: u32 = 7;
const SUB: usize = 1 << SUB_BITS;
const GROUPS: usize = 64 - SUB_BITS as usize + 1;

/// The first group holds each nanosecond below 128; each later group doubles its width.
#[derive(Debug, Clone)]
pub struct Histogram {
    buckets: Vec<u64>,
    total: u64,
}

impl Histogram {
    pub fn new() -> Histogram {
        Histogram { buckets: vec![0; GROUPS * SUB], total: 0 }
    }

    pub fn add(&mut self, duration: Duration) {
        self.buckets[index(duration.as_nanos() as u64)] += 1;
        self.total += 1;
    }

    pub fn merge(&mut self, other: &Histogram) {
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.total += other.total;
    }

    pub fn latency(&self) -> Option<Latency> {
        let micros = |percent| Some(self.percentile(percent)? as f64 / 1e3);
        Some(Latency { p50_us: micros(50)?, p99_us: micros(99)? })
    }

    fn percentile(&self, percent: u64) -> Option<u64> {
        let rank = (self.total * percent).div_ceil(100).max(1);
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        bucket.map(middle)
    }
}

fn index(nanos: u64) -> usize {
    let bits = 64 - nanos.leading_zeros();
    let group = bits.saturating_sub(SUB_BITS);
    let sub = nanos >> group.saturating_sub(1);
    // From the second group on, the leading bit is always set and says nothing.
    if group == 0 { nanos as usize } else { group as usize * SUB + (sub as usize - SUB) }
}

fn middle(index: usize) -> u64 {
    let (group, sub) = (index / SUB, index % SUB);
    match group {
        0 => sub as u64,
        _ => (((SUB + sub) as u64) << (group - 1)) + ((1 << (group - 1)) >> 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_within_one_percent_of_its_bucket() {
        let mut nanos = 1u64;
        while nanos < u64::MAX / 3 {
            let shown = middle(index(nanos));
            assert!(shown.abs_diff(nanos) as f64 <= nanos as f64 / 100.0, "{nanos} as {shown}");
            nanos += nanos / 3 + 1;
        }
        assert!(index(u64::MAX) < GROUPS * SUB);
    }

    #[test]
    fn percentiles_are_those_of_the_counted_values() {
        let mut histogram = Histogram::new();
        assert_eq!(histogram.latency(), None);
        for micros in 1..=100 {
            histogram.add(Duration::from_micros(micros));
        }
        let Some(Latency { p50_us, p99_us }) = histogram.latency() else { panic!("empty") };
        assert!((49.5..50.5).contains(&p50_us), "{p50_us}");
        assert!((98.0..100.0).contains(&p99_us), "{p99_us}");
    }
}
