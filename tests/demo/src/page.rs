//! The page that is left on the terminal: who talked to whom, what the wire showed, what it costs.

use std::time::Duration;

use serde_json::Value;

use crate::{
    facts::Facts,
    stage::SERVICE,
    terminal::{Terminal, Tone, WIDTH},
    wire::Piece,
};

/// Bytes in one line of a dump.
const DUMP: usize = 16;
/// Records shown.
const RECORDS: usize = 8;

pub fn print(facts: &Facts, terminal: &Terminal) {
    who(facts, terminal);
    wire(facts, terminal);
    refusals(facts, terminal);
    cost(facts, terminal);
    records(facts, terminal);
}

pub fn print_outlook(terminal: &Terminal) {
    heading("Where to go next", terminal);
    for (command, what) in [
        ("cargo xtask demo --keep", "the same, to play with: martlet, curl, tcpdump"),
        ("cargo xtask test", "everything that is promised, tested"),
        ("docs/connection.md", "one connection, followed through the files"),
    ] {
        terminal.line(format_args!("    {command:<26}{what}"));
    }
    terminal.line("\n  Everything that was made is removed now.");
}

pub fn heading(text: &str, terminal: &Terminal) {
    terminal.line(format_args!("\n  {}", terminal.paint(Tone::Strong, text)));
}

fn who(facts: &Facts, terminal: &Terminal) {
    let protected = &facts.protected;
    heading("Who talked to whom", terminal);
    for (identity, pods) in [
        (&protected.client, "cart-0 on node one, cart-1 on node three: curl"),
        (&protected.server, "web-0 on node two: nginx"),
    ] {
        terminal.line(format_args!("    {}", terminal.paint(Tone::Good, identity)));
        terminal.line(format_args!("        {pods}"));
    }
    let count = facts.connections;
    terminal.line(format_args!(
        "    {count} connections, by pod address and by service address {SERVICE}.\n    \
         Both sides proved who they are; nginx saw the callers' own addresses.\n    \
         {}, {}, {}",
        protected.tls, protected.cipher, protected.key_exchange
    ));
}

fn wire(facts: &Facts, terminal: &Terminal) {
    heading("What the wire showed", terminal);
    let control = &facts.control;
    let before = format!("{} of {} secrets in clear", control.seen.secrets, control.told);
    terminal.line(format_args!("    Before: {}", terminal.paint(Tone::Bad, &before)));
    let start = control.request.bytes.windows(7).position(|text| text == b"Secret:").unwrap_or(0);
    dump(&control.request, start / DUMP * DUMP, 4, Tone::Bad, terminal);
    let seen = facts.seen();
    let after = format!("{} of {} secrets", seen.secrets, facts.told());
    terminal.line(format_args!(
        "    After: {}; {} of {} bytes outside TLS records",
        terminal.paint(Tone::Good, &after),
        seen.in_clear,
        seen.bytes
    ));
    for piece in &facts.protected.records {
        dump(piece, 0, 2, Tone::Faint, terminal);
    }
}

/// As hexdump(1) does.
fn dump(piece: &Piece, from: usize, lines: usize, tone: Tone, terminal: &Terminal) {
    terminal.line(format_args!("      {} → {}, {}", piece.source, piece.destination, piece.what));
    for (number, bytes) in piece.bytes[from..].chunks(DUMP).take(lines).enumerate() {
        let hex: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let hex = format!("{:04x}  {:<47}", from + number * DUMP, hex.join(" "));
        let text: String = bytes.iter().map(|byte| printable(*byte)).collect();
        let (hex, text) = (terminal.paint(Tone::Faint, &hex), terminal.paint(tone, &text));
        terminal.line(format_args!("        {hex}  {text}"));
    }
}

fn printable(byte: u8) -> char {
    if byte.is_ascii_graphic() || byte == b' ' { byte.into() } else { '.' }
}

fn refusals(facts: &Facts, terminal: &Terminal) {
    let (denied, outage) = (&facts.denied, &facts.outage);
    heading("What was refused", terminal);
    terminal.line(format_args!("    guest-0, by a policy and its rule: {}", denied.policy));
    terminal.line(format_args!("        {}", quote(&denied.said, terminal)));
    terminal.line(format_args!(
        "    cart-0, while node two's agent was dead: in {}, nothing in clear",
        time(outage.refused_after)
    ));
    terminal.line(format_args!("        {}", quote(&outage.said, terminal)));
    terminal.line(format_args!(
        "    Started again, the agent served after {}.",
        time(outage.serves_after)
    ));
}

/// What curl said, as far as it fits.
fn quote(said: &str, terminal: &Terminal) -> String {
    let room = WIDTH - 8;
    let is_long = said.chars().count() > room;
    let cut: String = said.chars().take(if is_long { room - 1 } else { room }).collect();
    terminal.paint(Tone::Faint, &if is_long { cut + "…" } else { cut })
}

fn cost(facts: &Facts, terminal: &Terminal) {
    heading("What it costs: a round trip of 64 bytes between two nodes, in µs", terminal);
    let [direct, through] = facts.latency;
    terminal.line(format_args!("    {:<18}{:>8}{:>8}", "", "p50", "p99"));
    for (what, latency) in
        [("direct", direct), ("through Martlet", through), ("added", facts.added())]
    {
        let line = format!("    {what:<18}{:>8.0}{:>8.0}", latency.p50_us, latency.p99_us);
        terminal.line(line);
    }
}

/// As the callers' agents tell them: the first ones that were served, and the first refusals.
fn records(facts: &Facts, terminal: &Terminal) {
    heading("Some records of the callers' agents: one for each connection", terminal);
    let is_refused = |record: &&Value| record["protection"] == "none";
    let told = || facts.records.iter().filter(|record| record["reporter"] == "source");
    let refused: Vec<_> = told().filter(is_refused).take(RECORDS / 3).collect();
    let served = told().filter(|record| !is_refused(record)).take(RECORDS - refused.len());
    let mut shown: Vec<_> = served.chain(refused).collect();
    shown.sort_by_key(|record| record["time"].as_str());
    for record in shown {
        print_record(record, terminal);
    }
}

fn print_record(record: &Value, terminal: &Terminal) {
    let time = record["time"].as_str().unwrap_or_default();
    let clock = time.split_once('T').map_or(time, |(_, clock)| clock.trim_end_matches('Z'));
    let origin = record["origin"].as_str().unwrap_or("?");
    let end = record["closed"].as_str().unwrap_or("?").replace('_', " ");
    let number = |field: &str| record[field].as_u64().unwrap_or_default();
    terminal.line(format_args!(
        "    {clock:<12} {:>8} → {origin:<14}{:>5} ↑ {:>4} ↓{:>9}  {end}",
        workload(&record["source"]),
        number("bytes_sent"),
        number("bytes_received"),
        self::time(Duration::from_micros(number("duration_us"))),
    ));
    if let Some(policy) = record["policy"].as_str() {
        terminal.line(format_args!("{:>18}{}", "", terminal.paint(Tone::Faint, policy)));
    }
}

/// The pod's name without its namespace.
fn workload(party: &Value) -> &str {
    let name = party["workload"].as_str().or_else(|| party["workload"]["name"].as_str());
    name.map_or("?", |name| name.rsplit('/').next().unwrap_or(name))
}

fn time(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{:.1} ms", duration.as_secs_f64() * 1e3)
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}
