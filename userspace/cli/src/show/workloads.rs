//! `martlet workloads`: who is who, and whether the traffic of those here is steered.

use std::time::SystemTime;

use martlet_model::report::{WorkloadReport, Workloads};

use crate::{
    human::Names,
    paint::{Tone, paint},
    table::{Table, cell, plain},
};

pub fn page(report: &Workloads, _now: SystemTime) -> String {
    let workloads = &report.workloads;
    if workloads.is_empty() {
        return "the agent knows no workloads\n".to_owned();
    }
    let names = Names::of(workloads.iter().map(|workload| &workload.identity));
    let mut table = Table::new(&["WORKLOAD", "IDENTITY", "NODE", "MODE", "STATE", "ADDRESSES"]);
    for workload in workloads {
        let addresses: Vec<_> = workload.addresses.iter().map(ToString::to_string).collect();
        table.row([
            plain(workload.name.to_string()),
            plain(names.identity(&workload.identity)),
            plain(workload.node.to_string()),
            plain(workload.mode.to_string()),
            cell(&workload.state, tone(workload)),
            plain(addresses.join(", ")),
        ]);
    }
    let reasons: String = workloads.iter().filter_map(reason).collect();
    let gap = if reasons.is_empty() { "" } else { "\n" };
    format!("{}{gap}{reasons}{}", table.text(), names.legend())
}

pub fn tone(workload: &WorkloadReport) -> Tone {
    match workload.state.as_str() {
        "steered" => Tone::Good,
        "failed" => Tone::Bad,
        "remote" => Tone::Faint,
        _ => Tone::Warning,
    }
}

fn reason(workload: &WorkloadReport) -> Option<String> {
    let reason = workload.reason.as_ref()?;
    let line = format!("‼ {}: {reason}", workload.name);
    Some(format!("{}\n", paint(&line, Tone::Warning)))
}
