//! `martlet trust status`: whom nodes trust, who issues, what a rotation waits for, who is cut off.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use martlet_model::report::{
    CertificateReport, EndpointFailure, EndpointReport, KeyPlace, RootReport, RootRole,
    RotationReport, RotationStep, TrustReport,
};

use crate::{
    human,
    paint::{Tone, paint},
    table::{Table, cell, plain},
};

/// Of a root: time to rotate it calmly.
const ROOT_ENDS_SOON: Duration = Duration::from_secs(90 * 86_400);
/// Of an issuer, which renews itself at half of a week.
const ISSUER_ENDS_SOON: Duration = Duration::from_secs(2 * 86_400);

/// Nodes that are named above the tables.
const NAMED: usize = 5;

pub fn page(report: &TrustReport, now: SystemTime) -> String {
    let current = report.nodes.iter().filter(|node| node.is_current).count();
    let mut page = format!(
        "trust domain   {}\nversion        {}, in effect on {current} of {} nodes\n",
        report.trust_domain,
        report.version,
        report.nodes.len(),
    );
    let behind: Vec<_> = report.nodes.iter().filter(|node| !node.is_current).collect();
    if !behind.is_empty() {
        let named = behind.iter().take(NAMED).map(|node| node.name.to_string());
        let named = named.collect::<Vec<_>>().join(", ");
        let more = match behind.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let line = format!("not yet on {named}{more}");
        page.push_str(&format!("               {}\n", paint(&line, Tone::Warning)));
    }
    page.push_str(&rotation(report.rotation.as_ref(), now));
    if let Some(error) = &report.renewal_error {
        let line = format!("‼ the issuer was not renewed: {error}");
        page.push_str(&format!("{}\n", paint(&line, Tone::Bad)));
    }
    let sections = [
        roots(report, now),
        issuers(report, now),
        nodes(report, now),
        foreign(report, now),
        quarantines(report, now),
    ];
    for section in sections.into_iter().filter(|section| !section.is_empty()) {
        page.push('\n');
        page.push_str(&section);
    }
    page
}

fn rotation(rotation: Option<&RotationReport>, now: SystemTime) -> String {
    let Some(rotation) = rotation else { return "rotation       none\n".to_owned() };
    let step = match rotation.step {
        RotationStep::Staged => "1 of 2: both roots are trusted, the old one issues",
        RotationStep::Switched => "2 of 2: both roots are trusted, the new one issues",
    };
    let since = human::relative(rotation.since, now);
    let mut text = format!("rotation       step {step} (begun {since})\n");
    if rotation.is_paused {
        let paused = paint("paused; `martlet trust resume` lets it go on", Tone::Warning);
        text.push_str(&format!("               {paused}\n"));
    }
    match rotation.waits_for.as_slice() {
        [] => text.push_str("               the next step is taken now\n"),
        waits_for => {
            text.push_str("               waits for:\n");
            for what in waits_for {
                text.push_str(&format!("               - {what}\n"));
            }
        }
    }
    text
}

fn roots(report: &TrustReport, now: SystemTime) -> String {
    let mut table =
        Table::new(&["ROOT", "ROLE", "KEY", "AGE", "EXPIRES", "CERTIFICATES", "CONNECTIONS"]);
    for root in &report.roots {
        let RootReport { certificate, role, key, leaves, connections } = root;
        let role = match role {
            RootRole::Issuing => cell("issues", Tone::Good),
            RootRole::Coming => cell("coming", Tone::Warning),
            RootRole::Leaving => cell("leaving", Tone::Warning),
        };
        let key = match key {
            KeyPlace::Here => "here",
            KeyPlace::Command => "by command",
            KeyPlace::Elsewhere => "elsewhere",
        };
        table.row([
            plain(short(certificate)),
            role,
            plain(key),
            plain(age(certificate.not_before, now)),
            expiry(certificate, ROOT_ENDS_SOON, now),
            plain(leaves.to_string()),
            plain(connections.to_string()),
        ]);
    }
    table.text()
}

fn issuers(report: &TrustReport, now: SystemTime) -> String {
    let mut table = Table::new(&["ISSUER", "ROLE", "AGE", "RENEWS", "EXPIRES", "CERTIFICATES"]);
    for issuer in &report.issuers {
        let role = match issuer.is_current {
            true => cell("issues", Tone::Good),
            false => cell("before", Tone::Faint),
        };
        let renews = match (issuer.renews_at, issuer.is_current) {
            (Some(at), _) => human::relative(at, now),
            (None, true) => "by hand".to_owned(),
            (None, false) => human::unknown(),
        };
        table.row([
            plain(short(&issuer.certificate)),
            role,
            plain(age(issuer.certificate.not_before, now)),
            plain(renews),
            expiry(&issuer.certificate, ISSUER_ENDS_SOON, now),
            plain(issuer.leaves.to_string()),
        ]);
    }
    let mut text = table.text();
    if report.leaves_of_unknown_issuers > 0 {
        let count = report.leaves_of_unknown_issuers;
        let line = format!("‼ {count} certificates in use are of issuers that are not known here");
        text.push_str(&format!("{}\n", paint(&line, Tone::Warning)));
    }
    text
}

