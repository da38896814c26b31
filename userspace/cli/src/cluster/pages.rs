//! What is shown of all nodes together, where it is not each one's own lines one below the other.

use std::collections::BTreeMap;

use martlet_kubernetes::api::ConfigObject;
use martlet_model::{
    WorkloadName,
    report::{Status, WorkloadReport, Workloads},
};

use crate::{
    human::{self, Names},
    paint::{Tone, paint},
    show::{Of, workloads::tone},
    table::{Table, cell, plain},
};

/// A line for each node, and what there is to say about it.
pub fn status(all: &[Of<'_, Status>]) -> String {
    let mut table = Table::new(&[
        "NODE",
        "STATE",
        "AGENT",
        "UP FOR",
        "CONTROLLER",
        "WORKLOADS",
        "CONNECTIONS",
        "HOOKS",
    ]);
    for of in all {
        let status = of.said;
        let state = match status.ready {
            true => cell("ready", Tone::Good),
            false => cell("not ready", Tone::Bad),
        };
        let controller = match &status.controller {
            None => plain(human::unknown()),
            Some(report) if report.away.is_some() => cell("away", Tone::Warning),
            Some(report) if report.refused.is_some() => cell("not taken", Tone::Bad),
            Some(_) => cell("connected", Tone::Good),
        };
        let attached = status.hooks.iter().filter(|hook| hook.attached).count();
        let hooks = format!("{attached} of {}", status.hooks.len());
        let is_whole = attached == status.hooks.len();
        table.row([
            plain(of.node.unwrap_or_default()),
            state,
            plain(&status.version),
            plain(human::span(std::time::Duration::from_secs(status.uptime_seconds))),
            controller,
            plain(status.workloads.to_string()),
            plain(status.connections.to_string()),
            cell(hooks, if is_whole { Tone::Plain } else { Tone::Bad }),
        ]);
    }
    let lines: String = all.iter().flat_map(troubles).collect();
    super::show::beside(&table.text(), &lines)
}

/// What a MeshConfig has set, and whether that is what it says now.
pub fn set_for_all(object: &ConfigObject) -> String {
    let said = object.said();
    let Some(set) = &said.in_effect else { return String::new() };
    let word = |value: serde_json::Result<serde_json::Value>| {
        value.ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
    };
    let mut all = vec![];
    let mut add = |name: &str, value: String| {
        if !value.is_empty() {
            all.push(format!("{name} {value}"));
        }
    };
    add("default mode", word(serde_json::to_value(set.default_mode)));
    add("failure", word(serde_json::to_value(set.failure)));
    add("udp", word(serde_json::to_value(set.udp)));
    let mut lines = format!("set for the whole mesh: {}\n", all.join(", "));
    let mut of_now =
        said.conditions.iter().filter(|one| one.observed_generation == object.generation());
    if let Some(why) = of_now.find(|one| one.kind == "Accepted" && one.status == "False") {
        let line = format!("‼ the MeshConfig is not used as it is written: {}", why.message);
        lines.push_str(&format!("{}\n", paint(&line, Tone::Bad)));
    }
    lines
}

fn troubles(of: &Of<'_, Status>) -> Vec<String> {
    let Of { node, said: status } = of;
    let node = node.unwrap_or_default();
    let mut troubles = Vec::new();
    let mut add = |text: String, tone| {
        troubles.push(format!("{}\n", paint(&format!("‼ {node}: {text}"), tone)));
    };
    if !status.ready {
        add(format!("not ready: {}", status.not_ready.join("; ")), Tone::Bad);
    }
    if let Some(controller) = &status.controller {
        if let Some(why) = &controller.away {
            add(format!("the controller is away: {why}"), Tone::Warning);
        }
        if let Some(why) = &controller.refused {
            add(format!("what the controller says is not taken: {why}"), Tone::Bad);
        }
        if let Some(skew) = controller.clock.filter(|skew| skew.is_too_far()) {
            add(format!("its clock is {skew}, which is too far"), Tone::Bad);
        }
    }
    if let Some(error) = &status.configuration_error {
        add(format!("the newest node file was not taken over: {error}"), Tone::Warning);
    }
    if status.fails_open {
        let text = "failure: open: without an agent permissive workloads connect in plaintext";
        add(text.to_owned(), Tone::Warning);
    }
    for shortfall in &status.unconfined {
        add(format!("the agent is less confined than it could be: {shortfall}"), Tone::Warning);
    }
    for repair in &status.repairs {
        match &repair.error {
            None => add(format!("{}: was put back", repair.what), Tone::Warning),
            Some(error) => add(format!("{}: was not put back: {error}", repair.what), Tone::Bad),
        }
    }
    troubles
}

/// Each workload once, as its own node's agent sees it; one that only others know is on a node that
/// did not answer.
pub fn workloads(all: &[Of<'_, Workloads>]) -> String {
    let mut known: BTreeMap<&WorkloadName, &WorkloadReport> = BTreeMap::new();
    for report in all.iter().flat_map(|of| &of.said.workloads) {
        let entry = known.entry(&report.name).or_insert(report);
        if entry.state == "remote" {
            *entry = report;
        }
    }
    if known.is_empty() {
        return "the agents know no workloads\n".to_owned();
    }
    let names = Names::of(known.values().map(|workload| &workload.identity));
    let mut table = Table::new(&["NODE", "WORKLOAD", "IDENTITY", "MODE", "STATE", "ADDRESSES"]);
    for workload in known.values() {
        let state = match workload.state.as_str() {
            "remote" => cell("not known", Tone::Warning),
            state => cell(state, tone(workload)),
        };
        let addresses: Vec<_> = workload.addresses.iter().map(ToString::to_string).collect();
        table.row([
            plain(workload.node.to_string()),
            plain(workload.name.to_string()),
            plain(names.identity(&workload.identity)),
            plain(workload.mode.to_string()),
            state,
            plain(addresses.join(", ")),
        ]);
    }
    let reasons = known.values().filter_map(|workload| {
        let reason = workload.reason.as_ref()?;
        let line = format!("‼ {} on {}: {reason}", workload.name, workload.node);
        Some(format!("{}\n", paint(&line, Tone::Warning)))
    });
    super::show::beside(&table.text(), &reasons.collect::<String>()) + &names.legend()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_set_for_the_mesh_is_shown_and_that_it_is_not_what_is_written() {
        let object = |status: &str| {
            let accepted = json!({"type": "Accepted", "status": status, "observedGeneration": 2,
                "lastTransitionTime": "", "reason": "Why", "message": "spec: opne"});
            let effect = json!({"defaultMode": "strict", "failure": "open"});
            let status = json!({"conditions": [accepted], "agents": "", "inEffect": effect});
            let metadata = json!({"name": "default", "generation": 2});
            serde_json::from_value(json!({"metadata": metadata, "status": status})).unwrap()
        };
        let set = "set for the whole mesh: default mode strict, failure open\n";
        assert_eq!(set_for_all(&object("True")), set);
        let refused = set_for_all(&object("False"));
        assert!(refused.starts_with(set) && refused.contains("opne"), "{refused}");
        let unsaid = serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap();
        assert_eq!(set_for_all(&unsaid), "");
    }
}
