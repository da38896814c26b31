//! Bars: by how much Martlet is better than HAProxy, whichever way better is.

use super::{Drawing, GAP, TEXT, WIDTH, color};
use crate::{line::Bar, outcome::Filled, row, settings::Settings, show::number, subject::Subject};

const LEFT: f64 = 380.0;
const RIGHT: f64 = 60.0;
const STEP: f64 = 26.0;
const THICKNESS: f64 = 16.0;

/// How often better: more of what is good, or less of what is bad.
struct Advantage {
    title: String,
    median: f64,
    low: f64,
    high: f64,
    wanted: f64,
}

pub fn draw(drawing: &mut Drawing, lines: &[Filled], settings: &Settings) {
    let advantages: Vec<_> =
        lines.iter().filter_map(|filled| Advantage::of(filled, settings)).collect();
    if advantages.is_empty() {
        return;
    }
    let most = advantages.iter().flat_map(|it| [it.high, it.wanted]).fold(1.0, f64::max);
    let x = |times: f64| LEFT + times / most * (WIDTH - LEFT - RIGHT);
    let head = "Martlet beside HAProxy: times better (orange: equal; marks: bars)";
    drawing.text((GAP, drawing.height), "start", TEXT, head);
    let top = drawing.height + GAP / 2.0;
    for (position, it) in (0_u8..).zip(&advantages) {
        let y = top + f64::from(position) * STEP;
        let middle = y + THICKNESS / 2.0;
        drawing.text((LEFT - 8.0, middle + 4.5), "end", TEXT, &it.title);
        drawing.bar((LEFT, y), (x(it.median) - LEFT, THICKNESS), color(Subject::Martlet));
        drawing.line((x(it.low), middle), (x(it.high), middle), TEXT, 2.0);
        drawing.line((x(it.wanted), y - 3.0), (x(it.wanted), y + THICKNESS + 3.0), TEXT, 2.0);
        let label = format!("{}×", number(it.median));
        let right = x(it.high.max(it.wanted)) + 6.0;
        drawing.text((right, middle + 4.5), "start", TEXT, label);
    }
    let bottom = top + advantages.len() as f64 * STEP;
    drawing.line((x(1.0), top - 4.0), (x(1.0), bottom), color(Subject::Haproxy), 1.0);
    drawing.height = bottom + GAP;
}

impl Advantage {
    fn of(filled: &Filled, settings: &Settings) -> Option<Advantage> {
        let (Some(ratio), Some(Bar::Times(bar)), Subject::Haproxy) =
            (filled.ratio, filled.bar, filled.beside)
        else {
            return None;
        };
        let title = row::find(filled.row)?.describe(settings);
        let title = format!("{title}: {}", filled.measure.unit());
        let (median, low, high, wanted) = if filled.measure.more_is_better() {
            (ratio.median, ratio.min, ratio.max, bar)
        } else {
            (1.0 / ratio.median, 1.0 / ratio.max, 1.0 / ratio.min, 1.0 / bar)
        };
        let is_drawable = [median, low, high].iter().all(|value| value.is_finite());
        is_drawable.then_some(Advantage { title, median, low, high, wanted })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        measure::Measure,
        outcome::tests::{bulk, sample},
    };

    #[test]
    fn less_of_what_is_bad_is_better() {
        let mut outcome = bulk();
        outcome.samples = vec![
            sample("bulk-1", Subject::Haproxy, 0, &[(Measure::CpuSecondsPerGb, 2.4)]),
            sample("bulk-1", Subject::Martlet, 0, &[(Measure::CpuSecondsPerGb, 0.6)]),
        ];
        let it = Advantage::of(&outcome.filled()[0], &outcome.settings).unwrap();
        assert!((it.median - 4.0).abs() < 1e-9, "{}", it.median);
        assert!((it.wanted - 1.0 / 0.45).abs() < 1e-9, "{}", it.wanted);
    }
}
