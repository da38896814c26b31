//! From a command to what is printed. Each page is a pure function of the report and the time.

pub mod certificates;
pub mod check;
pub mod connections;
pub mod coverage;
pub mod records;
pub mod status;
pub mod workloads;

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
    time::SystemTime,
};

use anyhow::{Context as _, Result};
use martlet_model::{
    coverage::Coverage,
    report::{Certificates, CheckReport, Connections},
};
use serde::de::DeserializeOwned;

use crate::{
    agent::Agent,
    args::{CoverageFilter, Kind, Look, Output},
    json, limits, write,
};

/// What somebody says, and on which node, where several are shown.
pub struct Of<'a, T> {
    pub node: Option<&'a str>,
    pub said: &'a T,
}

impl<'a, T> Of<'a, T> {
    /// Of the one that is shown.
    pub fn here(said: &'a T) -> Self {
        Self { node: None, said }
    }
}

pub async fn show(agent: &Agent, look: Look) -> Result<ExitCode> {
    match look {
        Look::Status { answer } => page(agent, "/status", answer.output, status::page).await?,
        Look::Workloads { answer } => {
            page(agent, "/workloads", answer.output, workloads::page).await?
        }
        Look::Connections { watch: false, answer } => {
            page(agent, "/connections", answer.output, connections::page).await?;
        }
        Look::Connections { watch: true, answer } => watch(agent, answer.output).await?,
        Look::Certificates { workload, answer } => {
            return certificates(agent, workload.as_deref(), answer.output).await;
        }
        Look::Coverage { filter, fail_on, answer } => {
            return coverage(agent, &filter, &fail_on, answer.output).await;
        }
        Look::Records { follow: false, answer } => {
            page(agent, "/records", answer.output, records::page).await?;
        }
        Look::Records { follow: true, answer } => follow(agent, answer.output).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn page<T: DeserializeOwned>(
    agent: &Agent,
    path: &'static str,
    output: Output,
    page: fn(&T, SystemTime) -> String,
) -> Result<()> {
    let answer = agent.ask(path).await?;
    match output {
        Output::Json => write(&as_json(&answer)),
        Output::Table => write(&page(&agent.read(&answer).await?, SystemTime::now())),
    }
}

/// As it came, for programs; indented for a person.
pub fn as_json(answer: &[u8]) -> String {
    let answer = String::from_utf8_lossy(answer);
    let answer = answer.trim_end();
    if io::stdout().is_terminal() { json::indent(answer) + "\n" } else { format!("{answer}\n") }
}

/// A screen at a time on a terminal; in a pipe one page after the other, or one line of JSON each.
async fn watch(agent: &Agent, output: Output) -> Result<()> {
    const CLEAR: &str = "\x1b[H\x1b[2J";
    let (before, after) = match (output, io::stdout().is_terminal()) {
        (Output::Json, _) => ("", ""),
        (Output::Table, true) => (CLEAR, ""),
        (Output::Table, false) => ("", "\n"),
    };
    loop {
        let answer = agent.ask("/connections").await?;
        let text = match output {
            Output::Json => as_json(&answer),
            Output::Table => {
                let now: Connections = agent.read(&answer).await?;
                connections::page(&now, SystemTime::now())
            }
        };
        write(&format!("{before}{text}{after}"))?;
        tokio::time::sleep(limits::WATCH).await;
    }
}

/// A workload without a certificate is a failure only if it was asked for.
async fn certificates(agent: &Agent, workload: Option<&str>, output: Output) -> Result<ExitCode> {
    let Some(workload) = workload else {
        page(agent, "/certificates", output, certificates::page).await?;
        return Ok(ExitCode::SUCCESS);
    };
    let answer = agent.ask("/certificates").await?;
    let report: Certificates = agent.read(&answer).await?;
    let leaf = report.leaves.iter().find(|leaf| leaf.workload.to_string() == workload);
    let leaf = leaf.with_context(|| {
        format!("this node has no workload {workload} with a certificate; see `martlet workloads`")
    })?;
    match output {
        Output::Json => write(&as_json(&serde_json::to_vec(leaf)?))?,
        Output::Table => write(&certificates::chain(leaf, &report.roots, SystemTime::now()))?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn coverage(
    agent: &Agent,
    filter: &CoverageFilter,
    fail_on: &[Kind],
    output: Output,
) -> Result<ExitCode> {
    let answer = agent.ask("/coverage").await?;
    let mut report: Coverage = agent.read(&answer).await?;
    coverage::filter(&mut report, filter);
    match output {
        Output::Json if coverage::is_whole(filter) => write(&as_json(&answer))?,
        Output::Json => write(&as_json(&serde_json::to_vec(&report)?))?,
        Output::Table => write(&coverage::page(&report))?,
    }
    let found = report.pairs.iter().any(|pair| coverage::has_any(pair, fail_on));
    Ok(if found { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// An agent that cannot be asked is what the check found.
pub async fn look_for_trouble(agent: &Agent, output: Output) -> Result<ExitCode> {
    let (answer, report) = match agent.ask("/check").await {
        Ok(answer) => {
            let report: CheckReport = agent.read(&answer).await?;
            (answer, report)
        }
        Err(error) => {
            let report = check::no_agent(&error);
            (serde_json::to_vec(&report)?, report)
        }
    };
    match output {
        Output::Json => write(&as_json(&answer))?,
        Output::Table => write(&check::page(&report))?,
    }
    Ok(if check::is_good(&report) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Until the agent stops, or the reader does.
async fn follow(agent: &Agent, output: Output) -> Result<()> {
    let mut lines = agent.follow("/records?follow").await?;
    if output == Output::Table {
        write(&records::head())?;
    }
    while let Some(line) = lines.next().await? {
        match output {
            Output::Json => write(&(String::from_utf8_lossy(&line) + "\n"))?,
            Output::Table => write(&records::line(&agent.read(&line).await?))?,
        }
    }
    Ok(())
}
