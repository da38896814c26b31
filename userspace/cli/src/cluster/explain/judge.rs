//! What the facts about two pods mean for a connection between them. Pure.
//!
//! In the order in which a connection meets them: whom the hooks know, where it leads, whether both
//! ends can speak mTLS, and what policy says.

use std::net::SocketAddr;

use martlet_model::{
    Mode, WorkloadName,
    report::{LeafReport, Status, WorkloadReport},
};
use serde::Serialize;

/// What is known of one of the two pods.
pub struct End {
    pub name: WorkloadName,
    pub node: String,
    /// What its and its namespace's labels say, or what is set for the mesh.
    pub mode: Option<Mode>,
    /// Whether it is the latter.
    pub is_default: bool,
    /// Whether the controller tells the agents of it.
    pub is_workload: bool,
    pub is_on_host: bool,
    /// What the controller finds wrong with it.
    pub problems: Vec<String>,
    /// What its node's agent says.
    pub status: Option<Status>,
    /// Why its node's agent says nothing.
    pub silent: Option<String>,
    pub state: Option<WorkloadReport>,
    pub leaf: Option<LeafReport>,
}

pub enum Route {
    /// The pod itself was named.
    Pod,
    Service {
        address: Option<SocketAddr>,
        ready: usize,
        all: usize,
        /// The one that is looked at.
        endpoint: Option<SocketAddr>,
    },
}

pub enum Policy {
    /// Not both are in the mesh.
    DoesNotApply,
    Unreadable(String),
    /// By this rule; by none, if no policy selects the called pod.
    Allowed(Option<String>),
    Denied(String),
}

pub struct Facts {
    pub caller: End,
    pub called: End,
    pub route: Route,
    pub policy: Policy,
    /// Seconds since 1970.
    pub now: u64,
}

/// Something that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    pub name: &'static str,
    /// Absent: it is neither.
    pub is_good: Option<bool>,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    MutualTls,
    Plaintext,
    /// It does not leave the pod.
    Internal,
    Refused,
    /// Not all that is needed for a verdict could be had.
    Unknown,
}

pub struct Judged {
    pub steps: Vec<Step>,
    pub outcome: Outcome,
    pub would: String,
    pub what_to_do: Option<String>,
}

pub fn judge(facts: &Facts) -> Judged {
    let Facts { caller, called, .. } = facts;
    let mut steps = vec![enrolment("caller", caller), enrolment("called", called)];
    steps.extend(route(&facts.route));
    if caller.is_workload || called.is_workload {
        steps.push(agent("caller's agent", caller));
        if called.node != caller.node {
            steps.push(agent("called's agent", called));
        }
    }
    if caller.is_workload && called.is_workload {
        steps.push(certificate("caller's cert", caller, facts.now));
        steps.push(certificate("called's cert", called, facts.now));
        steps.push(policy(&facts.policy));
    }
    let (outcome, would, what_to_do) = conclude(facts);
    Judged { steps, outcome, would, what_to_do }
}

fn step(name: &'static str, is_good: impl Into<Option<bool>>, text: impl Into<String>) -> Step {
    Step { name, is_good: is_good.into(), text: text.into() }
}

fn enrolment(name: &'static str, end: &End) -> Step {
    let who = &end.name;
    if let Some(problem) = end.problems.first().filter(|_| !end.is_workload) {
        return step(name, false, format!("{who} is not enrolled: {problem}"));
    }
    let Some(mode) = end.mode.filter(|_| end.is_workload) else {
        let why = match (end.is_on_host, end.mode) {
            (true, _) => "it has the node's network",
            (false, Some(_)) => "it has no address yet",
            (false, None) => "no label wants it",
        };
        return step(name, None, format!("{who} is not enrolled: {why}"));
    };
    let mode = match end.is_default {
        true => format!("{mode} by the MeshConfig"),
        false => mode.to_string(),
    };
    match &end.state {
        Some(report) if report.state == "steered" => {
            step(name, true, format!("{who} is enrolled, {mode}, and steered"))
        }
        Some(report) => {
            let why = report.reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            step(name, false, format!("{who} is to be enrolled, {mode}, and {}{why}", report.state))
        }
        None if end.silent.is_some() => {
            step(name, None, format!("{who} is to be enrolled, {mode}; its node says nothing"))
        }
        None => step(
            name,
            false,
            format!("{who} is to be enrolled, {mode}; its agent does not know it"),
        ),
    }
}

