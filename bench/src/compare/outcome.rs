//! All that a run has measured, and what follows from it.

use std::collections::BTreeMap;

use martlet_bench::Report;
use serde::Serialize;

use crate::{
    line::{Bar, LINES, Line, Verdict},
    machine::Machine,
    measure::{Measure, Values},
    plan::Step,
    settings::Settings,
    statistics::Summary,
    subject::Subject,
};

#[derive(Debug, Serialize)]
pub struct Outcome {
    pub machine: Machine,
    pub settings: Settings,
    pub samples: Vec<Sample>,
}

/// What one step has given.
#[derive(Debug, Serialize)]
pub struct Sample {
    pub row: &'static str,
    pub subject: Subject,
    pub round: u32,
    pub values: Values,
    /// What failed, and how often.
    pub errors: BTreeMap<String, u64>,
    pub report: Option<Report>,
}

/// A line of the table, filled in.
#[derive(Debug, Serialize)]
pub struct Filled {
    pub row: &'static str,
    pub measure: Measure,
    pub values: BTreeMap<Subject, Summary>,
    /// Whom the judged subject is compared with.
    pub beside: Subject,
    /// Round by round, so that what hit a whole round hits no ratio.
    pub ratio: Option<Summary>,
    pub bar: Option<Bar>,
    pub verdict: Option<Verdict>,
    #[serde(skip)]
    pub line: &'static Line,
}

impl Sample {
    pub fn new(step: &Step) -> Sample {
        Sample {
            row: step.row.name,
            subject: step.subject,
            round: step.round,
            values: Values::new(),
            errors: BTreeMap::new(),
            report: None,
        }
    }
}

impl Outcome {
    /// The lines of which something was measured.
    pub fn filled(&self) -> Vec<Filled> {
        let lines = LINES.iter().map(|line| self.fill(line));
        lines.filter(|filled| !filled.values.is_empty()).collect()
    }

    /// Whether another build was measured.
    pub fn is_against(&self) -> bool {
        self.samples.iter().any(|sample| sample.subject == Subject::Earlier)
    }

    /// What failed in each row, for each subject.
    pub fn errors(&self) -> BTreeMap<(&'static str, Subject), BTreeMap<&str, u64>> {
        let mut all = BTreeMap::<_, BTreeMap<&str, u64>>::new();
        for sample in &self.samples {
            for (what, count) in &sample.errors {
                let errors = all.entry((sample.row, sample.subject)).or_default();
                *errors.entry(what.as_str()).or_default() += count;
            }
        }
        all
    }

    /// Why the run was not good, one sentence each. `strictly` counts the yardsticks' failures, too.
    pub fn complaints(&self, strictly: bool) -> Vec<String> {
        let mut complaints = Vec::new();
        for ((row, subject), errors) in self.errors() {
            if strictly || subject.is_ours() {
                let errors: Vec<_> =
                    errors.iter().map(|(what, count)| format!("{what} ({count})")).collect();
                complaints.push(format!("{row}, {subject}: {}", errors.join(", ")));
            }
        }
        for sample in &self.samples {
            let is_zero = |value: &f64| !value.is_finite() || *value <= 0.0;
            let counts = strictly || sample.subject.is_ours();
            // A pod's worth of memory may come from what the proxy had before.
            let zero = sample
                .values
                .iter()
                .find(|(measure, value)| **measure != Measure::KibPerConnection && is_zero(value));
            if let (true, Some((measure, value))) = (counts, zero) {
                complaints.push(format!(
                    "{}, {}, round {}: {value} {}",
                    sample.row,
                    sample.subject,
                    sample.round + 1,
                    measure.unit()
                ));
            }
        }
        complaints
    }

    fn fill(&self, line: &'static Line) -> Filled {
        let values = self.samples.iter().filter(|sample| sample.row == line.row).fold(
            BTreeMap::<_, BTreeMap<u32, f64>>::new(),
            |mut values, sample| {
                if let Some(value) = sample.values.get(&line.measure) {
                    values.entry(sample.subject).or_default().insert(sample.round, *value);
                }
                values
            },
        );
        let is_against = values.contains_key(&Subject::Earlier);
        let beside = if is_against { Subject::Earlier } else { line.beside() };
        let ratio = line
            .measure
            .has_ratio()
            .then(|| ratio(values.get(&line.judged()), values.get(&beside)))
            .flatten();
        let values: BTreeMap<_, _> = values
            .into_iter()
            .filter_map(|(subject, values)| Some((subject, Summary::of(values.into_values())?)))
            .collect();
        let bar = if is_against { line.bar_beside_earlier() } else { line.bar(&self.settings) };
        let value = values.get(&line.judged()).copied();
        let verdict = bar.and_then(|bar| line.verdict(bar, value, ratio));
        let (row, measure) = (line.row, line.measure);
        Filled { row, measure, values, beside, ratio, bar, verdict, line }
    }
}

