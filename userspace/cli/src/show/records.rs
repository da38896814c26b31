//! `martlet records`: how the last connections ended, oldest first.

use std::time::SystemTime;

use comfy_table::Cell;
use martlet_model::{Closed, report::TimedRecord};

use super::{Of, connections::protection_tone};
use crate::{
    human,
    paint::{Tone, paint},
    table::{Table, cell},
};

/// Columns and, for lines that come one by one, their least widths.
const COLUMNS: [(&str, usize); 9] = [
    ("TIME", 24),
    ("REPORTER", 11),
    ("FROM", 20),
    ("TO", 32),
    ("PROTECTION", 10),
    ("SENT", 9),
    ("RECEIVED", 9),
    ("LASTED", 7),
    ("ENDED", 0),
];

const NODE_WIDTH: usize = 16;

pub fn page(records: &Vec<TimedRecord>, _now: SystemTime) -> String {
    pages(&[Of::here(records)])
}

/// Of several nodes, in the order of their clocks.
pub fn pages(all: &[Of<'_, Vec<TimedRecord>>]) -> String {
    let mut ended: Vec<_> =
        all.iter().flat_map(|of| of.said.iter().map(|record| (of.node, record))).collect();
    if ended.is_empty() {
        return "no connection has ended yet\n".to_owned();
    }
    // Of one time, in one form: they are in order as texts. Those of one node stay in its order.
    ended.sort_by(|(_, one), (_, other)| one.time.cmp(&other.time));
    let are_several = all.iter().any(|of| of.node.is_some());
    let mut table = Table::of_nodes(are_several, &COLUMNS.map(|(name, _)| name));
    for (node, record) in ended {
        table.row_of(node, fields(record).map(|(text, tone)| -> Cell { cell(text, tone) }));
    }
    table.text()
}

/// The names of the columns, for lines that follow.
pub fn head() -> String {
    padded(COLUMNS.map(|(name, _)| (name.to_owned(), Tone::Plain)))
}

pub fn line(record: &TimedRecord) -> String {
    padded(fields(record))
}

/// The same for lines of several nodes.
pub fn head_of_nodes() -> String {
    format!("{:<NODE_WIDTH$}  {}", "NODE", head())
}

pub fn line_of(node: &str, record: &TimedRecord) -> String {
    format!("{node:<NODE_WIDTH$}  {}", line(record))
}

fn padded(fields: [(String, Tone); 9]) -> String {
    let padded: Vec<_> = fields
        .iter()
        .zip(COLUMNS)
        .map(|((text, tone), (_, width))| paint(&format!("{text:<width$}"), *tone))
        .collect();
    padded.join("  ") + "\n"
}

fn fields(timed: &TimedRecord) -> [(String, Tone); 9] {
    let record = &timed.record;
    let plain = |text: String| (text, Tone::Plain);
    [
        plain(timed.time.clone()),
        plain(record.reporter.as_str().to_owned()),
        plain(human::place(&record.source)),
        plain(human::destination(&record.destination, record.origin)),
        (record.protection.as_str().to_owned(), protection_tone(record.protection)),
        plain(human::bytes(record.bytes_sent)),
        plain(human::bytes(record.bytes_received)),
        plain(human::span(record.duration)),
        ended(record.closed, record.policy.as_deref()),
    ]
}

fn ended(closed: Closed, policy: Option<&str>) -> (String, Tone) {
    let text = match policy {
        Some(policy) => format!("{closed} by {policy}"),
        None => closed.to_string(),
    };
    let tone = match closed {
        Closed::Finished => Tone::Good,
        _ if closed.is_refusal() => Tone::Bad,
        _ => Tone::Warning,
    };
    (text, tone)
}
