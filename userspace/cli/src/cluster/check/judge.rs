//! What the facts about a cluster mean. Pure.

use std::collections::{BTreeMap, BTreeSet};

use martlet_kubernetes::{
    api::{ConfigObject, DEFAULT, PolicyObject},
    remote::{Definition, NodeFacts, Right, Rollout, definition_names},
};
use martlet_model::{
    coverage::{Counterpart, Coverage},
    report::{Check, CheckCategory, CheckReport, CheckResult, Nodes, Status, TrustReport},
};

use super::{kernel, topic::Topic};

/// The oldest that everything is written for.
const OLDEST_API: (u32, u32) = (1, 20);
const OLDEST_KERNEL: (u32, u32) = (5, 15);
const VERSION: &str = "v1alpha1";
const OURS: &str = env!("CARGO_PKG_VERSION");
const DAY: u64 = 86_400;

type Told<T> = Result<T, String>;

/// What can be known where Martlet is not yet.
pub struct Before {
    pub version: Told<String>,
    pub rights: Vec<(Right, Told<bool>)>,
    pub nodes: Told<Vec<NodeFacts>>,
    pub labels: Told<Option<BTreeMap<String, String>>>,
}

/// What can be known where Martlet is.
pub struct Facts {
    pub system: String,
    pub server: String,
    pub version: Told<String>,
    pub rights: Vec<(Right, Told<bool>)>,
    pub nodes: Told<Vec<NodeFacts>>,
    pub definitions: Told<Vec<Definition>>,
    pub labels: Told<Option<BTreeMap<String, String>>>,
    pub agents: Told<Option<Rollout>>,
    pub controllers: Told<Option<Rollout>>,
    pub unknown_modes: Told<Vec<String>>,
    pub settings: Told<Vec<Setting>>,
    pub policies: Told<Vec<Policy>>,
    pub members: Told<Vec<(String, Told<NodeSaid>)>>,
    pub control: Told<Nodes>,
    pub trust: Told<TrustReport>,
}

/// What a node's agent says.
pub struct NodeSaid {
    pub check: CheckReport,
    pub status: Status,
    pub coverage: Coverage,
}

/// A policy, and why it cannot be enforced, if so.
pub struct Policy {
    name: String,
    refused: Option<String>,
}

impl Policy {
    pub fn of(object: &PolicyObject) -> Self {
        let name = format!("{}/{}", object.namespace(), object.name());
        Self { name, refused: object.read().err().map(|(_, problem)| problem.message) }
    }
}

/// A MeshConfig, and why it is not in effect, if so.
pub struct Setting {
    name: String,
    refused: Option<String>,
}

impl Setting {
    pub fn of(object: &ConfigObject) -> Self {
        let (name, generation) = (object.name(), object.generation());
        let said = object.said();
        let mut of_now = said.conditions.iter().filter(|one| one.observed_generation == generation);
        let refused = of_now.find(|one| one.kind == "Accepted" && one.status == "False");
        Self { name, refused: refused.map(|one| one.message.clone()) }
    }
}

pub fn no_kubeconfig(why: &str) -> CheckReport {
    let hint = "name a kubeconfig by --kubeconfig or KUBECONFIG, and a context by --context";
    let check = Topic::ApiServer.bad("the API server can be reached", why, hint);
    whole(vec![category("Kubernetes", vec![check])])
}

pub fn before(facts: &Before, server: &str) -> CheckReport {
    let mut kubernetes = api(&facts.version, server);
    kubernetes.extend(rights(&facts.rights, Topic::RightsToInstall));
    let security = match &facts.labels {
        Ok(None) => Topic::System.good("the namespace of Martlet can be made"),
        Ok(Some(labels)) => pod_security(labels),
        Err(why) => Topic::System.bad(
            "the namespace of Martlet can be looked at",
            why,
            "ask for the right to read namespaces",
        ),
    };
    kubernetes.push(security);
    whole(vec![category("Kubernetes", kubernetes), category("nodes", kernels(&facts.nodes))])
}

