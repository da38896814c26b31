//! What goes on: connections again and again, records as they come, of all nodes.

use std::{
    io::{self, IsTerminal as _},
    pin::pin,
    process::ExitCode,
};

use anyhow::Result;
use futures_util::{StreamExt as _, stream};
use martlet_model::report::{Connections, TimedRecord};
use serde_json::{Map, Value};

use super::{
    Cluster, Heard, Member, ask_all, remarks,
    show::{beside, document, of, read},
};
use crate::{
    agent::{AgentError, Lines},
    args::Output,
    json, limits,
    show::{connections as page, records as lines},
    write,
};

/// Until interrupted. Which nodes there are is asked each time; connections to those that were
/// there stay.
pub async fn connections(cluster: &Cluster, output: Output) -> Result<ExitCode> {
    const CLEAR: &str = "\x1b[H\x1b[2J";
    let (before, after) = match (output, io::stdout().is_terminal()) {
        (Output::Json, _) => ("", ""),
        (Output::Table, true) => (CLEAR, ""),
        (Output::Table, false) => ("", "\n"),
    };
    let mut members = Vec::new();
    loop {
        renew(&mut members, cluster.members().await?);
        let mut heard = ask_all(&mut members, "/connections").await;
        let text = match output {
            Output::Json => document(&heard),
            Output::Table => {
                let all = read::<Connections>(&mut heard);
                beside(&page::pages(&of(&all)), &remarks(&heard))
            }
        };
        write(&format!("{before}{text}{after}"))?;
        tokio::time::sleep(limits::WATCH).await;
    }
}

/// Keeps those that can be asked as before.
pub fn renew(known: &mut Vec<Member>, found: Vec<Member>) {
    let mut before = std::mem::take(known);
    for member in found {
        let same = before.iter().position(|old| old.is_as(&member));
        known.push(match same {
            Some(at) => before.swap_remove(at),
            None => member,
        });
    }
}

/// Until all agents stop, or the reader does.
pub async fn records(cluster: &Cluster, output: Output) -> Result<ExitCode> {
    let mut heard = Vec::new();
    let mut all = Vec::new();
    let begun = cluster.members().await?.into_iter().map(|member| async move {
        let mut member = member;
        let lines = match member.agent() {
            Ok(agent) => agent.follow("/records?follow").await,
            Err(error) => Err(error),
        };
        (member.node, lines)
    });
    let mut begun = pin!(stream::iter(begun).buffer_unordered(limits::ASKED_AT_ONCE));
    while let Some((node, lines)) = begun.next().await {
        match lines {
            Ok(lines) => all.push(of_node(node, lines).boxed()),
            Err(error) => heard.push(Heard { node, told: Err(error) }),
        }
    }
    // Not among what programs read.
    eprint!("{}", anstream::adapter::strip_str(&remarks(&heard)));
    if output == Output::Table {
        write(&lines::head_of_nodes())?;
    }
    let mut all = stream::select_all(all);
    let mut code = super::show::code(&heard);
    while let Some((node, line)) = all.next().await {
        let line = match line {
            Ok(line) => line,
            Err(error) => {
                let told = [Heard { node, told: Err(error) }];
                eprint!("{}", anstream::adapter::strip_str(&remarks(&told)));
                code = ExitCode::FAILURE;
                continue;
            }
        };
        match output {
            Output::Json => write(&(with_node(&node, &line) + "\n"))?,
            Output::Table => write(&lines::line_of(&node, &json::read::<TimedRecord>(&line)?))?,
        }
    }
    Ok(code)
}

type Line = (String, Result<Vec<u8>, AgentError>);

fn of_node(node: String, lines: Lines) -> impl stream::Stream<Item = Line> + Send {
    stream::unfold((node, Some(lines)), |(node, lines)| async move {
        let mut lines = lines?;
        match lines.next().await {
            Ok(Some(line)) => Some(((node.clone(), Ok(line)), (node, Some(lines)))),
            // That it has ended is worth a word: the others go on.
            Ok(None) => Some(((node.clone(), Err(AgentError::Ended)), (node, None))),
            Err(error) => Some(((node.clone(), Err(error)), (node, None))),
        }
    })
}

/// The record as it came, and the node before it.
fn with_node(node: &str, line: &[u8]) -> String {
    let mut object = Map::new();
    object.insert("node".to_owned(), node.into());
    if let Ok(Value::Object(record)) = serde_json::from_slice(line) {
        object.extend(record);
    }
    Value::Object(object).to_string()
}
