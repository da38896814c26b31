//! `martlet check` of a cluster: what is asked for it, and what is printed.
//!
//! Everything is asked first, whatever fails; what it means is decided without asking more
//! ([`judge`]).

mod judge;
mod topic;

use std::{
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use martlet_kubernetes::remote::{NodeFacts, Remote, RemoteError, Right};
use martlet_model::{
    coverage::Coverage,
    report::{Check, CheckReport, CheckResult, Nodes, Status, TrustReport},
};

use super::{Cluster, ask_all, chain, show::read};
use crate::{
    args::{Output, Reach},
    controller::Controller,
    show::{as_json, check as page},
    write,
};
use judge::{Facts, NodeSaid, Policy, Setting};

/// What a user of this program needs.
const ASKS: [Right; 4] = [
    right("list", "", "pods", "", true),
    right("create", "", "pods", "exec", true),
    right("get", "", "pods", "exec", true),
    right("list", "", "nodes", "", false),
];

/// What somebody needs who installs Martlet.
const INSTALLS: [Right; 5] = [
    right("create", "", "namespaces", "", false),
    right("create", "apiextensions.k8s.io", "customresourcedefinitions", "", false),
    right("create", "rbac.authorization.k8s.io", "clusterroles", "", false),
    right("create", "apps", "daemonsets", "", true),
    right("create", "apps", "deployments", "", true),
];

const fn right(
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
    subresource: &'static str,
    is_of_system: bool,
) -> Right {
    Right { verb, group, resource, subresource, is_of_system }
}

/// A cluster that cannot be reached is what the check found.
pub async fn check(reach: &Reach, pre: bool, output: Output) -> Result<ExitCode> {
    let report = match Cluster::open(reach).await {
        Err(error) => judge::no_kubeconfig(&format!("{error:#}")),
        Ok(cluster) if pre => judge::before(&before(&cluster.remote).await, &cluster.remote.server),
        Ok(cluster) => find(&cluster).await,
    };
    match output {
        Output::Json => write(&as_json(&serde_json::to_vec(&report)?))?,
        Output::Table => write(&page::page(&condensed(&report)))?,
    }
    Ok(if page::is_good(&report) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// All of it.
pub async fn find(cluster: &Cluster) -> CheckReport {
    judge::report(&gather(cluster).await, now())
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

async fn before(remote: &Remote) -> judge::Before {
    judge::Before {
        version: told(remote.version().await),
        rights: rights(remote, &INSTALLS).await,
        nodes: told(remote.nodes().await),
        labels: told(remote.system_labels().await),
    }
}

async fn gather(cluster: &Cluster) -> Facts {
    let remote = &cluster.remote;
    let (nodes, trust) = control(cluster).await;
    Facts {
        system: remote.system.to_string(),
        server: remote.server.clone(),
        version: told(remote.version().await),
        rights: rights(remote, &ASKS).await,
        nodes: told(remote.nodes().await),
        definitions: told(remote.definitions().await),
        labels: told(remote.system_labels().await),
        agents: told(remote.agents_rollout().await),
        controllers: told(remote.controller_rollout().await),
        unknown_modes: told(remote.unknown_modes().await),
        settings: told(remote.configs().await.map(|all| all.iter().map(Setting::of).collect())),
        policies: told(remote.policies().await.map(|all| all.iter().map(Policy::of).collect())),
        members: members(cluster).await,
        control: nodes,
        trust,
    }
}

async fn rights(remote: &Remote, wanted: &[Right]) -> Vec<(Right, Result<bool, String>)> {
    let mut rights = Vec::new();
    for right in wanted {
        rights.push((*right, told(remote.may(right).await)));
    }
    rights
}

async fn control(cluster: &Cluster) -> (Result<Nodes, String>, Result<TrustReport, String>) {
    let controller = match cluster.controller().await {
        Ok(controller) => controller,
        Err(error) => return (Err(format!("{error:#}")), Err(format!("{error:#}"))),
    };
    (asked(&controller, "/nodes").await, asked(&controller, "/trust").await)
}

async fn asked<T: serde::de::DeserializeOwned>(
    controller: &Controller,
    path: &'static str,
) -> Result<T, String> {
    let answer = controller.ask(path).await.map_err(|error| chain(&error))?;
    controller.read(&answer).map_err(|error| chain(&error))
}

/// What each node says, or why it says nothing.
async fn members(cluster: &Cluster) -> Result<Vec<(String, Result<NodeSaid, String>)>, String> {
    let mut members = cluster.members().await.map_err(|error| format!("{error:#}"))?;
    let mut checks = ask_all(&mut members, "/check").await;
    let mut said = read::<CheckReport>(&mut checks);
    // Those that did not answer are not waited for again.
    members.retain(|member| said.iter().any(|(node, _)| *node == member.node));
    let mut statuses = ask_all(&mut members, "/status").await;
    let mut coverages = ask_all(&mut members, "/coverage").await;
    let statuses = read::<Status>(&mut statuses);
    let coverages = read::<Coverage>(&mut coverages);
    let all = checks.into_iter().map(|heard| {
        let Some(at) = said.iter().position(|(node, _)| *node == heard.node) else {
            let why = heard.told.err().map(|error| chain(&error)).unwrap_or_default();
            return (heard.node, Err(why));
        };
        let (node, check) = said.swap_remove(at);
        let status = statuses.iter().find(|(of, _)| *of == node).map(|(_, said)| said.clone());
        let coverage = coverages.iter().find(|(of, _)| *of == node).map(|(_, said)| said.clone());
        match (status, coverage) {
            (Some(status), Some(coverage)) => (node, Ok(NodeSaid { check, status, coverage })),
            _ => (node, Err("it answered only the first of several questions".to_owned())),
        }
    });
    Ok(all.collect())
}

fn told<T>(answer: Result<T, RemoteError>) -> Result<T, String> {
    answer.map_err(|error| chain(&error))
}

/// For people: of what nodes have found in order, only how much it is.
fn condensed(report: &CheckReport) -> CheckReport {
    let mut report = report.clone();
    let mut counted: Option<(String, usize)> = None;
    let mut categories = Vec::new();
    for mut category in report.categories {
        let Some(node) = judge::node_of(&category.category_name) else {
            categories.push(category);
            continue;
        };
        let node = node.to_owned();
        let all = category.checks.len();
        category.checks.retain(|check| check.result != CheckResult::Success);
        let good = all - category.checks.len();
        match &mut counted {
            Some((of, count)) if *of == node => *count += good,
            _ => {
                flush(&mut counted, &mut categories);
                counted = Some((node, good));
            }
        }
        if !category.checks.is_empty() {
            categories.push(category);
        }
    }
    flush(&mut counted, &mut categories);
    report.categories = categories;
    report
}

fn flush(
    counted: &mut Option<(String, usize)>,
    categories: &mut Vec<martlet_model::report::CheckCategory>,
) {
    let Some((node, count)) = counted.take() else { return };
    let check = Check {
        description: format!("{node}: {count} checks of its agent found nothing wrong"),
        result: CheckResult::Success,
        error: None,
        hint: None,
    };
    const NAME: &str = "nodes";
    match categories.iter_mut().find(|category| category.category_name == NAME) {
        Some(category) => category.checks.push(check),
        None => categories.push(martlet_model::report::CheckCategory {
            category_name: NAME.to_owned(),
            checks: vec![check],
        }),
    }
}

/// A kernel's version, as far as it is compared.
fn kernel(facts: &NodeFacts) -> Option<(u32, u32)> {
    let mut numbers = facts.kernel.split(|char: char| !char.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}
