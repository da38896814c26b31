//! `martlet policy`: what has become of each policy.

use std::{collections::BTreeSet, process::ExitCode};

use anyhow::Result;
use martlet_kubernetes::{
    api::{Condition, PolicyObject},
    remote::Scene,
    seen::Pod,
};
use martlet_model::{Closed, Label, Reporter, report::TimedRecord};
use serde::Serialize;

use super::{Cluster, Heard, ask_all, remarks, show::code, trust_domain};
use crate::{
    args::Output,
    human,
    paint::{Tone, paint},
    show::as_json,
    table::{Table, cell, plain},
    write,
};

#[derive(Debug, Serialize)]
struct Listed {
    namespace: String,
    name: String,
    action: String,
    /// `True`, `False` or `Unknown`, as its status says it; absent if it says nothing yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    accepted: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    programmed: Option<String>,
    /// What its status says of both, if it says more than that it is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// Why it refuses every connection to what it selects.
    #[serde(skip_serializing_if = "Option::is_none")]
    cannot_be_enforced: Option<String>,
    /// Names of pods of its namespace.
    selects: Vec<String>,
    /// Refusals by it among the agents' last records.
    refused: usize,
}

const ACCEPTED: &str = "Accepted";
const PROGRAMMED: &str = "Programmed";

pub async fn policy(
    cluster: &Cluster,
    namespace: Option<&Label>,
    output: Output,
) -> Result<ExitCode> {
    let mut objects = cluster.remote.policies().await?;
    objects.retain(|object| namespace.is_none_or(|wanted| object.namespace() == wanted.as_str()));
    let mut heard = ask_all(&mut cluster.members().await?, "/records").await;
    let records = super::show::read::<Vec<TimedRecord>>(&mut heard);
    let records: Vec<_> = records.into_iter().flat_map(|(_, records)| records).collect();
    let domain = trust_domain(cluster).await?;
    let namespaces: BTreeSet<Label> =
        objects.iter().filter_map(|object| object.namespace().parse().ok()).collect();
    let scene = cluster.remote.scene(&domain, &namespaces).await?;
    let listed: Vec<_> = objects.iter().map(|object| listed(object, &scene, &records)).collect();
    match output {
        Output::Json => write(&as_json(&serde_json::to_vec(&document(&listed, &heard))?))?,
        Output::Table => write(&super::show::beside(&page(&listed), &remarks(&heard)))?,
    }
    Ok(code(&heard))
}

fn document(listed: &[Listed], heard: &[Heard]) -> serde_json::Value {
    let silent: Vec<_> =
        heard.iter().filter(|heard| heard.told.is_err()).map(|heard| &heard.node).collect();
    serde_json::json!({"policies": listed, "silent": silent})
}

fn listed(object: &PolicyObject, scene: &Scene, records: &[TimedRecord]) -> Listed {
    let (namespace, name) = (object.namespace(), object.name());
    let conditions = object.conditions();
    let of = |kind: &str| conditions.iter().find(|condition| condition.kind == kind);
    let says = |condition: &Condition| {
        let is_more = !condition.message.is_empty();
        is_more.then(|| format!("{}: {}", condition.reason, condition.message))
    };
    let messages: Vec<_> =
        [ACCEPTED, PROGRAMMED].into_iter().filter_map(of).filter_map(says).collect();
    let prefix = format!("{namespace}/{name}: ");
    let is_by_it = |timed: &&TimedRecord| {
        let record = &timed.record;
        record.closed == Closed::Denied
            && record.reporter == Reporter::Destination
            && record.policy.as_ref().is_some_and(|policy| policy.starts_with(&prefix))
    };
    Listed {
        action: object.spec["action"].as_str().unwrap_or("-").to_owned(),
        accepted: of(ACCEPTED).map(|condition| condition.status.clone()),
        programmed: of(PROGRAMMED).map(|condition| condition.status.clone()),
        message: (!messages.is_empty()).then(|| messages.join("; ")),
        cannot_be_enforced: object.read().err().map(|(_, problem)| problem.message),
        selects: selected(object, scene),
        refused: records.iter().filter(is_by_it).count(),
        namespace,
        name,
    }
}

/// The enrolled pods that it is about.
fn selected(object: &PolicyObject, scene: &Scene) -> Vec<String> {
    let selects = |pod: &&Pod| {
        let is_there = pod.name.namespace.as_str() == object.namespace() && !pod.is_over;
        is_there && scene.world.workload(&pod.name).is_some() && object.selects(pod)
    };
    let mut names: Vec<_> =
        scene.pods().iter().filter(selects).map(|pod| pod.name.name.to_string()).collect();
    names.sort();
    names
}

fn page(listed: &[Listed]) -> String {
    if listed.is_empty() {
        return "there is no policy: within the mesh everything is allowed\n".to_owned();
    }
    let header = ["POLICY", "ACTION", "ACCEPTED", "PROGRAMMED", "REFUSED LATELY", "SELECTS"];
    let mut table = Table::new(&header);
    for policy in listed {
        let selects = match policy.selects.as_slice() {
            [] => cell("no enrolled pod", Tone::Warning),
            [first, second, third, more @ ..] if !more.is_empty() => {
                plain(format!("{first}, {second}, {third} and {} more", more.len()))
            }
            all => plain(all.join(", ")),
        };
        table.row([
            plain(format!("{}/{}", policy.namespace, policy.name)),
            plain(&policy.action),
            condition(policy.accepted.as_deref()),
            condition(policy.programmed.as_deref()),
            plain(policy.refused.to_string()),
            selects,
        ]);
    }
    let lines = listed.iter().filter_map(|policy| {
        let name = format!("{}/{}", policy.namespace, policy.name);
        if let Some(why) = &policy.cannot_be_enforced {
            let line = format!("× {name} refuses every connection to what it selects: {why}");
            return Some(format!("{}\n", paint(&line, Tone::Bad)));
        }
        let is_good = [&policy.accepted, &policy.programmed]
            .into_iter()
            .all(|status| status.as_deref().is_none_or(|status| status == "True"));
        let message = policy.message.as_ref().filter(|_| !is_good)?;
        Some(format!("{}\n", paint(&format!("‼ {name}: {message}"), Tone::Warning)))
    });
    super::show::beside(&table.text(), &lines.collect::<String>())
}

fn condition(status: Option<&str>) -> comfy_table::Cell {
    match status {
        Some("True") => cell("yes", Tone::Good),
        Some("False") => cell("no", Tone::Bad),
        Some(_) => cell("not known", Tone::Warning),
        None => plain(human::unknown()),
    }
}
