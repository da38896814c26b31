//! `martlet explain`: the API server and both agents are asked, and one sentence says what would
//! happen.

mod judge;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, bail};
use martlet_kubernetes::{
    remote::Scene,
    seen::{Pod, ServiceKey},
    world::{Kind, Object},
};
use martlet_model::{
    WorkloadName,
    report::{Certificates, Status, TimedRecord, Workloads},
};
use martlet_policy::{PolicySet, Request};
use serde::Serialize;

use super::{Cluster, ask_all, show::read};
use crate::{
    args::{Output, explain::Called},
    human,
    paint::{Tone, paint},
    show::as_json,
    write,
};
use judge::{End, Facts, Outcome, Policy, Route, Step};

/// Everything that agents say which matters here.
struct Agents {
    statuses: Vec<(String, Status)>,
    workloads: Vec<(String, Workloads)>,
    certificates: Vec<(String, Certificates)>,
    records: Vec<(String, Vec<TimedRecord>)>,
    silent: Vec<(String, String)>,
}

#[derive(Serialize)]
struct Answer<'a> {
    from: String,
    to: String,
    steps: &'a [Step],
    outcome: Outcome,
    /// In one sentence.
    would: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    what_to_do: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_refusal: Option<&'a TimedRecord>,
}

pub async fn explain(
    cluster: &Cluster,
    from: &WorkloadName,
    to: &Called,
    output: Output,
) -> Result<ExitCode> {
    let domain = super::trust_domain(cluster).await?;
    let namespaces: BTreeSet<_> =
        [&from.namespace, &to.name.namespace].into_iter().cloned().collect();
    let scene = cluster.remote.scene(&domain, &namespaces).await?;
    let Some(caller) = pod_of(&scene, from) else { bail!("there is no pod {from} that runs") };
    let (called, route) = route(&scene, to)?;
    let nodes: BTreeSet<_> = [caller, called].iter().map(|pod| pod.node.to_string()).collect();
    let agents = ask(cluster, &nodes).await?;
    let port = match &route {
        Route::Pod => to.port,
        Route::Service { endpoint, .. } => endpoint.map_or(to.port, |endpoint| endpoint.port()),
    };
    let policy = policy(&scene, caller, called, port);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let facts = Facts {
        caller: end(&scene, &agents, caller),
        called: end(&scene, &agents, called),
        route,
        policy,
        now,
    };
    let judged = judge::judge(&facts);
    let last = last_refusal(&agents, from, &called.name);
    let answer = Answer {
        from: from.to_string(),
        to: to.to_string(),
        steps: &judged.steps,
        outcome: judged.outcome,
        would: &judged.would,
        what_to_do: judged.what_to_do.as_deref(),
        last_refusal: last,
    };
    match output {
        Output::Json => write(&as_json(&serde_json::to_vec(&answer)?))?,
        Output::Table => write(&page(&answer, &facts))?,
    }
    Ok(match judged.outcome {
        Outcome::MutualTls | Outcome::Plaintext | Outcome::Internal => ExitCode::SUCCESS,
        Outcome::Refused | Outcome::Unknown => ExitCode::FAILURE,
    })
}

fn pod_of<'a>(scene: &'a Scene, name: &WorkloadName) -> Option<&'a Pod> {
    scene.pods().iter().find(|pod| pod.name == *name && !pod.is_over)
}

/// Of a pod itself, or one of those that a service leads to, an enrolled one if there is any.
fn route<'a>(scene: &'a Scene, to: &Called) -> Result<(&'a Pod, Route)> {
    let key = ServiceKey { namespace: to.name.namespace.clone(), name: to.name.name.clone() };
    if let Some(pod) = pod_of(scene, &to.name) {
        return Ok((pod, Route::Pod));
    }
    let Some((addresses, endpoints)) = scene.service(&key, to.port) else {
        bail!("there is no pod and no service {}", to.name);
    };
    let ready = endpoints.iter().filter(|one| one.is_ready).count();
    let pods = endpoints.iter().filter_map(|one| Some((scene.pod_at(one.address.ip())?, one)));
    let pods: Vec<_> = pods.collect();
    let is_enrolled = |pod: &Pod| scene.world.workload(&pod.name).is_some();
    let best = pods.iter().find(|(pod, one)| is_enrolled(pod) && one.is_ready).or(pods.first());
    let Some((pod, endpoint)) = best else {
        bail!(
            "port {} of the service {} leads to no pod ({} endpoints): the connection would fail, \
             in the mesh or outside of it; see kubectl describe service, and the pods' readiness",
            to.port,
            to.name,
            endpoints.len()
        );
    };
    let all = endpoints.len();
    let endpoint = Some(endpoint.address);
    Ok((
        pod,
        Route::Service { address: service_address(&addresses, to.port), ready, all, endpoint },
    ))
}

fn service_address(addresses: &[IpAddr], port: u16) -> Option<SocketAddr> {
    addresses.first().map(|address| SocketAddr::new(*address, port))
}

