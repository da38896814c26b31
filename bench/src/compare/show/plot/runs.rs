//! Lines: connections in each second of the long runs, on a logarithmic scale.

use super::{Drawing, GAP, TEXT, WIDTH, color};
use crate::{
    outcome::{Outcome, Sample},
    row::{ROWS, Row, Turn},
    show::number,
    subject::Subject,
};

const HEIGHT: f64 = 170.0;
const LEFT: f64 = 90.0;
const RIGHT: f64 = 110.0;
const NAME_HEIGHT: f64 = 14.0;

/// Decades, from the lowest to the highest that something reaches.
struct Scale {
    lowest: i32,
    highest: i32,
}

pub fn draw(drawing: &mut Drawing, outcome: &Outcome) {
    for row in ROWS.iter().filter(|row| row.turn == Turn::Long) {
        let runs: Vec<_> = outcome.samples.iter().filter_map(|sample| run(sample, row)).collect();
        if let Some(scale) = Scale::of(&runs) {
            panel(drawing, &row.describe(&outcome.settings), &runs, &scale);
        }
    }
}

type Run<'a> = (Subject, &'a [u64]);

fn run<'a>(sample: &'a Sample, row: &Row) -> Option<Run<'a>> {
    let report = sample.report.as_ref()?;
    let is_drawable = sample.row == row.name && report.per_second.len() > 1;
    is_drawable.then_some((sample.subject, report.per_second.as_slice()))
}

fn panel(drawing: &mut Drawing, title: &str, runs: &[Run], scale: &Scale) {
    let head = format!("Connections per second: {title}");
    drawing.text((GAP, drawing.height), "start", TEXT, head);
    let top = drawing.height + GAP / 2.0;
    let y = |count: f64| top + HEIGHT * (1.0 - scale.part(count));
    for decade in scale.lowest..=scale.highest {
        let count = 10_f64.powi(decade);
        drawing.line((LEFT, y(count)), (WIDTH - RIGHT, y(count)), TEXT, 0.3);
        drawing.text((LEFT - 8.0, y(count) + 4.5), "end", TEXT, with_all_digits(count));
    }
    let longest = runs.iter().map(|(_, seconds)| seconds.len()).max().unwrap_or(2) - 1;
    let x = |second: usize| LEFT + second as f64 / longest as f64 * (WIDTH - LEFT - RIGHT);
    let mut names = Vec::new();
    for (subject, seconds) in runs {
        let points: Vec<_> =
            seconds.iter().enumerate().map(|(at, count)| (x(at), y(*count as f64))).collect();
        drawing.path(&points, color(*subject), 2.0);
        names.extend(points.last().map(|(_, y)| (*y, *subject)));
    }
    for (y, subject) in apart(names) {
        let right = WIDTH - RIGHT + 6.0;
        drawing.text((right, y + 4.5), "start", color(subject), subject);
    }
    drawing.height = top + HEIGHT + 1.5 * GAP;
}

/// From top to bottom, none on another.
fn apart(mut names: Vec<(f64, Subject)>) -> Vec<(f64, Subject)> {
    names.sort_by(|one, other| one.0.total_cmp(&other.0));
    let mut lowest = f64::NEG_INFINITY;
    for (y, _) in &mut names {
        *y = y.max(lowest + NAME_HEIGHT);
        lowest = *y;
    }
    names
}

fn with_all_digits(count: f64) -> String {
    number(count).trim_end_matches(".00").trim_end_matches(".0").to_owned()
}

impl Scale {
    fn of(runs: &[Run]) -> Option<Scale> {
        let counts = || runs.iter().flat_map(|(_, seconds)| *seconds).filter(|count| **count > 0);
        let decade = |count: &u64| (*count as f64).log10();
        let lowest = decade(counts().min()?).floor() as i32;
        let highest = decade(counts().max()?).ceil() as i32;
        Some(Scale { lowest, highest: highest.max(lowest + 1) })
    }

    /// Where between the lowest (0) and the highest (1) decade.
    fn part(&self, count: f64) -> f64 {
        let lowest = f64::from(self.lowest);
        let position = count.log10().max(lowest) - lowest;
        position / f64::from(self.highest - self.lowest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_spans_whole_decades_and_nothing_falls_below_it() {
        let scale = Scale::of(&[(Subject::Direct, &[14_000, 0, 200])]).unwrap();
        assert_eq!((scale.lowest, scale.highest), (2, 5));
        assert_eq!(scale.part(100.0), 0.0);
        assert_eq!(scale.part(0.0), 0.0);
        assert_eq!(scale.part(100_000.0), 1.0);
    }

    #[test]
    fn names_stand_in_the_order_of_their_lines_and_not_on_one_another() {
        let names =
            vec![(52.0, Subject::Direct), (50.0, Subject::Martlet), (99.0, Subject::Haproxy)];
        let apart = apart(names);
        let expected =
            [(50.0, Subject::Martlet), (64.0, Subject::Direct), (99.0, Subject::Haproxy)];
        assert_eq!(apart, expected);
    }

    #[test]
    fn a_run_in_which_nothing_happened_has_no_scale() {
        assert!(Scale::of(&[(Subject::Direct, &[0, 0])]).is_none());
    }
}
