//! The table: one line per measure, with medians, spreads, ratios and bars.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table, presets::NOTHING};

use super::number;
use crate::{
    line::{Bar, Verdict},
    outcome::{Filled, Outcome},
    row,
    settings::Settings,
    statistics::Summary,
    subject::Subject,
};

const COLUMNS: usize = 8;
/// The yardstick's column has its name.
fn head(outcome: &Outcome) -> [&'static str; COLUMNS] {
    let yardstick = if outcome.is_against() { "the other build" } else { "HAProxy" };
    ["", "", "direct", yardstick, "Martlet", "ratio", "bar", ""]
}

pub fn terminal(outcome: &Outcome) -> String {
    let mut table = Table::new();
    let under_head = LineStyle::none().fill('─').junction('─');
    table
        .load_style(NOTHING.header_separator(under_head))
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(head(outcome));
    for cells in rows(outcome) {
        table.add_row(cells);
    }
    for column in table.column_iter_mut().skip(2).take(4) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("{table}\n\n{}", notes(outcome))
}

pub fn markdown(outcome: &Outcome) -> String {
    let mut text = format!("{}\n", notes(outcome));
    let mut line = |cells: &[String]| {
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    };
    line(&head(outcome).map(str::to_owned));
    line(&["---", "---", "--:", "--:", "--:", "--:", "--:", "---"].map(str::to_owned));
    for cells in rows(outcome) {
        line(&cells);
    }
    text
}

/// What several lines have in common stands in the first of them.
fn rows(outcome: &Outcome) -> Vec<[String; COLUMNS]> {
    let mut before = "";
    let row = |filled: &Filled| {
        let is_first = filled.row != before;
        before = filled.row;
        cells(filled, is_first, &outcome.settings)
    };
    outcome.filled().iter().map(row).collect()
}

fn cells(filled: &Filled, is_first: bool, settings: &Settings) -> [String; COLUMNS] {
    let row = row::find(filled.row).filter(|_| is_first);
    let yardstick =
        if filled.beside == Subject::Earlier { Subject::Earlier } else { Subject::Haproxy };
    let value = |subject| filled.values.get(&subject).map(|value| spread(*value, ""));
    [
        row.map(|row| row.describe(settings)).unwrap_or_default(),
        filled.measure.unit().to_owned(),
        value(Subject::Direct).unwrap_or_default(),
        value(yardstick).unwrap_or_default(),
        value(filled.line.judged()).unwrap_or_default(),
        filled.ratio.map(|ratio| spread(ratio, "×")).unwrap_or_default(),
        bar(filled),
        filled.verdict.map(verdict).unwrap_or_default().to_owned(),
    ]
}

fn spread(summary: Summary, unit: &str) -> String {
    let Summary { median, min, max, count } = summary;
    match count {
        1 => format!("{}{unit}", number(median)),
        _ => format!("{}{unit} ({}–{})", number(median), number(min), number(max)),
    }
}

fn bar(filled: &Filled) -> String {
    let sign = if filled.measure.more_is_better() { "≥" } else { "≤" };
    match filled.bar {
        Some(Bar::Times(times)) => format!("{sign} {times}×"),
        Some(Bar::Value(value)) if value >= 1000.0 => format!("{sign} {}", number(value)),
        Some(Bar::Value(value)) => format!("{sign} {value}"),
        None => String::new(),
    }
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Met => "met",
        Verdict::WithinSpread => "missed within the spread",
        Verdict::Missed => "missed",
    }
}

/// On what, when, how often; and what failed.
fn notes(outcome: &Outcome) -> String {
    let (machine, settings) = (&outcome.machine, &outcome.settings);
    let mut text = format!(
        "Measured on {date}: Martlet {martlet}, HAProxy {haproxy}, Linux {kernel}, {cores} cores ({processor}).\n\
         {rounds} × {seconds} s for each row and subject, median (lowest–highest); long rows once.\n\
         Before the run the machine was {busy} % busy; during the run {stolen} % of its time went to other guests.\n",
        date = machine.date,
        martlet = machine.martlet,
        haproxy = machine.haproxy,
        kernel = machine.kernel,
        cores = machine.cores,
        processor = machine.processor,
        rounds = settings.rounds,
        seconds = settings.seconds,
        busy = number(machine.busy_before_percent),
        stolen = number(machine.stolen_percent),
    );
    for ((row, subject), errors) in outcome.errors() {
        let errors: Vec<_> =
            errors.iter().map(|(what, count)| format!("{what} ({count})")).collect();
        let _ = writeln!(text, "Failed in {row}, {subject}: {}.", errors.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Measure;
    use crate::outcome::tests::{bulk, sample};

    #[test]
    fn a_line_has_medians_spreads_ratio_bar_and_verdict() {
        let expected = "| bulk, 1 connection | Gbit/s | 30.0 (20.0–40.0) | 4.50 (3.00–6.00) | \
                        11.3 (7.50–15.0) | 2.50× (2.50–2.50) | ≥ 2× | met |\n";
        let text = markdown(&bulk());
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn what_is_outside_the_mesh_stands_in_the_last_column_beside_direct() {
        let mut outcome = bulk();
        outcome.samples = vec![
            sample("outside", Subject::Direct, 0, &[(Measure::PerSecond, 1000.0)]),
            sample("outside", Subject::Outside, 0, &[(Measure::PerSecond, 990.0)]),
        ];
        let cells = &rows(&outcome)[0];
        assert_eq!(cells[2..], ["1,000", "", "990", "0.990×", "≥ 0.97×", "met"]);
    }

    #[test]
    fn lines_of_the_same_row_have_its_title_once() {
        let mut outcome = bulk();
        for sample in &mut outcome.samples {
            sample.values.insert(Measure::CpuSecondsPerGb, 1.0);
        }
        let titles: Vec<_> = rows(&outcome).into_iter().map(|[title, ..]| title).collect();
        assert_eq!(titles, ["bulk, 1 connection", ""]);
    }

    #[test]
    fn failures_are_named_below_the_facts() {
        let mut outcome = bulk();
        outcome.samples[0].errors.insert("connect: AddrNotAvailable".into(), 3);
        let line = "Failed in bulk-1, direct: connect: AddrNotAvailable (3).";
        assert!(markdown(&outcome).contains(line));
        assert!(terminal(&outcome).contains(line));
    }
}