fn route(route: &Route) -> Option<Step> {
    let Route::Service { address, ready, all, endpoint } = route else { return None };
    let at = match address {
        Some(address) => format!("the service is at {address}"),
        None => "the service has no address of its own".to_owned(),
    };
    let to = endpoint.map(|endpoint| format!("; {endpoint} is looked at")).unwrap_or_default();
    Some(step("route", *ready > 0, format!("{at}; {ready} of {all} endpoints are ready{to}")))
}

fn agent(name: &'static str, end: &End) -> Step {
    let node = &end.node;
    let Some(status) = &end.status else {
        let why = end.silent.as_deref().unwrap_or("it says nothing");
        return step(name, None, format!("the agent of {node} cannot be asked: {why}"));
    };
    let missing: Vec<_> = status.hooks.iter().filter(|hook| !hook.attached).collect();
    let all = status.hooks.len();
    match (status.ready, missing.is_empty()) {
        (true, true) => {
            step(name, true, format!("{node} is ready, and has its {all} hooks in place"))
        }
        (_, false) => {
            let names: Vec<_> = missing.iter().map(|hook| hook.name.as_str()).collect();
            step(name, false, format!("{node} lacks the hooks {}", names.join(", ")))
        }
        (false, true) => {
            step(name, false, format!("{node} is not ready: {}", status.not_ready.join("; ")))
        }
    }
}

fn certificate(name: &'static str, end: &End, now: u64) -> Step {
    match lasting(end, now) {
        Ok(left) => {
            let span = crate::human::span(std::time::Duration::from_secs(left));
            step(name, true, format!("{}'s ends in {span}", end.name))
        }
        Err(why) => step(name, end.silent.is_none().then_some(false), why),
    }
}

/// How long the certificate is good, or why it is not.
fn lasting(end: &End, now: u64) -> Result<u64, String> {
    let who = &end.name;
    let leaf = end.leaf.as_ref().and_then(|leaf| leaf.chain.first());
    let leaf = leaf.ok_or_else(|| match end.silent {
        Some(_) => format!("that of {who} is not known"),
        None => format!("{who} has none"),
    })?;
    match leaf.not_after.saturating_sub(now) {
        0 => Err(format!("that of {who} has expired")),
        left => Ok(left),
    }
}

fn policy(policy: &Policy) -> Step {
    match policy {
        Policy::DoesNotApply => step("policy", None, "it is not asked"),
        Policy::Unreadable(why) => step("policy", false, why),
        Policy::Allowed(None) => step("policy", true, "none selects the called pod"),
        Policy::Allowed(Some(rule)) => step("policy", true, format!("allowed by {rule}")),
        Policy::Denied(rule) => step("policy", false, format!("denied by {rule}")),
    }
}

type Conclusion = (Outcome, String, Option<String>);