fn nodes(report: &TrustReport, now: SystemTime) -> String {
    let mut table = Table::new(&[
        "NODE",
        "TRUST",
        "SEEN",
        "CERTIFICATES",
        "BY AGE",
        "NEXT RENEWAL",
        "FIRST EXPIRES",
        "CONNECTIONS",
    ]);
    for node in &report.nodes {
        let trust = match (node.is_current, node.trust_version) {
            (true, _) => cell("latest", Tone::Good),
            (false, Some(version)) if version > 0 => {
                cell(format!("version {version}"), Tone::Warning)
            }
            (false, _) => cell("not known", Tone::Warning),
        };
        let told = |at: Option<u64>| at.map_or_else(human::unknown, |at| human::relative(at, now));
        table.row([
            plain(node.name.to_string()),
            trust,
            plain(told(node.last_seen)),
            plain(node.leaves.to_string()),
            by_age(&node.quarters),
            plain(told(node.next_renewal)),
            plain(told(node.oldest_expiry)),
            plain(node.connections.to_string()),
        ]);
    }
    let legend = "by age: those in the first / second / third / last quarter of their life; they are \
                  renewed soon after half of it\n";
    match table.text() {
        none if none.is_empty() => none,
        text => text + &paint(legend, Tone::Faint).to_string(),
    }
}

/// What is in the last quarter was not renewed when it should have been.
fn by_age(quarters: &[u64; 4]) -> comfy_table::Cell {
    let text = quarters.map(|count| count.to_string()).join(" / ");
    cell(text, if quarters[3] > 0 { Tone::Warning } else { Tone::Plain })
}

/// Also `martlet trust list`.
pub fn foreign(report: &TrustReport, now: SystemTime) -> String {
    let mut table =
        Table::new(&["FEDERATED", "ROOTS", "SEQUENCE", "FETCHED", "FROM", "CONNECTIONS"]);
    for foreign in &report.foreign {
        let tone = if foreign.is_stale { Tone::Warning } else { Tone::Plain };
        let fetched = human::relative(foreign.fetched, now);
        let fetched = if foreign.is_stale { format!("{fetched}, stale") } else { fetched };
        table.row([
            plain(foreign.trust_domain.to_string()),
            plain(foreign.roots.len().to_string()),
            plain(foreign.sequence.map_or_else(human::unknown, |number| number.to_string())),
            cell(fetched, tone),
            plain(&foreign.source),
            plain(foreign.connections.to_string()),
        ]);
    }
    let is_known = |endpoint: &&EndpointReport| {
        report.foreign.iter().any(|foreign| foreign.trust_domain == endpoint.trust_domain)
    };
    for endpoint in report.endpoints.iter().filter(|endpoint| !is_known(endpoint)) {
        let (state, tone) = match endpoint.is_removed {
            true => ("removed", Tone::Faint),
            false => ("never", Tone::Warning),
        };
        table.row([
            plain(endpoint.trust_domain.to_string()),
            plain("0"),
            plain(human::unknown()),
            cell(state, tone),
            plain(&endpoint.url),
            plain("0"),
        ]);
    }
    let failing = report.endpoints.iter().filter_map(|endpoint| failing(endpoint, now));
    table.text() + &failing.collect::<String>()
}

fn failing(endpoint: &EndpointReport, now: SystemTime) -> Option<String> {
    let EndpointFailure { reason, since, looks } = endpoint.failure.as_ref()?;
    let EndpointReport { trust_domain, url, .. } = endpoint;
    let since = human::relative(*since, now);
    let times = if *looks == 1 { "once".to_owned() } else { format!("{looks} times") };
    let reason = reason.replace(char::is_control, " ");
    let line = format!("‼ {trust_domain}: {url} failed {times}, first {since}: {reason}");
    Some(format!("{}\n", paint(&line, Tone::Warning)))
}

fn quarantines(report: &TrustReport, now: SystemTime) -> String {
    let mut table = Table::new(&["CUT OFF", "SINCE", "WHY"]);
    for quarantine in &report.quarantines {
        let reason = match quarantine.reason.as_str() {
            "" => human::unknown(),
            reason => reason.replace(char::is_control, " "),
        };
        table.row([
            cell(quarantine.whom.to_string(), Tone::Bad),
            plain(human::relative(quarantine.since, now)),
            plain(reason),
        ]);
    }
    table.text()
}

/// Enough of a fingerprint to tell it from others by eye.
fn short(certificate: &CertificateReport) -> String {
    certificate.fingerprint.chars().take(16).collect()
}

fn age(since: u64, now: SystemTime) -> String {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    human::span(now.saturating_sub(Duration::from_secs(since)))
}

fn expiry(certificate: &CertificateReport, soon: Duration, now: SystemTime) -> comfy_table::Cell {
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let tone = match certificate.not_after.checked_sub(seconds) {
        None | Some(0) => Tone::Bad,
        Some(left) if left < soon.as_secs() => Tone::Warning,
        Some(_) => Tone::Plain,
    };
    cell(human::relative(certificate.not_after, now), tone)
}
