//! `martlet certificates`: how long each one lasts, and by which fingerprint it is known.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use comfy_table::Cell;
use martlet_model::{
    SpiffeId,
    report::{CertificateReport, Certificates, LeafReport},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::Of;
use crate::{
    human::{self, Names},
    limits,
    paint::{Tone, paint},
    table::{Table, cell, plain},
};

pub fn page(report: &Certificates, now: SystemTime) -> String {
    pages(&[Of::here(report)], now)
}

pub fn pages(all: &[Of<'_, Certificates>], now: SystemTime) -> String {
    let leaves: Vec<_> =
        all.iter().flat_map(|of| of.said.leaves.iter().map(|leaf| (of.node, leaf))).collect();
    let identities: Vec<SpiffeId> = leaves.iter().filter_map(|(_, leaf)| identity(leaf)).collect();
    let names = Names::of(&identities);
    let are_several = all.iter().any(|of| of.node.is_some());
    let table = match (leaves.is_empty(), are_several) {
        (true, false) => "no workload of this node has a certificate\n".to_owned(),
        (true, true) => "no workload has a certificate\n".to_owned(),
        (false, _) => leaf_table(are_several, &leaves, &names, now),
    };
    let warnings: String = leaves.iter().filter_map(|(_, leaf)| warning(leaf)).collect();
    let parts = [table, warnings, authorities(all, now)];
    let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join("\n") + &names.legend()
}

/// One workload's chain, from its own certificate up to the root that it leads to.
pub fn chain(leaf: &LeafReport, roots: &[CertificateReport], now: SystemTime) -> String {
    let last = leaf.chain.last();
    let mut named = roots.iter().filter(|root| last.is_some_and(|l| l.issuer == root.subject));
    // A name does not tell which of several it is.
    let root = named.next().filter(|_| named.next().is_none());
    let kinds = ["leaf", "issuer"].into_iter().chain(std::iter::repeat("issuer"));
    let chain = kinds.zip(&leaf.chain).chain(root.map(|root| ("root", root)));
    let parts: Vec<_> =
        chain.map(|(kind, certificate)| described(kind, certificate, now)).collect();
    let renewal = format!("renewed {}\n", human::relative(leaf.renews_at, now));
    let warning = warning(leaf).unwrap_or_default();
    format!("{}\n{renewal}{warning}", parts.join("\n"))
}

fn described(kind: &str, certificate: &CertificateReport, now: SystemTime) -> String {
    let period = |seconds| {
        let at = OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).unwrap_or(i64::MAX));
        let text = at.ok().and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default();
        format!("{text} ({})", human::relative(seconds, now))
    };
    let mut lines = vec![
        ("subject", certificate.subject.clone()),
        ("issued by", certificate.issuer.clone()),
        ("serial", certificate.serial.clone()),
        ("valid from", period(certificate.not_before)),
        ("valid until", period(certificate.not_after)),
        ("SHA-256", certificate.fingerprint.clone()),
    ];
    for uri in certificate.uris.iter().rev() {
        lines.insert(1, ("identity", uri.clone()));
    }
    let lines: String =
        lines.iter().map(|(name, value)| format!("  {name:<13}{value}\n")).collect();
    format!("{kind}\n{lines}")
}

fn leaf_table(
    are_several: bool,
    leaves: &[(Option<&str>, &LeafReport)],
    names: &Names,
    now: SystemTime,
) -> String {
    let header = ["WORKLOAD", "IDENTITY", "EXPIRES", "RENEWS", "SHA-256"];
    let mut table = Table::of_nodes(are_several, &header);
    for (node, leaf) in leaves {
        let Some(certificate) = leaf.chain.first() else {
            let missing = cell("no certificate yet", Tone::Warning);
            table.row_of(*node, [plain(leaf.workload.to_string()), missing]);
            continue;
        };
        // Renewed at half of its life: what is in the last quarter was not.
        let life = certificate.not_after.saturating_sub(certificate.not_before);
        let cells = [
            plain(leaf.workload.to_string()),
            plain(match identity(leaf) {
                Some(identity) => names.identity(&identity),
                None => certificate.uris.join(", "),
            }),
            expiry(certificate, Duration::from_secs(life / 4), now),
            plain(human::relative(leaf.renews_at, now)),
            plain(&certificate.fingerprint),
        ];
        table.row_of(*node, cells);
    }
    table.text()
}

/// The one identity of a leaf, if it is as it should be.
fn identity(leaf: &LeafReport) -> Option<SpiffeId> {
    match leaf.chain.first()?.uris.as_slice() {
        [uri] => uri.parse().ok(),
        _ => None,
    }
}

/// The issuers that are in use, once each, and the roots.
fn authorities(all: &[Of<'_, Certificates>], now: SystemTime) -> String {
    let leaves = all.iter().flat_map(|of| &of.said.leaves);
    let issuers = once_each(leaves.flat_map(|leaf| leaf.chain.iter().skip(1)));
    let roots = once_each(all.iter().flat_map(|of| &of.said.roots));
    let mut table = Table::new(&["AUTHORITY", "SUBJECT", "EXPIRES", "SHA-256"]);
    let issuers = issuers.into_iter().map(|issuer| ("issuer", issuer));
    for (kind, certificate) in issuers.chain(roots.into_iter().map(|root| ("root", root))) {
        let life = certificate.not_after.saturating_sub(certificate.not_before);
        let soon = limits::AUTHORITY_ENDS_SOON.min(Duration::from_secs(life / 4));
        table.row([
            plain(kind),
            plain(&certificate.subject),
            expiry(certificate, soon, now),
            plain(&certificate.fingerprint),
        ]);
    }
    table.text()
}

fn once_each<'a>(all: impl Iterator<Item = &'a CertificateReport>) -> Vec<&'a CertificateReport> {
    let mut once: Vec<&CertificateReport> = Vec::new();
    for certificate in all {
        if !once.iter().any(|known| known.fingerprint == certificate.fingerprint) {
            once.push(certificate);
        }
    }
    once
}

fn expiry(certificate: &CertificateReport, soon: Duration, now: SystemTime) -> Cell {
    let now_seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let left = certificate.not_after.checked_sub(now_seconds);
    let tone = match left {
        None | Some(0) => Tone::Bad,
        Some(left) if left < soon.as_secs() => Tone::Warning,
        Some(_) => Tone::Plain,
    };
    cell(human::relative(certificate.not_after, now), tone)
}

fn warning(leaf: &LeafReport) -> Option<String> {
    let error = leaf.renewal_error.as_ref()?;
    let line = format!("‼ {} was not renewed: {error}", leaf.workload);
    Some(format!("{}\n", paint(&line, Tone::Warning)))
}