fn conclude(facts: &Facts) -> Conclusion {
    let Facts { caller, called, .. } = facts;
    let refused = |why: String, what: &str| {
        (Outcome::Refused, format!("The connection would be refused: {why}"), Some(what.to_owned()))
    };
    if caller.name == called.name {
        let would = "The connection would stay within the pod, which talks to itself";
        return (Outcome::Internal, would.to_owned(), None);
    }
    if let Route::Service { ready: 0, .. } = facts.route {
        let why = "the service has no endpoint that is ready".to_owned();
        return refused(why, "see why its pods are not ready");
    }
    if !called.is_workload {
        return outside(caller, called);
    }
    if !caller.is_workload {
        return from_outside(caller, called);
    }
    for end in [caller, called] {
        if let Some(why) = &end.silent {
            let would = format!(
                "What would happen cannot be told, since the agent of {} cannot be asked ({why}); \
                 nothing would be in plaintext",
                end.node
            );
            let what = "see `martlet check`".to_owned();
            return (Outcome::Unknown, would, Some(what));
        }
    }
    for end in [caller, called] {
        let is_steered = end.state.as_ref().is_some_and(|report| report.state == "steered");
        if !is_steered {
            let why = format!("{} is to be in the mesh and is not yet", end.name);
            return refused(why, "see `martlet workloads` and the log of its node's agent");
        }
        if let Err(why) = lasting(end, facts.now) {
            let why = format!("of the certificates, {why}");
            return refused(why, "see `martlet check`, and the log of its node's agent");
        }
    }
    match &facts.policy {
        Policy::Denied(rule) => {
            let what = "to let it pass, correct that policy or write a rule of an Allow policy \
                        that matches";
            refused(format!("it is denied by {rule}"), what)
        }
        Policy::Unreadable(why) => {
            refused(format!("the policies cannot be used: {why}"), "correct them")
        }
        Policy::Allowed(rule) => {
            let by = match rule {
                Some(rule) => format!("allowed by {rule}"),
                None => "no policy restricts it".to_owned(),
            };
            let would = format!("The connection would be made over mTLS, {by}");
            (Outcome::MutualTls, would, None)
        }
        Policy::DoesNotApply => {
            (Outcome::Unknown, "What would happen cannot be told".to_owned(), None)
        }
    }
}

/// To a pod that is none of the mesh.
fn outside(caller: &End, called: &End) -> Conclusion {
    if called.mode.is_some() && !called.is_on_host {
        let would = format!(
            "What would happen cannot be told: {} is to be in the mesh and is not",
            called.name
        );
        return (Outcome::Unknown, would, called.problems.first().cloned());
    }
    let would = format!(
        "The connection would be made in plaintext, since {} is not in the mesh",
        called.name
    );
    let label = format!(
        "to encrypt it, label {}: kubectl label namespace {} martlet.dev/mode=permissive",
        if caller.is_workload { "its namespace" } else { "the namespaces of both" },
        called.name.namespace
    );
    let what = match called.is_on_host {
        true => "a pod with hostNetwork stays outside".to_owned(),
        false => label,
    };
    (Outcome::Plaintext, would, Some(what))
}

/// To a pod of the mesh, from one that is not.
fn from_outside(caller: &End, called: &End) -> Conclusion {
    let namespace = &caller.name.namespace;
    let what = match (caller.is_on_host, caller.mode) {
        (true, _) => {
            format!("a pod with hostNetwork stays outside; make {} permissive", called.name)
        }
        (false, Some(_)) => caller.problems.first().cloned().unwrap_or_else(|| {
            "see `martlet workloads` and the log of its node's agent".to_owned()
        }),
        (false, None) => {
            format!("enroll it: kubectl label namespace {namespace} martlet.dev/mode=permissive")
        }
    };
    let is_undecided = caller.mode.is_some() && !caller.is_on_host;
    match called.mode {
        Some(Mode::Permissive) if !is_undecided => {
            let would = format!(
                "The connection would be made in plaintext, since {} is not in the mesh and {} is \
                 permissive",
                caller.name, called.name
            );
            (Outcome::Plaintext, would, Some(what))
        }
        _ => {
            let why = match is_undecided {
                true => format!("{} is to be in the mesh and is not", caller.name),
                false => {
                    format!("{} is not in the mesh and {} is strict", caller.name, called.name)
                }
            };
            (Outcome::Refused, format!("The connection would be refused: {why}"), Some(what))
        }
    }
}

#[cfg(test)]
mod tests;
