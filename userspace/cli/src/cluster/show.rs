//! From a command to what is printed of a cluster.
//!
//! Programs get one object with a member for each node, whatever their number; people one table,
//! or, if they asked for one node, what they would see there.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use martlet_kubernetes::api::DEFAULT;
use martlet_model::{
    coverage::Coverage,
    report::{Certificates, Status},
};
use serde::de::DeserializeOwned;

use super::{Cluster, Heard, ask_all, one, pages, remarks, watch};
use crate::{
    agent::{AgentError, Told},
    args::{CoverageFilter, Kind, Look, Output},
    json,
    show::{Of, as_json, certificates, connections, coverage, records, show as show_one},
    write,
};

pub async fn show(cluster: &Cluster, look: Look) -> Result<ExitCode> {
    if cluster.is_of_one() && is_table(&look) {
        return show_one(&one(cluster).await?, look).await;
    }
    match look {
        Look::Status { answer } => {
            let set = match answer.output {
                Output::Table => set_for_all(cluster).await,
                Output::Json => String::new(),
            };
            let page_of = |all: &[Of<'_, Status>]| beside(&pages::status(all), &set);
            page(cluster, "/status", answer.output, page_of).await
        }
        Look::Workloads { answer } => {
            page(cluster, "/workloads", answer.output, pages::workloads).await
        }
        Look::Connections { watch: false, answer } => {
            page(cluster, "/connections", answer.output, connections::pages).await
        }
        Look::Connections { watch: true, answer } => {
            watch::connections(cluster, answer.output).await
        }
        Look::Certificates { workload: None, answer } => {
            let now = std::time::SystemTime::now();
            let page_of = |all: &[Of<'_, Certificates>]| certificates::pages(all, now);
            page(cluster, "/certificates", answer.output, page_of).await
        }
        Look::Certificates { workload: Some(workload), answer } => {
            chain_of(cluster, &workload, answer.output).await
        }
        Look::Coverage { filter, fail_on, answer } => {
            coverage_of(cluster, &filter, &fail_on, answer.output).await
        }
        Look::Records { follow: false, answer } => {
            page(cluster, "/records", answer.output, records::pages).await
        }
        Look::Records { follow: true, answer } => watch::records(cluster, answer.output).await,
    }
}

/// What is set for the whole mesh, if anything is and this user may know it.
async fn set_for_all(cluster: &Cluster) -> String {
    let configs = cluster.remote.configs().await.unwrap_or_default();
    let object = configs.iter().find(|object| object.name() == DEFAULT);
    object.map(pages::set_for_all).unwrap_or_default()
}

fn is_table(look: &Look) -> bool {
    let answer = match look {
        Look::Status { answer }
        | Look::Workloads { answer }
        | Look::Connections { answer, .. }
        | Look::Certificates { answer, .. }
        | Look::Coverage { answer, .. }
        | Look::Records { answer, .. } => answer,
    };
    answer.output == Output::Table
}

async fn page<T: DeserializeOwned>(
    cluster: &Cluster,
    path: &'static str,
    output: Output,
    page: impl Fn(&[Of<'_, T>]) -> String,
) -> Result<ExitCode> {
    let mut heard = ask_all(&mut cluster.members().await?, path).await;
    match output {
        Output::Json => write(&document(&heard))?,
        Output::Table => {
            let read = read::<T>(&mut heard);
            write(&beside(&page(&of(&read)), &remarks(&heard)))?;
        }
    }
    Ok(code(&heard))
}

/// What the nodes said, by their names; an answer that is not understood is none.
pub fn read<T: DeserializeOwned>(heard: &mut [Heard]) -> Vec<(String, T)> {
    let mut all = Vec::new();
    for Heard { node, told } in heard {
        let Ok(Told { answer, version }) = told else { continue };
        match json::read(answer) {
            Ok(read) => all.push((node.clone(), read)),
            Err(source) => {
                let version = version.clone().unwrap_or_else(|| "of an unknown version".to_owned());
                *told = Err(AgentError::Differs { version, source });
            }
        }
    }
    all
}

pub fn of<T>(read: &[(String, T)]) -> Vec<Of<'_, T>> {
    read.iter().map(|(node, said)| Of { node: Some(node), said }).collect()
}

/// Remarks come after a page, with a blank line between.
pub fn beside(page: &str, remarks: &str) -> String {
    let blank = if page.is_empty() || remarks.is_empty() { "" } else { "\n" };
    format!("{page}{blank}{remarks}")
}

pub fn code(heard: &[Heard]) -> ExitCode {
    match heard.iter().all(|heard| heard.told.is_ok()) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// For each node its answer as it came, or why there is none.
pub fn document(heard: &[Heard]) -> String {
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let nodes = heard.iter().map(|Heard { node, told }| {
        let node = text(node);
        match told {
            Ok(Told { answer, version }) => {
                let version =
                    version.as_ref().map(|version| format!(",\"version\":{}", text(version)));
                let answer = String::from_utf8_lossy(answer);
                let version = version.unwrap_or_default();
                format!("{{\"node\":{node}{version},\"answer\":{}}}", answer.trim())
            }
            Err(error) => {
                format!("{{\"node\":{node},\"error\":{}}}", text(&super::chain(error)))
            }
        }
    });
    let nodes: Vec<_> = nodes.collect();
    as_json(format!("{{\"nodes\":[{}]}}", nodes.join(",")).as_bytes())
}

async fn chain_of(cluster: &Cluster, workload: &str, output: Output) -> Result<ExitCode> {
    let mut heard = ask_all(&mut cluster.members().await?, "/certificates").await;
    let all = read::<Certificates>(&mut heard);
    let found = all.iter().find_map(|(_, said)| {
        let leaf = said.leaves.iter().find(|leaf| leaf.workload.to_string() == workload)?;
        Some((leaf, &said.roots))
    });
    let Some((leaf, roots)) = found else {
        write(&remarks(&heard))?;
        bail!("no node that answered has a workload {workload} with a certificate");
    };
    match output {
        Output::Json => write(&as_json(&serde_json::to_vec(leaf)?))?,
        Output::Table => write(&certificates::chain(leaf, roots, std::time::SystemTime::now()))?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn coverage_of(
    cluster: &Cluster,
    filter: &CoverageFilter,
    fail_on: &[Kind],
    output: Output,
) -> Result<ExitCode> {
    let mut heard = ask_all(&mut cluster.members().await?, "/coverage").await;
    let mut all = read::<Coverage>(&mut heard);
    all.iter_mut().for_each(|(_, said)| coverage::filter(said, filter));
    match output {
        Output::Json => {
            if !coverage::is_whole(filter) {
                filtered(&mut heard, &all)?;
            }
            write(&document(&heard))?;
        }
        Output::Table => write(&beside(&coverage::pages(&of(&all)), &remarks(&heard)))?,
    }
    let mut pairs = all.iter().flat_map(|(_, said)| &said.pairs);
    let is_found = pairs.any(|pair| coverage::has_any(pair, fail_on));
    Ok(if is_found { ExitCode::FAILURE } else { code(&heard) })
}

/// Puts what was filtered in the place of what came.
fn filtered(heard: &mut [Heard], all: &[(String, Coverage)]) -> Result<()> {
    for Heard { node, told } in heard {
        let Ok(told) = told else { continue };
        let (_, said) = all.iter().find(|(of, _)| of == node).context("what was read is there")?;
        told.answer = serde_json::to_vec(said)?;
    }
    Ok(())
}