fn ratio(of: Option<&BTreeMap<u32, f64>>, to: Option<&BTreeMap<u32, f64>>) -> Option<Summary> {
    let (of, to) = (of?, to?);
    let ratios = of.iter().filter_map(|(round, value)| Some(value / to.get(round)?));
    Summary::of(ratios.filter(|ratio| ratio.is_finite()))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::row;

    pub fn sample(row: &str, subject: Subject, round: u32, values: &[(Measure, f64)]) -> Sample {
        let step = Step { row: row::find(row).unwrap(), subject, round };
        Sample { values: values.iter().copied().collect(), ..Sample::new(&step) }
    }

    /// Two rounds of bulk in which everything was twice as slow the second time.
    pub fn bulk() -> Outcome {
        let measure = Measure::GbitPerSecond;
        let samples = [(Subject::Direct, 40.0), (Subject::Haproxy, 6.0), (Subject::Martlet, 15.0)];
        let samples = samples.into_iter().flat_map(|(subject, value)| {
            [0, 1].map(|round| {
                sample("bulk-1", subject, round, &[(measure, value / f64::from(round + 1))])
            })
        });
        Outcome {
            machine: Machine::default(),
            settings: Settings::default(),
            samples: samples.collect(),
        }
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let filled = bulk().filled();
        assert_eq!(filled.len(), 1);
        let ratio = filled[0].ratio.unwrap();
        assert_eq!((ratio.min, ratio.max, ratio.count), (2.5, 2.5, 2));
        assert_eq!(filled[0].verdict, Some(Verdict::Met));
        assert_eq!(filled[0].values[&Subject::Martlet].median, 11.25);
    }

    #[test]
    fn beside_another_build_a_little_worse_is_well_and_more_is_not() {
        let verdict = |measure, earlier: f64, ours: f64| {
            let mut outcome = bulk();
            outcome.samples = vec![
                sample("bulk-1", Subject::Earlier, 0, &[(measure, earlier)]),
                sample("bulk-1", Subject::Martlet, 0, &[(measure, ours)]),
            ];
            outcome.filled()[0].verdict
        };
        let (rate, cost) = (Measure::GbitPerSecond, Measure::CpuSecondsPerGb);
        assert_eq!(verdict(rate, 10.0, 9.8), Some(Verdict::Met));
        assert_eq!(verdict(rate, 10.0, 9.6), Some(Verdict::Missed));
        assert_eq!(verdict(cost, 1.0, 1.02), Some(Verdict::Met));
        assert_eq!(verdict(cost, 1.0, 1.04), Some(Verdict::Missed));
    }

    #[test]
    fn a_good_run_has_nothing_to_complain_about() {
        assert_eq!(bulk().complaints(true), Vec::<String>::new());
    }

    #[test]
    fn our_errors_always_count_and_those_of_others_only_strictly() {
        let mut outcome = bulk();
        outcome.samples[0].errors.insert("connect: AddrNotAvailable".into(), 3);
        assert!(outcome.complaints(false).is_empty());
        assert_eq!(outcome.complaints(true), ["bulk-1, direct: connect: AddrNotAvailable (3)"]);
        let ours = outcome.samples.iter_mut().find(|sample| sample.subject == Subject::Martlet);
        ours.unwrap().errors.insert("bytes lost".into(), 1);
        assert_eq!(outcome.complaints(false), ["bulk-1, Martlet: bytes lost (1)"]);
    }

    #[test]
    fn a_result_of_nothing_is_no_result() {
        let mut outcome = bulk();
        let ours = outcome.samples.iter_mut().find(|sample| sample.subject == Subject::Martlet);
        ours.unwrap().values.insert(Measure::GbitPerSecond, 0.0);
        assert_eq!(outcome.complaints(false), ["bulk-1, Martlet, round 1: 0 Gbit/s"]);
    }
}