pub fn report(facts: &Facts, now: u64) -> CheckReport {
    let mut kubernetes = api(&facts.version, &facts.server);
    kubernetes.extend(rights(&facts.rights, Topic::Rights));
    let mut categories = vec![
        category("Kubernetes", kubernetes),
        category("installation", installation(facts)),
        category("control plane", control(facts, now)),
        category("workloads", workloads(facts)),
        category("nodes", nodes(facts)),
    ];
    let members = facts.members.as_deref().unwrap_or_default();
    for (node, said) in members {
        let Ok(said) = said else { continue };
        categories.extend(said.check.categories.iter().map(|one| of_node(node, one)));
    }
    whole(categories)
}

fn whole(categories: Vec<CheckCategory>) -> CheckReport {
    let checks = categories.iter().flat_map(|category| &category.checks);
    let success = checks.into_iter().all(|check| check.result != CheckResult::Error);
    CheckReport { success, categories }
}

fn category(name: &str, checks: Vec<Check>) -> CheckCategory {
    CheckCategory { category_name: name.to_owned(), checks }
}

/// A category of a node's own check, and how it is recognized.
fn of_node(node: &str, said: &CheckCategory) -> CheckCategory {
    let topic = Topic::of_node(&said.category_name);
    let checks = said.checks.iter().cloned().map(|mut check| {
        if check.result != CheckResult::Success {
            check.hint = Some(topic.hint(check.hint.as_deref().unwrap_or("see the agent's log")));
        }
        check
    });
    category(&format!("node {node}: {}", said.category_name), checks.collect())
}

pub fn node_of(category: &str) -> Option<&str> {
    Some(category.strip_prefix("node ")?.split_once(": ")?.0)
}

fn api(version: &Told<String>, server: &str) -> Vec<Check> {
    let description = format!("the API server {server} can be reached");
    match version {
        Err(why) => {
            let hint = "see whether `kubectl version` works with this kubeconfig and context";
            vec![Topic::ApiServer.bad(&description, why, hint)]
        }
        Ok(version) => {
            let numbers = version.trim_start_matches('v').split('.');
            let mut numbers = numbers.map(|number| number.parse::<u32>().ok());
            let found = (numbers.next().flatten(), numbers.next().flatten());
            let is_old = matches!(found, (Some(major), Some(minor)) if (major, minor) < OLDEST_API);
            let said = format!("its version {version} is 1.20 or later");
            let judged = match is_old {
                false => Topic::ApiVersion.good(said),
                true => Topic::ApiVersion.bad(&said, "it is older", "use a later Kubernetes"),
            };
            vec![Topic::ApiServer.good(description), judged]
        }
    }
}

fn rights(rights: &[(Right, Told<bool>)], topic: Topic) -> Vec<Check> {
    let hint = "ask whoever runs the cluster for it; docs/kubernetes.md lists what is needed";
    let judge = |(right, told): &(Right, Told<bool>)| {
        let slash = if right.subresource.is_empty() { "" } else { "/" };
        let whence = if right.is_of_system { " in Martlet's namespace" } else { "" };
        let what = format!("{}{slash}{}", right.resource, right.subresource);
        let description = format!("you may {} {what}{whence}", right.verb);
        match told {
            Ok(true) => topic.good(description),
            // Older servers ask for one of the two, later ones for the other.
            Ok(false) if right.subresource == "exec" => {
                topic.doubtful(&description, "you may not", hint)
            }
            Ok(false) => topic.bad(&description, "you may not", hint),
            Err(why) => topic.doubtful(&description, why, hint),
        }
    };
    rights.iter().map(judge).collect()
}

