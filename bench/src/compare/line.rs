//! The lines of the table, and the bars that Martlet is to clear.

use serde::Serialize;

use crate::{
    measure::Measure::{self, *},
    settings::{MANY_CONNECTIONS, Settings},
    statistics::Summary,
    subject::Subject,
};

/// One measure of one row.
#[derive(Debug)]
pub struct Line {
    pub row: &'static str,
    pub measure: Measure,
    bar: Option<Bar>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bar {
    /// So many times what the subject beside it has.
    Times(f64),
    /// In the measure's own unit.
    Value(f64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Met,
    /// The median misses the bar, but the best round does not.
    WithinSpread,
    Missed,
}

/// How much worse than an earlier build a later one may be.
const WORSE: f64 = 0.03;

pub const LINES: &[Line] = &[
    line("bulk-1", GbitPerSecond, Some(Bar::Times(2.0))),
    line("bulk-1", CpuSecondsPerGb, Some(Bar::Times(0.45))),
    line("bulk-8", GbitPerSecond, Some(Bar::Times(2.0))),
    line("bulk-8", CpuSecondsPerGb, None),
    line("trips-1", P50Us, Some(Bar::Times(0.8))),
    line("trips-1", P99Us, None),
    line("trips-1", CpuUsEach, None),
    line("trips-32", PerSecond, Some(Bar::Times(1.5))),
    line("trips-32", CpuUsEach, None),
    line("connections-1", PerSecond, Some(Bar::Times(4.5))),
    line("connections-1", CpuUsEach, None),
    line("connections-32", PerSecond, Some(Bar::Times(5.5))),
    line("connections-32", CpuUsEach, None),
    line("outside", PerSecond, Some(Bar::Times(0.97))),
    line("outside", CpuUsEach, None),
    line("long-client", Steadiness, Some(Bar::Value(0.9))),
    line("long-client", LatePerSecond, None),
    line("long-client", CpuUsEach, None),
    line("long-server", Steadiness, Some(Bar::Value(0.9))),
    line("long-server", LatePerSecond, None),
    line("long-server", CpuUsEach, None),
    line("idle", IdleMib, Some(Bar::Value(15.0))),
    line("idle", KibPerConnection, Some(Bar::Value(8.0))),
    line("crowd", MemoryMib, Some(Bar::Value(180.0))),
    line("crowd", HandshakesPerCpuSecond, Some(Bar::Value(2500.0))),
    line("hook", NanosecondsEach, Some(Bar::Value(500.0))),
];

const fn line(row: &'static str, measure: Measure, bar: Option<Bar>) -> Line {
    Line { row, measure, bar }
}

impl Line {
    /// Who is judged here.
    pub fn judged(&self) -> Subject {
        if self.row == "outside" { Subject::Outside } else { Subject::Martlet }
    }

    /// Beside whom.
    pub fn beside(&self) -> Subject {
        if self.row == "outside" { Subject::Direct } else { Subject::Haproxy }
    }

    /// What counts beside another build of ours: to be no worse, but for a little.
    pub fn bar_beside_earlier(&self) -> Option<Bar> {
        let times = if self.measure.more_is_better() { 1.0 - WORSE } else { 1.0 + WORSE };
        self.measure.has_ratio().then_some(Bar::Times(times))
    }

    /// A bar for so many connections says nothing about fewer.
    pub fn bar(&self, settings: &Settings) -> Option<Bar> {
        let is_full = settings.many_connections >= MANY_CONNECTIONS;
        let needs_full = self.row == "crowd" && self.measure == MemoryMib;
        self.bar.filter(|_| is_full || !needs_full)
    }

    /// `ratio` is that of the judged subject to the one beside it.
    pub fn verdict(
        &self,
        bar: Bar,
        value: Option<Summary>,
        ratio: Option<Summary>,
    ) -> Option<Verdict> {
        let (measured, bar) = match bar {
            Bar::Times(bar) => (ratio?, bar),
            Bar::Value(bar) => (value?, bar),
        };
        let (clears, best): (fn(f64, f64) -> bool, f64) = if self.measure.more_is_better() {
            (|value, bar| value >= bar, measured.max)
        } else {
            (|value, bar| value <= bar, measured.min)
        };
        Some(if clears(measured.median, bar) {
            Verdict::Met
        } else if clears(best, bar) {
            Verdict::WithinSpread
        } else {
            Verdict::Missed
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row;

    fn verdict(line: &Line, values: &[f64]) -> Option<Verdict> {
        let summary = Summary::of(values.iter().copied());
        match line.bar? {
            bar @ Bar::Times(_) => line.verdict(bar, None, summary),
            bar @ Bar::Value(_) => line.verdict(bar, summary, None),
        }
    }

    #[test]
    fn every_line_is_of_a_row_that_measures_both_sides_of_its_bar() {
        for line in LINES {
            let row = row::find(line.row).unwrap();
            assert!(row.subjects.contains(&line.judged()), "{}", line.row);
            if let Some(Bar::Times(_)) = line.bar {
                assert!(row.subjects.contains(&line.beside()), "{}", line.row);
            }
        }
    }

    #[test]
    fn more_is_met_from_above_and_missed_when_the_best_round_is_below() {
        let more = line("bulk-1", GbitPerSecond, Some(Bar::Times(2.0)));
        assert_eq!(verdict(&more, &[1.9, 2.0, 2.1]), Some(Verdict::Met));
        assert_eq!(verdict(&more, &[1.8, 1.9, 2.1]), Some(Verdict::WithinSpread));
        assert_eq!(verdict(&more, &[1.7, 1.8, 1.9]), Some(Verdict::Missed));
    }

    #[test]
    fn less_is_met_from_below_and_missed_when_the_best_round_is_above() {
        let less = line("idle", IdleMib, Some(Bar::Value(15.0)));
        assert_eq!(verdict(&less, &[14.0, 15.0, 99.0]), Some(Verdict::Met));
        assert_eq!(verdict(&less, &[14.0, 16.0, 99.0]), Some(Verdict::WithinSpread));
        assert_eq!(verdict(&less, &[16.0]), Some(Verdict::Missed));
    }

    #[test]
    fn what_was_not_measured_or_has_no_bar_has_no_verdict() {
        assert_eq!(verdict(&line("bulk-1", GbitPerSecond, Some(Bar::Times(2.0))), &[]), None);
        assert_eq!(verdict(&line("bulk-8", CpuSecondsPerGb, None), &[1.0]), None);
    }

    #[test]
    fn a_smaller_crowd_is_not_held_to_the_bar_of_the_large_one() {
        let memory = LINES.iter().find(|line| line.row == "crowd" && line.measure == MemoryMib);
        let memory = memory.unwrap();
        assert_eq!(memory.bar(&Settings::default()), Some(Bar::Value(180.0)));
        let fewer = Settings { many_connections: 9000, ..Settings::default() };
        assert_eq!(memory.bar(&fewer), None);
    }
}
