//! `martlet status`: first whether the node is ready, then what it consists of.

use std::time::{Duration, SystemTime};

use martlet_model::{
    Skew,
    report::{ControllerReport, Hook, Status},
};

use crate::{
    human,
    paint::{Tone, paint},
    table::{Table, cell, plain},
};

pub fn page(status: &Status, now: SystemTime) -> String {
    let mut page = headline(status);
    page.push('\n');
    for (name, value) in facts(status, now) {
        page.push_str(&format!("{name:<15}{value}\n"));
    }
    if let Some(error) = &status.configuration_error {
        let warning = format!("‼ the newest node file was not taken over: {error}");
        page.push_str(&format!("\n{}\n", paint(&warning, Tone::Warning)));
    }
    if status.fails_open {
        let warning = "‼ failure: open: without an agent permissive workloads connect in plaintext";
        page.push_str(&format!("\n{}\n", paint(warning, Tone::Warning)));
    }
    for shortfall in &status.unconfined {
        let warning = format!("‼ the agent is less confined than it could be: {shortfall}");
        page.push_str(&format!("\n{}\n", paint(&warning, Tone::Warning)));
    }
    let mut table = Table::new(&["HOOK", "VERDICT", "COUNT"]);
    for counter in status.counters.iter().filter(|counter| counter.count > 0) {
        table.row([
            plain(&counter.hook),
            plain(&counter.verdict),
            plain(counter.count.to_string()),
        ]);
    }
    let verdicts = table.text();
    if !verdicts.is_empty() {
        page.push_str(&format!("\n{verdicts}"));
    }
    if !status.repairs.is_empty() {
        page.push_str(&format!("\n{}", repairs(status, now)));
    }
    page
}

/// What others have changed in the kernel.
fn repairs(status: &Status, now: SystemTime) -> String {
    let mut table = Table::new(&["CHANGED BY OTHERS", "KIND", "TIMES", "LAST", "NOW"]);
    for repair in &status.repairs {
        let last = SystemTime::UNIX_EPOCH + Duration::from_secs(repair.last);
        let ago = now.duration_since(last).unwrap_or_default();
        let (state, tone) = match &repair.error {
            None => ("put back".to_owned(), Tone::Good),
            Some(error) => (format!("not put back: {error}"), Tone::Bad),
        };
        table.row([
            plain(&repair.what),
            plain(repair.kind.as_str()),
            plain(repair.count.to_string()),
            plain(format!("{} ago", human::span(ago))),
            cell(state, tone),
        ]);
    }
    table.text()
}

/// One line, whatever there is to say.
fn headline(status: &Status) -> String {
    if status.ready {
        return format!("{}\n", paint(&format!("√ {} is ready", status.node), Tone::Good));
    }
    let why = match status.not_ready.as_slice() {
        [] => "it does not say why".to_owned(),
        reasons => reasons.join("; "),
    };
    format!("{}: {why}\n", paint(&format!("× {} is not ready", status.node), Tone::Bad))
}

fn facts(status: &Status, now: SystemTime) -> Vec<(&'static str, String)> {
    let mut facts = vec![
        ("trust domain", status.trust_domain.to_string()),
        ("agent", agent(status)),
        ("node file", status.configuration.chars().take(12).collect()),
        ("workloads", status.workloads.to_string()),
        ("connections", format!("{} open", status.connections)),
        ("idle lanes", status.idle_lanes.to_string()),
        ("hooks", hooks(&status.hooks)),
    ];
    if let Some(open) = status.predecessor {
        let carried = format!("carries {open} connections to their end");
        facts.push(("predecessor", paint(&carried, Tone::Warning)));
    }
    if let Some(report) = &status.controller {
        facts.insert(1, ("controller", controller(report, now)));
        facts.extend(report.clock.map(|skew| ("clock", clock(skew))));
    }
    facts
}

fn controller(report: &ControllerReport, now: SystemTime) -> String {
    let since = SystemTime::UNIX_EPOCH + Duration::from_secs(report.since);
    let span = human::span(now.duration_since(since).unwrap_or_default());
    let address = &report.address;
    let state = match &report.away {
        None => format!("{address}, connected for {span}"),
        Some(why) => {
            let away = format!("{address}, away for {span}: {why}");
            paint(&away, Tone::Warning)
        }
    };
    match &report.refused {
        None => state,
        Some(why) => {
            let refused = format!("what it says is not taken: {why}");
            format!("{state}; {}", paint(&refused, Tone::Bad))
        }
    }
}

fn clock(skew: Skew) -> String {
    match skew.is_too_far() {
        true => paint(&format!("{skew}, which is too far"), Tone::Bad),
        false => skew.to_string(),
    }
}

fn agent(status: &Status) -> String {
    const OURS: &str = env!("CARGO_PKG_VERSION");
    let uptime = human::span(Duration::from_secs(status.uptime_seconds));
    let agent = format!("{}, up for {uptime}", status.version);
    if status.version == OURS {
        return agent;
    }
    format!("{agent} {}", paint(&format!("(this is martlet {OURS})"), Tone::Warning))
}

fn hooks(hooks: &[Hook]) -> String {
    let attached = hooks.iter().filter(|hook| hook.attached).count();
    let adopted = hooks.iter().filter(|hook| hook.adopted).count();
    let mut text = format!("{attached} of {} attached", hooks.len());
    if adopted > 0 {
        text.push_str(&format!(", {adopted} taken over from an earlier agent"));
    }
    let missing: Vec<_> =
        hooks.iter().filter(|hook| !hook.attached).map(|hook| hook.name.as_str()).collect();
    if !missing.is_empty() {
        let missing = format!("missing: {}", missing.join(", "));
        text.push_str(&format!("; {}", paint(&missing, Tone::Bad)));
    }
    text
}