fn kernels(nodes: &Told<Vec<NodeFacts>>) -> Vec<Check> {
    let hint = "use a kernel of Linux 5.15 or later, with BTF and cgroup v2, on every node";
    let nodes = match nodes {
        Ok(nodes) => nodes,
        Err(why) => return vec![Topic::Kernel.doubtful("the nodes can be looked at", why, hint)],
    };
    let judge = |node: &NodeFacts| {
        let description = format!("{} has Linux {}", node.name, node.kernel);
        match kernel(node) {
            _ if node.system != "linux" && !node.system.is_empty() => {
                let why = format!("it runs {}, so its pods stay outside of the mesh", node.system);
                Topic::Kernel.doubtful(&description, why, hint)
            }
            Some(version) if version < OLDEST_KERNEL => {
                Topic::Kernel.bad(&description, "it is older than 5.15", hint)
            }
            Some(_) => Topic::Kernel.good(description),
            None => Topic::Kernel.doubtful(&description, "its version is not understood", hint),
        }
    };
    nodes.iter().map(judge).collect()
}

fn installation(facts: &Facts) -> Vec<Check> {
    let system = &facts.system;
    let there = format!("the namespace {system} is there");
    let install = "install Martlet, or name its namespace by --namespace-system";
    let mut checks = match &facts.labels {
        Err(why) => vec![Topic::System.bad(&there, why, install)],
        Ok(None) => return vec![Topic::System.bad(&there, "it is not", install)],
        Ok(Some(labels)) => vec![Topic::System.good(there), pod_security(labels)],
    };
    checks.push(definitions(&facts.definitions));
    let agents = "the agents are ready on all nodes that should have one";
    let hint = format!("see kubectl --namespace {system} describe daemonset,pods");
    checks.push(rollout(Topic::Agents, agents, &facts.agents, &hint));
    let hint = format!("see kubectl --namespace {system} describe deployment,pods");
    checks.push(rollout(Topic::Controller, "the controller is ready", &facts.controllers, &hint));
    checks.push(versions(facts));
    checks
}

fn pod_security(labels: &BTreeMap<String, String>) -> Check {
    const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
    let description = "its PodSecurity level lets the agents in";
    let hint = "kubectl label --overwrite namespace martlet-system \
                pod-security.kubernetes.io/enforce=privileged";
    match labels.get(ENFORCE).map(String::as_str) {
        Some("privileged") => Topic::PodSecurity.good(description),
        Some(other) => {
            let why = format!("it is {other}, and agents have capabilities and the host's PIDs");
            Topic::PodSecurity.bad(description, why, hint)
        }
        None => {
            let why = "it has none, and the cluster's default may refuse the agents";
            Topic::PodSecurity.doubtful(description, why, hint)
        }
    }
}

fn definitions(found: &Told<Vec<Definition>>) -> Check {
    let description = format!("the definitions of martlet.dev/{VERSION} are there");
    let hint = "apply the definitions that belong to this version (crds.yaml)";
    let found = match found {
        Ok(found) => found,
        Err(why) => return Topic::Definitions.doubtful(&description, why, hint),
    };
    let serves = |one: &Definition| one.served.iter().any(|version| version == VERSION);
    let is_missing = |name: &String| !found.iter().any(|one| one.name == *name && serves(one));
    let missing: Vec<_> = definition_names().into_iter().filter(is_missing).collect();
    match missing.is_empty() {
        true => Topic::Definitions.good(description),
        false => {
            let why = format!("missing: {}", missing.join(", "));
            Topic::Definitions.bad(&description, why, hint)
        }
    }
}

fn rollout(topic: Topic, description: &str, found: &Told<Option<Rollout>>, hint: &str) -> Check {
    match found {
        Err(why) => topic.bad(description, why, hint),
        Ok(None) => topic.bad(description, "nothing of it is there", hint),
        Ok(Some(Rollout { wanted: 0, .. })) => {
            topic.bad(description, "none is wanted anywhere", hint)
        }
        Ok(Some(Rollout { wanted, ready, .. })) if ready < wanted => {
            topic.bad(description, format!("{ready} of {wanted} are"), hint)
        }
        Ok(Some(Rollout { wanted, updated, .. })) if updated < wanted => {
            let why = format!("{updated} of {wanted} are of the wanted version");
            topic.doubtful(description, why, hint)
        }
        Ok(Some(Rollout { wanted, .. })) => topic.good(format!("{description}: {wanted}")),
    }
}

