//! Writes docs/metrics.md from what a scrape shows.

use std::{collections::BTreeSet, fmt::Write};

const HEAD: &str = "\
# Metrics

`GET /metrics` at the node file's `metrics` address answers in the OpenMetrics text format; \
`/healthz` and `/readyz` are beside it.
No label ever holds an address (`no_label_ever_holds_an_address`), or a text that a peer chose.
This page is written from the registry: `MARTLET_BLESS=1 cargo test -p martlet-telemetry`.

| metric | type | labels | meaning |
|---|---|---|---|
";

/// What the values of each label are.
const LABELS: &[(&str, &str)] = &[
    (
        "cause",
        "`queue`: the writer or the exporter did not keep up; `output_busy`: the output did not keep up; `output_failed`: writing failed; `undelivered`: the collector did not take them in time; `refused`: the collector did not want them",
    ),
    ("closed", "why the connection ended; the reasons are in [records.md](records.md)"),
    (
        "column",
        "`mtls`, `plaintext`, `refused`, `unseen`, `other`, `other_refused`; what each means is in [coverage.md](coverage.md)",
    ),
    (
        "direction",
        "`inbound`: let in by a permissive workload; `outbound`: to an endpoint outside the mesh, or in `failed_open` to a permissive workload; `probe`: let in by a strict workload",
    ),
    (
        "hook",
        "an eBPF program, the group of programs that counts together, or `agent`: what the agent refused at a workload's bounds",
    ),
    (
        "identity",
        "the SPIFFE ID of this node's workload at the reporting end; empty if it was not known",
    ),
    (
        "kind",
        "`link`, `program`, `pin`, `entry`, `guard`, `sysctl`, `listener` or `unknown`; what they are is in [repair.md](repair.md)",
    ),
    ("lane", "`warm`: it had carried another connection; `cold`: it was opened for this one"),
    (
        "protection",
        "`mutual_tls`, `plaintext`, `internal` (never left the workload) or `none` (nothing was relayed)",
    ),
    (
        "reporter",
        "`source`: told by the caller's agent; `destination`: told by the called workload's agent",
    ),
    ("result", "`success` or `failure`"),
    ("side", "`source`: as the caller; `destination`: as the called side"),
    ("verdict", "what a hook decided; the names are those of `martlet status`"),
    ("version", "the agent's version"),
    ("workload", "namespace and name of a workload of this node"),
];

/// One metric, as its lines in the text format tell it.
struct Described {
    name: String,
    kind: String,
    help: String,
    labels: BTreeSet<String>,
}

/// The whole page.
pub(super) fn page(scraped: &str) -> String {
    let described = described(scraped);
    let mut page = HEAD.to_owned();
    for metric in &described {
        let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let Described { name, kind, help, .. } = metric;
        writeln!(page, "| `{name}` | {kind} | {} | {help} |", labels.join(", ")).unwrap();
    }
    page.push_str("\n## Labels\n\n| label | values |\n|---|---|\n");
    let used: BTreeSet<&str> =
        described.iter().flat_map(|metric| metric.labels.iter().map(String::as_str)).collect();
    let known: BTreeSet<&str> = LABELS.iter().map(|(label, _)| *label).collect();
    assert_eq!(used, known, "labels that are used, and labels that are explained");
    for (label, values) in LABELS {
        writeln!(page, "| `{label}` | {values} |").unwrap();
    }
    page
}

/// Names as they are queried, and the labels of each.
pub(super) fn labels_of_all(scraped: &str) -> Vec<(String, BTreeSet<String>)> {
    described(scraped).into_iter().map(|metric| (metric.name, metric.labels)).collect()
}

fn described(scraped: &str) -> Vec<Described> {
    let mut found: Vec<Described> = Vec::new();
    let mut help = "";
    for line in scraped.lines() {
        if let Some(text) = line.strip_prefix("# HELP ") {
            help = text.split_once(' ').unwrap().1;
        } else if let Some((family, kind)) =
            line.strip_prefix("# TYPE ").and_then(|text| text.split_once(' '))
        {
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            found.push(Described {
                name: format!("{family}{suffix}"),
                kind: kind.to_owned(),
                help: help.to_owned(),
                labels: BTreeSet::new(),
            });
        } else if let (Some(current), Some((_, rest))) = (found.last_mut(), line.split_once('{')) {
            // Buckets are the format's own label.
            current.labels.extend(labels(rest).map(|(label, _)| label).filter(|l| l != "le"));
        }
    }
    found
}

/// Labels and values of a line, from behind its brace.
pub(super) fn labels(rest: &str) -> impl Iterator<Item = (String, String)> {
    let mut rest = rest;
    std::iter::from_fn(move || {
        let (name, behind) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = behind.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    rest = behind[at + 1..].trim_start_matches(',');
                    return Some((name.to_owned(), value));
                }
                '\\' => value.push(match characters.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                other => value.push(other),
            }
        }
        None
    })
}