async fn ask(cluster: &Cluster, nodes: &BTreeSet<String>) -> Result<Agents> {
    let mut members = cluster.members().await?;
    members.retain(|member| nodes.contains(&member.node));
    let mut heard = ask_all(&mut members, "/status").await;
    let statuses = read::<Status>(&mut heard);
    let silent = heard.into_iter().filter_map(|one| Some((one.node, one.told.err()?)));
    let silent = silent.map(|(node, error)| (node, super::chain(&error))).collect();
    members.retain(|member| statuses.iter().any(|(node, _)| *node == member.node));
    let workloads = read::<Workloads>(&mut ask_all(&mut members, "/workloads").await);
    let certificates = read::<Certificates>(&mut ask_all(&mut members, "/certificates").await);
    let records = read(&mut ask_all(&mut members, "/records").await);
    let mut silent: Vec<(String, String)> = silent;
    for (node, _) in &statuses {
        let says = workloads.iter().any(|(of, _)| of == node)
            && certificates.iter().any(|(of, _)| of == node);
        if !says {
            let why = "it answered only the first of several questions".to_owned();
            silent.push((node.clone(), why));
        }
    }
    Ok(Agents { statuses, workloads, certificates, records, silent })
}

fn end(scene: &Scene, agents: &Agents, pod: &Pod) -> End {
    let node = pod.node.to_string();
    let said = |name: &str| agents.statuses.iter().find(|(of, _)| of == name);
    let of_node = agents.workloads.iter().find(|(of, _)| *of == node);
    let state = of_node
        .and_then(|(_, said)| said.workloads.iter().find(|one| one.name == pod.name).cloned());
    let leaf =
        agents.certificates.iter().find(|(of, _)| *of == node).and_then(|(_, said)| {
            said.leaves.iter().find(|leaf| leaf.workload == pod.name).cloned()
        });
    let object = Object::new(Kind::Pod, pod.name.namespace.as_str(), pod.name.name.as_str());
    let noted = scene.world.problems().get(&object);
    let problems = noted.into_iter().flat_map(|noted| &noted.problems);
    let problems: Vec<_> = problems.map(|problem| problem.message.clone()).collect();
    let silent = agents.silent.iter().find(|(of, _)| *of == node).map(|(_, why)| why.clone());
    End {
        name: pod.name.clone(),
        status: said(&node).map(|(_, status)| status.clone()),
        silent: silent.or_else(|| said(&node).is_none().then(|| "it has no agent".to_owned())),
        node,
        mode: scene.world.mode(pod),
        is_default: scene.world.is_default(pod),
        is_workload: scene.world.workload(&pod.name).is_some(),
        is_on_host: pod.is_on_host,
        problems,
        state,
        leaf,
    }
}

/// By the engine that agents use, with what the controller tells them.
fn policy(scene: &Scene, caller: &Pod, called: &Pod, port: u16) -> Policy {
    let from = scene.world.workload(&caller.name);
    let (Some(from), Some(to)) = (from, scene.world.workload(&called.name)) else {
        return Policy::DoesNotApply;
    };
    let set = match PolicySet::new(scene.policies()) {
        Ok(set) => set,
        Err(error) => return Policy::Unreadable(error.to_string()),
    };
    let Some(address) = from.workload.addresses.first() else { return Policy::DoesNotApply };
    let request = Request {
        caller: &from.workload.identity,
        caller_address: *address,
        callee: &to.workload,
        port,
    };
    match set.authorize(&request) {
        Ok(permit) => Policy::Allowed(permit.policy().map(str::to_owned)),
        Err(denied) => Policy::Denied(denied.policy),
    }
}

/// The latest that either agent has recorded of the two.
fn last_refusal<'a>(
    agents: &'a Agents,
    from: &WorkloadName,
    to: &WorkloadName,
) -> Option<&'a TimedRecord> {
    let records = agents.records.iter().flat_map(|(_, records)| records);
    let between = records.filter(|timed| {
        let record = &timed.record;
        record.closed.is_refusal()
            && record.source.workload.as_ref() == Some(from)
            && record.destination.workload.as_ref() == Some(to)
    });
    between.max_by(|one, other| one.time.cmp(&other.time))
}

fn page(answer: &Answer<'_>, facts: &Facts) -> String {
    let mut page = format!(
        "{} on {} to {} on {}\n\n",
        answer.from, facts.caller.node, answer.to, facts.called.node
    );
    for step in answer.steps {
        let (sign, tone) = match step.is_good {
            Some(true) => ("√", Tone::Good),
            Some(false) => ("×", Tone::Bad),
            None => ("‼", Tone::Warning),
        };
        page.push_str(&format!("{} {:<16}{}\n", paint(sign, tone), step.name, step.text));
    }
    if let Some(timed) = answer.last_refusal {
        let record = &timed.record;
        let by = record.policy.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
        let asked = human::destination(&record.destination, record.origin);
        let line = format!("{}: to {asked}: {}{by}", timed.time, record.closed);
        page.push_str(&format!("  {:<16}{line}\n", "last refusal"));
    }
    let tone = match answer.outcome {
        Outcome::MutualTls | Outcome::Internal => Tone::Good,
        Outcome::Plaintext | Outcome::Unknown => Tone::Warning,
        Outcome::Refused => Tone::Bad,
    };
    let what_to_do = answer.what_to_do.map(|what| format!("; {what}")).unwrap_or_default();
    page + &format!("\n{}\n", paint(&format!("{}{what_to_do}.", answer.would), tone))
}