fn versions(facts: &Facts) -> Check {
    let description = format!("agents, controller and this martlet are of one version, {OURS}");
    let hint = "use the martlet of the cluster's version, or upgrade the cluster";
    let mut differ = BTreeSet::new();
    for (node, said) in facts.members.as_deref().unwrap_or_default() {
        if let Ok(NodeSaid { status, .. }) = said
            && status.version != OURS
        {
            differ.insert(format!("{node} has {}", status.version));
        }
    }
    let images = [&facts.agents, &facts.controllers];
    let images = images.map(|found| found.as_ref().ok()?.as_ref().map(|one| one.image.clone()));
    if let [Some(agents), Some(controller)] = &images
        && agents != controller
    {
        differ.insert(format!("the agents' image is {agents}, the controller's {controller}"));
    }
    match differ.is_empty() {
        true => Topic::Versions.good(description),
        false => {
            let why = differ.into_iter().collect::<Vec<_>>().join("; ");
            Topic::Versions.doubtful(&description, why, hint)
        }
    }
}

fn control(facts: &Facts, now: u64) -> Vec<Check> {
    let description = "the controller answers, and all nodes are connected to it";
    let hint = "see `martlet nodes`, and the controller's log";
    let nodes = match &facts.control {
        Ok(nodes) => nodes,
        Err(why) => return vec![Topic::ControlPlane.bad(description, why, hint)],
    };
    let away = nodes.nodes.iter().filter(|node| !node.is_connected).map(|node| node.name.as_str());
    let away: Vec<_> = away.collect();
    let errors = nodes.nodes.iter().filter_map(|node| Some((&node.name, node.error.as_ref()?)));
    let errors: Vec<_> = errors.map(|(name, error)| format!("{name}: {error}")).collect();
    let mut checks = vec![match (away.is_empty(), errors.is_empty()) {
        (true, true) => Topic::ControlPlane.good(description),
        (false, _) => {
            Topic::ControlPlane.bad(description, format!("away: {}", away.join(", ")), hint)
        }
        (true, false) => Topic::ControlPlane.bad(description, errors.join("; "), hint),
    }];
    let far = nodes.nodes.iter().filter_map(|node| {
        let skew = node.clock.filter(|clock| clock.is_too_far())?;
        Some(format!("{}: {skew}", node.name))
    });
    let far: Vec<_> = far.collect();
    let description = "the nodes' clocks are with the controller's";
    let hint = "let an NTP client keep the clocks of all nodes";
    checks.push(match far.is_empty() {
        true => Topic::Clocks.good(description),
        false => Topic::Clocks.bad(description, far.join("; "), hint),
    });
    checks.push(authority(&facts.trust, now));
    checks
}

fn authority(trust: &Told<TrustReport>, now: u64) -> Check {
    let description = "root and issuers are good, and renew themselves";
    let hint = "see `martlet trust status` and docs/trust.md";
    let trust = match trust {
        Ok(trust) => trust,
        Err(why) => return Topic::Authority.bad(description, why, hint),
    };
    let roots = trust.roots.iter().map(|root| ("root", &root.certificate));
    let issuers = trust.issuers.iter().filter(|issuer| issuer.is_current);
    let issuers = issuers.map(|issuer| ("issuer", &issuer.certificate));
    let ends = roots.chain(issuers).min_by_key(|(_, certificate)| certificate.not_after);
    if let Some((kind, certificate)) = ends {
        let life = certificate.not_after.saturating_sub(certificate.not_before);
        let left = certificate.not_after.saturating_sub(now);
        if left == 0 {
            let why = format!("the {kind} {} has expired", certificate.subject);
            return Topic::Authority.bad(description, why, hint);
        }
        if left < (30 * DAY).min(life / 4) {
            let days = left / DAY;
            let why = format!("the {kind} {} ends in {days} days", certificate.subject);
            return Topic::Authority.doubtful(description, why, hint);
        }
    }
    match &trust.renewal_error {
        Some(error) => Topic::Authority.bad(description, error, hint),
        None => Topic::Authority.good(description),
    }
}

