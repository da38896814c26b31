//! One record as one line, for people or for programs.

use std::{fmt::Write, time::SystemTime};

use martlet_model::{Party, report::TimedRecord};
use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};

use crate::Format;

const TIMESTAMP: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// RFC 3339, UTC, milliseconds.
pub(super) fn timestamp(at: SystemTime) -> String {
    // Only a year beyond 9999 has no such form.
    OffsetDateTime::from(at).format(TIMESTAMP).unwrap_or_default()
}

/// The line, with its end.
pub(super) fn render(timed: &TimedRecord, format: Format) -> String {
    let mut line = match format {
        Format::Text => text(timed),
        // Every field is a number, a name or a list of such: there is nothing that can fail.
        Format::Json => serde_json::to_string(timed).unwrap_or_default(),
    };
    line.push('\n');
    line
}

fn text(timed: &TimedRecord) -> String {
    let record = &timed.record;
    let mut line = format!(
        "{} connection {} reporter={} closed={} protection={}",
        timed.time,
        record.id,
        record.reporter.as_str(),
        record.closed,
        record.protection.as_str(),
    );
    party(&mut line, "source", &record.source);
    party(&mut line, "destination", &record.destination);
    field(&mut line, "origin", record.origin.as_ref());
    field(&mut line, "policy", record.policy.as_ref().map(|policy| format!("{policy:?}")));
    if let Some(tls) = &record.tls {
        field(&mut line, "tls.cipher", Some(&tls.cipher));
        field(&mut line, "tls.key_exchange", Some(&tls.key_exchange));
        field(&mut line, "warm", Some(record.warm));
    }
    field(&mut line, "bytes_sent", Some(record.bytes_sent));
    field(&mut line, "bytes_received", Some(record.bytes_received));
    field(&mut line, "duration", Some(format!("{:?}", record.duration)));
    line
}

fn party(line: &mut String, side: &str, party: &Party) {
    field(line, &format!("{side}.workload"), party.workload.as_ref());
    field(line, &format!("{side}.identity"), party.identity.as_ref());
    field(line, &format!("{side}.address"), party.address);
}

fn field(line: &mut String, name: &str, value: Option<impl std::fmt::Display>) {
    if let Some(value) = value {
        // Writing to a string cannot fail.
        let _ = write!(line, " {name}={value}");
    }
}
