//! What is read off a load's report, and which way is better.

use std::collections::BTreeMap;

use martlet_bench::Report;
use serde::Serialize;

use crate::row::Work;

pub type Values = BTreeMap<Measure, f64>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    GbitPerSecond,
    CpuSecondsPerGb,
    P50Us,
    P99Us,
    PerSecond,
    /// Machine CPU time for one round trip or connection.
    CpuUsEach,
    /// The late rate as a part of the early one.
    Steadiness,
    /// The rate of the late seconds.
    LatePerSecond,
    /// Resident memory of the larger proxy of the two, before there were connections.
    IdleMib,
    /// The same with all connections open.
    MemoryMib,
    /// What an open connection adds to that.
    KibPerConnection,
    /// Of the busier proxy of the two.
    HandshakesPerCpuSecond,
    NanosecondsEach,
}

impl Measure {
    pub fn unit(self) -> &'static str {
        match self {
            Measure::GbitPerSecond => "Gbit/s",
            Measure::CpuSecondsPerGb => "machine CPU s/GB",
            Measure::P50Us => "p50, µs",
            Measure::P99Us => "p99, µs",
            Measure::PerSecond => "per second",
            Measure::CpuUsEach => "machine CPU µs each",
            Measure::Steadiness => "late rate ÷ early rate",
            Measure::LatePerSecond => "late rate, per second",
            Measure::IdleMib => "proxy memory before, MiB",
            Measure::MemoryMib => "proxy memory, MiB",
            Measure::KibPerConnection => "proxy memory each, KiB",
            Measure::HandshakesPerCpuSecond => "cold handshakes per proxy CPU s",
            Measure::NanosecondsEach => "ns",
        }
    }

    /// What is a ratio already is not compared once more.
    pub fn has_ratio(self) -> bool {
        self != Measure::Steadiness
    }

    pub fn more_is_better(self) -> bool {
        match self {
            Measure::GbitPerSecond
            | Measure::PerSecond
            | Measure::Steadiness
            | Measure::LatePerSecond
            | Measure::HandshakesPerCpuSecond => true,
            Measure::CpuSecondsPerGb
            | Measure::P50Us
            | Measure::P99Us
            | Measure::CpuUsEach
            | Measure::IdleMib
            | Measure::MemoryMib
            | Measure::KibPerConnection
            | Measure::NanosecondsEach => false,
        }
    }
}

/// All measures that a load of this kind has.
pub fn read_off(work: Work, is_long: bool, report: &Report) -> Values {
    let mut values = Values::new();
    // Not known of loads that ran at the same time.
    let cpu_each = Some(report.machine_cpu_each()).filter(|each| *each > 0.0);
    let (rate, cpu) = match work {
        Work::Bulk(_) => (
            Some((Measure::GbitPerSecond, report.rate() * 8.0 / 1e9)),
            cpu_each.map(|each| (Measure::CpuSecondsPerGb, each * 1e9)),
        ),
        Work::RoundTrips(_) | Work::Connections(..) => (
            Some((Measure::PerSecond, report.rate())),
            cpu_each.map(|each| (Measure::CpuUsEach, each * 1e6)),
        ),
        Work::Idle(_) | Work::ConnectHook => (None, None),
    };
    values.extend(rate.into_iter().chain(cpu));
    if let (Work::RoundTrips(_), Some(latency)) = (work, report.latency) {
        values.insert(Measure::P50Us, latency.p50_us);
        values.insert(Measure::P99Us, latency.p99_us);
    }
    if is_long {
        values.insert(Measure::Steadiness, report.steadiness());
        values.insert(Measure::LatePerSecond, report.late_rate());
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Closer;

    #[test]
    fn bulk_is_bits_per_second_and_processor_seconds_for_a_billion_bytes() {
        let report = Report {
            seconds: 2.0,
            count: 4_000_000_000,
            machine_cpu_seconds: 2.0,
            ..Report::default()
        };
        let values = read_off(Work::Bulk(1), false, &report);
        assert_eq!(values[&Measure::GbitPerSecond], 16.0);
        assert_eq!(values[&Measure::CpuSecondsPerGb], 0.5);
        assert_eq!(values.len(), 2);
    }

    #[test]
    fn only_long_runs_have_a_steadiness() {
        let report =
            Report { seconds: 2.0, count: 150, per_second: vec![100, 50], ..Report::default() };
        let work = Work::Connections(32, Closer::Client);
        assert!(!read_off(work, false, &report).contains_key(&Measure::Steadiness));
        let values = read_off(work, true, &report);
        assert_eq!(values[&Measure::Steadiness], 0.5);
        assert_eq!(values[&Measure::LatePerSecond], 50.0);
        assert_eq!(values[&Measure::PerSecond], 75.0);
    }
}
