//! What alerts and dashboards ask for is there, by name and by label.

use std::{collections::BTreeSet, fs};

use serde_json::Value;

use super::{busy, page, scrape};

/// What Prometheus itself adds to what it has scraped, and the format's own.
const ADDED: [&str; 3] = ["instance", "job", "le"];

fn read(below: &str) -> String {
    let path = format!("{}/../../{below}", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn alerts() -> Vec<String> {
    let rules = read("deploy/prometheus-rules.yaml");
    let expressions = rules.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    expressions.map(str::to_owned).collect()
}

fn dashboard() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/martlet.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

/// A metric with the labels by which it is chosen.
#[derive(Debug, PartialEq, Eq)]
struct Chosen {
    metric: String,
    labels: Vec<String>,
}

fn is_in_name(character: char) -> bool {
    character.is_ascii_lowercase() || character.is_ascii_digit() || character == '_'
}

/// Of an expression in PromQL: the metrics, and the labels by which something is summed up.
fn asked(expression: &str) -> (Vec<Chosen>, Vec<String>) {
    let (mut chosen, mut grouped) = (Vec::new(), Vec::new());
    let mut rest = expression;
    while let Some(at) = rest.find("martlet_") {
        let end = rest[at..].find(|c| !is_in_name(c)).map_or(rest.len(), |length| at + length);
        let metric = rest[at..end].to_owned();
        rest = &rest[end..];
        let mut labels = Vec::new();
        if let Some(selector) = rest.strip_prefix('{') {
            let (selector, behind) = selector.split_once('}').unwrap();
            labels = names_before(selector, |c| matches!(c, '=' | '!'));
            rest = behind;
        }
        chosen.push(Chosen { metric, labels });
    }
    for group in expression.split(" by (").skip(1) {
        let (labels, _) = group.split_once(')').unwrap();
        grouped.extend(labels.split(", ").map(str::to_owned));
    }
    (chosen, grouped)
}

/// Names that stand before an operator; what is in quotes is none.
fn names_before(selector: &str, is_operator: impl Fn(char) -> bool + Copy) -> Vec<String> {
    let outside = selector.split('"').step_by(2);
    let names = outside.filter_map(|part| {
        let part = part.trim_start_matches(',');
        let (name, _) = part.split_once(is_operator)?;
        Some(name.trim().to_owned())
    });
    names.collect()
}

/// A name as it is queried: histograms have three.
fn family(metric: &str) -> &str {
    let suffixes = ["_bucket", "_sum", "_count"];
    suffixes.iter().find_map(|suffix| metric.strip_suffix(suffix)).unwrap_or(metric)
}

/// Why an expression could never find anything.
fn wrong(
    expression: &str,
    agents: &[(String, BTreeSet<String>)],
    controllers: &str,
) -> Vec<String> {
    let (chosen, grouped) = asked(expression);
    let mut problems = Vec::new();
    if chosen.is_empty() {
        problems.push("no metric of ours".to_owned());
    }
    let mut all: BTreeSet<String> = ADDED.map(str::to_owned).into();
    for Chosen { metric, labels } in chosen {
        let own = metric.strip_prefix("martlet_controller_");
        let own = own.map(|own| own.strip_suffix("_total").unwrap_or(own));
        let known = agents.iter().find(|(name, _)| *name == metric || name == family(&metric));
        let mut known = match known {
            Some((_, labels)) => labels.clone(),
            None if own.is_some_and(|own| controllers.contains(&format!("\"{own}\""))) => {
                BTreeSet::new()
            }
            None => {
                problems.push(format!("there is no {metric}"));
                continue;
            }
        };
        known.extend(ADDED.map(str::to_owned));
        let strange = labels.into_iter().filter(|label| !known.contains(label));
        problems.extend(strange.map(|label| format!("{metric} has no label {label}")));
        all.extend(known);
    }
    let strange = grouped.into_iter().filter(|label| !all.contains(label));
    problems.extend(strange.map(|label| format!("nothing there has the label {label}")));
    problems
}

/// A controller makes a page of its own, by the names in its source.
fn controllers() -> String {
    read("userspace/controller/src/metrics.rs")
}

#[test]
fn alerts_and_dashboards_ask_for_metrics_and_labels_that_there_are() {
    let agents = page::labels_of_all(&scrape(&busy()));
    let (alerts, dashboard) = (alerts(), dashboard());
    assert!(alerts.len() >= 6 && dashboard.len() >= 20, "{alerts:?} {dashboard:?}");
    for expression in alerts.iter().chain(&dashboard) {
        let problems = wrong(expression, &agents, &controllers());
        assert!(problems.is_empty(), "{expression}: {problems:?}");
    }
}

#[test]
fn what_there_is_not_would_be_noticed() {
    let agents = page::labels_of_all(&scrape(&busy()));
    for (expression, wanted) in [
        ("martlet_redy == 0", "there is no martlet_redy"),
        ("martlet_controller_lots > 0", "there is no martlet_controller_lots"),
        ("martlet_hook_attached{huk=\"a\"}", "martlet_hook_attached has no label huk"),
        ("martlet_ready{hook=~\"a|b\"}", "martlet_ready has no label hook"),
        ("sum by (kind) (martlet_ready)", "nothing there has the label kind"),
        ("up == 0", "no metric of ours"),
    ] {
        assert_eq!(wrong(expression, &agents, &controllers()), [wanted], "{expression}");
    }
}

#[test]
fn an_alert_watches_each_bound_that_is_refused_at() {
    let rules = read("deploy/prometheus-rules.yaml");
    let alert =
        rules.split("- alert: ").find(|one| one.starts_with("MartletBoundReached")).unwrap();
    let (_, watched) = alert.split_once("verdict=~\"").unwrap();
    let watched: BTreeSet<_> = watched.split('"').next().unwrap().split('|').collect();
    let bounds = read("docs/bounds.md");
    let counters = bounds.lines().filter_map(|line| {
        let (_, counter) = line.strip_suffix("` |")?.rsplit_once("` / `")?;
        Some(counter)
    });
    let wanted: BTreeSet<_> = counters.collect();
    assert_eq!(watched, wanted);
}
