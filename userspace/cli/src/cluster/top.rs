//! `martlet top`: who speaks with whom now, how much, and what is refused.
//!
//! Rates come from two looks at the same connections, a second apart. Both agents of a connection
//! report it by one number; it is counted once.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io::{self, IsTerminal as _},
    process::ExitCode,
    time::Instant,
};

use anyhow::Result;
use martlet_model::{
    ConnectionId, Party, Protection,
    coverage::{Counterpart, Coverage},
    report::{ConnectionReport, Connections, TimedRecord},
};
use serde::Serialize;

use super::{
    Cluster, Heard, Member, ask_all, remarks,
    show::{beside, code, read},
    watch::renew,
};
use crate::{
    agent::Agent,
    args::Output,
    human, limits,
    paint::Tone,
    show::{as_json, connections::protection_tone},
    table::{Table, cell, plain},
    write,
};

/// Who is looked at.
pub enum Looked<'a> {
    Cluster(&'a Cluster),
    /// The one agent of this machine.
    Here(&'a Agent),
}

/// One look at all nodes.
struct Look {
    at: Instant,
    heard: Vec<Heard>,
    open: HashMap<ConnectionId, ConnectionReport>,
    refused: BTreeMap<(String, String), u64>,
}

#[derive(Debug, Default, Serialize)]
struct Row {
    from: String,
    to: String,
    protection: &'static str,
    connections: u64,
    sent_bytes_per_second: u64,
    received_bytes_per_second: u64,
    /// Among the agents' last records, and by the kernel since its maps were made.
    refused: u64,
    #[serde(skip)]
    tone: Option<Tone>,
}

pub async fn top(looked: Looked<'_>, once: bool, output: Output) -> Result<ExitCode> {
    const CLEAR: &str = "\x1b[H\x1b[2J";
    let (before, after) = match (output, once, io::stdout().is_terminal()) {
        (Output::Json, ..) | (_, true, _) => ("", ""),
        (Output::Table, false, true) => (CLEAR, ""),
        (Output::Table, false, false) => ("", "\n"),
    };
    let mut members = Vec::new();
    let mut last = look(&looked, &mut members).await?;
    loop {
        tokio::time::sleep(limits::WATCH).await;
        let now = look(&looked, &mut members).await?;
        let rows = rows(&last, &now);
        let text = match output {
            Output::Json => as_json(&serde_json::to_vec(&document(&rows, &now))?),
            Output::Table => beside(&page(&rows), &remarks(&now.heard)),
        };
        write(&format!("{before}{text}{after}"))?;
        if once {
            return Ok(code(&now.heard));
        }
        last = now;
    }
}

async fn look(looked: &Looked<'_>, members: &mut Vec<Member>) -> Result<Look> {
    let mut heard = match looked {
        Looked::Cluster(cluster) => {
            renew(members, cluster.members().await?);
            ask_all(members, "/connections").await
        }
        Looked::Here(agent) => {
            vec![Heard { node: String::new(), told: Ok(agent.told("/connections").await?) }]
        }
    };
    let at = Instant::now();
    let mut open = HashMap::new();
    for (_, said) in read::<Connections>(&mut heard) {
        for one in said.connections {
            open.insert(one.id, one);
        }
    }
    let refused = refused(looked, members).await?;
    Ok(Look { at, heard, open, refused })
}

async fn refused(
    looked: &Looked<'_>,
    members: &mut [Member],
) -> Result<BTreeMap<(String, String), u64>> {
    let (coverages, records) = match looked {
        Looked::Cluster(_) => (
            read::<Coverage>(&mut ask_all(members, "/coverage").await),
            read::<Vec<TimedRecord>>(&mut ask_all(members, "/records").await),
        ),
        Looked::Here(agent) => (
            vec![(String::new(), agent.read(&agent.ask("/coverage").await?).await?)],
            vec![(String::new(), agent.read(&agent.ask("/records").await?).await?)],
        ),
    };
    let mut counts: BTreeMap<(String, String), u64> = BTreeMap::new();
    for pair in coverages.iter().flat_map(|(_, said)| &said.pairs) {
        if let (Counterpart::Workload(from), Counterpart::Workload(to)) = (&pair.from, &pair.to)
            && pair.refused.connections > 0
        {
            // Both ends' nodes may have counted the same.
            let count = counts.entry((from.to_string(), to.to_string())).or_default();
            *count = pair.refused.connections.max(*count);
        }
    }
    let mut known = BTreeSet::new();
    for timed in records.iter().flat_map(|(_, records)| records) {
        let record = &timed.record;
        if record.closed.is_refusal() && known.insert(record.id.0) {
            let key = (human::place(&record.source), human::place(&record.destination));
            *counts.entry(key).or_default() += 1;
        }
    }
    Ok(counts)
}

fn rows(last: &Look, now: &Look) -> Vec<Row> {
    let seconds = now.at.duration_since(last.at).as_secs_f64().max(0.001);
    let mut rows: BTreeMap<(String, String), Row> = BTreeMap::new();
    for (id, open) in &now.open {
        let before = last.open.get(id);
        let sent = open.bytes_sent.saturating_sub(before.map_or(0, |one| one.bytes_sent));
        let received =
            open.bytes_received.saturating_sub(before.map_or(0, |one| one.bytes_received));
        let row = row(&mut rows, name(&open.source), name(&open.destination));
        row.connections += 1;
        row.sent_bytes_per_second += (sent as f64 / seconds) as u64;
        row.received_bytes_per_second += (received as f64 / seconds) as u64;
        // The worst of them is shown.
        if row.protection.is_empty() || open.protection == Protection::Plaintext {
            row.protection = open.protection.as_str();
            row.tone = Some(protection_tone(open.protection));
        }
    }
    for ((from, to), count) in &now.refused {
        row(&mut rows, from.clone(), to.clone()).refused = *count;
    }
    let mut rows: Vec<_> = rows.into_values().collect();
    let speed = |row: &Row| row.sent_bytes_per_second + row.received_bytes_per_second;
    rows.sort_by(|one, other| {
        let key = |row: &Row| (speed(row), row.connections, row.refused);
        key(other).cmp(&key(one)).then_with(|| (&one.from, &one.to).cmp(&(&other.from, &other.to)))
    });
    rows
}

fn row(rows: &mut BTreeMap<(String, String), Row>, from: String, to: String) -> &mut Row {
    let row = rows.entry((from.clone(), to.clone())).or_default();
    (row.from, row.to) = (from, to);
    row
}

fn name(party: &Party) -> String {
    human::place(party)
}

fn document(rows: &[Row], look: &Look) -> serde_json::Value {
    let silent: Vec<_> =
        look.heard.iter().filter(|heard| heard.told.is_err()).map(|heard| &heard.node).collect();
    serde_json::json!({"pairs": rows, "silent": silent})
}

fn page(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "nobody speaks with anybody through the agents now\n".to_owned();
    }
    let header = ["FROM", "TO", "CONNECTIONS", "SENT/S", "RECEIVED/S", "PROTECTION", "REFUSED"];
    let mut table = Table::new(&header);
    for row in rows {
        let refused = if row.refused > 0 { Tone::Bad } else { Tone::Faint };
        table.row([
            plain(&row.from),
            plain(&row.to),
            plain(row.connections.to_string()),
            plain(human::bytes(row.sent_bytes_per_second)),
            plain(human::bytes(row.received_bytes_per_second)),
            match row.tone {
                Some(tone) => cell(row.protection, tone),
                None => plain(human::unknown()),
            },
            cell(row.refused.to_string(), refused),
        ]);
    }
    table.text()
}