fn workloads(facts: &Facts) -> Vec<Check> {
    let description = "every label martlet.dev/mode has one of its three values";
    let hint = "write permissive, strict or off; until then it counts as strict";
    let labels = match &facts.unknown_modes {
        Ok(unknown) if unknown.is_empty() => Topic::Labels.good(description),
        Ok(unknown) => Topic::Labels.bad(description, some_of(unknown), hint),
        Err(why) => Topic::Labels.doubtful(description, why, hint),
    };
    let description = "every policy can be enforced as it is written";
    let hint = "correct it; until then it refuses every connection to what it selects";
    let policies = match &facts.policies {
        Err(why) => Topic::Policies.doubtful(description, why, hint),
        Ok(policies) => {
            let refused = policies.iter().filter_map(|policy| {
                Some(format!("{}: {}", policy.name, policy.refused.as_ref()?))
            });
            let refused: Vec<_> = refused.collect();
            match refused.is_empty() {
                true => Topic::Policies.good(description),
                false => Topic::Policies.bad(description, some_of(&refused), hint),
            }
        }
    };
    vec![labels, settings(&facts.settings), policies, coverage(facts)]
}

fn settings(settings: &Told<Vec<Setting>>) -> Check {
    let description = "what is set for the whole mesh is in effect";
    let hint = "correct the MeshConfig; until then what was in effect before stays";
    let all = match settings {
        Ok(all) => all,
        Err(why) => return Topic::Settings.doubtful(description, why, hint),
    };
    let refused =
        |one: &Setting| Some(format!("MeshConfig {}: {}", one.name, one.refused.as_ref()?));
    let (used, others): (Vec<_>, Vec<_>) = all.iter().partition(|one| one.name == DEFAULT);
    let refused = |all: Vec<&Setting>| all.into_iter().filter_map(refused).collect::<Vec<_>>();
    let (used, others) = (refused(used), refused(others));
    match (used.is_empty(), others.is_empty()) {
        (true, true) => Topic::Settings.good(description),
        (false, _) => Topic::Settings.bad(description, some_of(&used), hint),
        (true, false) => Topic::Settings.doubtful(description, some_of(&others), "delete it"),
    }
}

/// What enrolled workloads said to each other in plaintext, or tried to.
fn coverage(facts: &Facts) -> Check {
    let description = "nothing between workloads of the mesh was in plaintext";
    let hint = "see `martlet coverage --only plaintext --only unseen`";
    let members = facts.members.as_deref().unwrap_or_default();
    let said = members.iter().filter_map(|(_, said)| Some(&said.as_ref().ok()?.coverage));
    let mut pairs = BTreeSet::new();
    for pair in said.flat_map(|coverage| &coverage.pairs) {
        if let (Counterpart::Workload(from), Counterpart::Workload(to)) = (&pair.from, &pair.to)
            && !(pair.plaintext.is_empty() && pair.unseen.is_empty())
        {
            pairs.insert(format!("{from} to {to}"));
        }
    }
    match pairs.is_empty() {
        true => Topic::Coverage.good(description),
        false => {
            let pairs: Vec<_> = pairs.into_iter().collect();
            Topic::Coverage.doubtful(description, some_of(&pairs), hint)
        }
    }
}

fn nodes(facts: &Facts) -> Vec<Check> {
    let mut checks = kernels(&facts.nodes);
    let hint = "look into the log of its agent's pod, and whether `kubectl exec` works there";
    match &facts.members {
        Err(why) => checks.push(Topic::NodeAnswers.bad("the agents answer", why, hint)),
        Ok(members) => checks.extend(members.iter().map(|(node, said)| {
            let description = format!("the agent of {node} answers");
            match said {
                Ok(_) => Topic::NodeAnswers.good(description),
                Err(why) => Topic::NodeAnswers.bad(&description, why, hint),
            }
        })),
    }
    checks
}

/// Not hundreds of them.
fn some_of(all: &[String]) -> String {
    const MOST: usize = 5;
    match all.len() {
        ..=MOST => all.join("; "),
        many => format!("{}; and {} more", all[..MOST].join("; "), many - MOST),
    }
}

#[cfg(test)]
mod tests;
