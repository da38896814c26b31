//! Leaving nodes as agents found them: the agents stop, and on each node a pod takes away what they
//! have put there.
//!
//! The pods are made for their nodes by name, past the scheduler: a node that may not have new pods
//! may have something of ours all the same.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{
        Container, HostPathVolumeSource, Node, Pod, PodSpec, Toleration, Volume, VolumeMount,
    },
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, LogParams, ObjectMeta, PostParams, PropagationPolicy},
};
use serde_json::Value;

use super::{
    AGENT, InstallError, Installer, NAME_LABEL, PART_OF, asked, if_there, rollout::trouble_of,
    until,
};
use crate::limits;

const CLEANER: &str = "martlet-uninstall";
/// What it does: first takes the plugin of the container network away, if there is one, and then the
/// rest.
const STEPS: [&str; 2] = ["cni", "uninstall"];

/// What has become of the nodes.
#[derive(Debug, Default)]
pub struct Left {
    /// By node: what was removed there, line by line.
    pub nodes: BTreeMap<String, Vec<String>>,
    /// Nodes that are not ready, and so were not visited.
    pub skipped: Vec<String>,
}

impl Installer {
    /// Nodes that a pod can run on now, and those that are not ready.
    ///
    /// # Errors
    ///
    /// The server did not say.
    pub async fn nodes(&self) -> Result<(Vec<String>, Vec<String>), InstallError> {
        let api: Api<Node> = Api::all(self.client.clone());
        let nodes = asked(&"nodes", api.list(&ListParams::default())).await?;
        let (mut ready, mut others) = (Vec::new(), Vec::new());
        for node in nodes.items {
            let Some(name) = node.metadata.name else { continue };
            let system = node.metadata.labels.and_then(|all| all.get("kubernetes.io/os").cloned());
            if system.is_some_and(|system| system != "linux") {
                continue;
            }
            let conditions = node.status.and_then(|status| status.conditions);
            let is_ready = conditions
                .into_iter()
                .flatten()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True");
            if is_ready { ready.push(name) } else { others.push(name) }
        }
        Ok((ready, others))
    }

    /// Ends the agents, and then takes away what they have put on all nodes that are ready. `set` is
    /// their DaemonSet, for when the one in the cluster is gone already.
    ///
    /// # Errors
    ///
    /// A node could not be left. Everything can be done again: then for what is still there.
    pub async fn leave_nodes(
        &self,
        set: &Value,
        patience: Duration,
        tell: &mut dyn FnMut(&str),
    ) -> Result<Left, InstallError> {
        let (ready, skipped) = self.nodes().await?;
        let sets = self.within::<DaemonSet>();
        let there = if_there(&"DaemonSet martlet-agent", sets.get(AGENT)).await?;
        let given = serde_json::from_value(set.clone()).ok();
        let template =
            there.or(given).and_then(|set: DaemonSet| set.spec).map(|spec| spec.template);
        let spec = template.and_then(|template| template.spec).unwrap_or_default();
        self.end_agents(patience, tell).await?;
        let pods = self.within::<Pod>();
        for node in &ready {
            let pod = cleaner(&spec, node);
            let name = pod.metadata.name.clone().unwrap_or_default();
            self.away(&name, patience).await?;
            asked(&name, pods.create(&PostParams::default(), &pod)).await?;
        }
        let left = self.collect(&ready, patience, tell).await;
        for node in &ready {
            let (name, parameters) = (name_for(node), DeleteParams::default());
            if_there(&name, pods.delete(&name, &parameters)).await?;
        }
        Ok(Left { nodes: left?, skipped })
    }

    async fn end_agents(
        &self,
        patience: Duration,
        tell: &mut dyn FnMut(&str),
    ) -> Result<(), InstallError> {
        let parameters = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            ..DeleteParams::default()
        };
        let deleted = self.within::<DaemonSet>();
        if_there(&"DaemonSet martlet-agent", deleted.delete(AGENT, &parameters)).await?;
        self.until_ended(AGENT, patience, tell).await
    }

    async fn away(&self, pod: &str, patience: Duration) -> Result<(), InstallError> {
        let pods = self.within::<Pod>();
        until("an old pod to end", patience, &mut |_| {}, async || {
            let parameters = DeleteParams::default().grace_period(0);
            let there = if_there(&pod, pods.delete(pod, &parameters)).await?;
            Ok(there.map(|_| format!("{pod} is there from before")))
        })
        .await
    }

    /// What the pods say, when all of them have ended.
    async fn collect(
        &self,
        nodes: &[String],
        patience: Duration,
        tell: &mut dyn FnMut(&str),
    ) -> Result<BTreeMap<String, Vec<String>>, InstallError> {
        let pods = self.within::<Pod>();
        let chosen = ListParams::default().labels(&format!("{NAME_LABEL}={CLEANER}"));
        let mut ended: BTreeMap<String, Pod> = BTreeMap::new();
        let waited = until("nodes to be left", patience, tell, async || {
            let found = asked(&"pods", pods.list(&chosen)).await?;
            let mut trouble = None;
            for pod in found.items {
                let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
                if !matches!(phase, Some("Succeeded" | "Failed")) {
                    trouble = trouble.or_else(|| trouble_of(&pod));
                    continue;
                }
                if let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) {
                    ended.insert(node, pod);
                }
            }
            let count = ended.keys().filter(|node| nodes.contains(node)).count();
            let trouble = trouble.map(|why| format!(" ({why})")).unwrap_or_default();
            Ok((count < nodes.len()).then(|| {
                format!("{count} of {} nodes are left as they were{trouble}", nodes.len())
            }))
        });
        waited.await?;
        let (mut left, mut failed) = (BTreeMap::new(), Vec::new());
        for (node, pod) in ended {
            let name = pod.metadata.name.unwrap_or_default();
            let said = self.said(&pod.spec.unwrap_or_default(), &name).await?;
            match pod.status.and_then(|status| status.phase).as_deref() {
                Some("Succeeded") => {
                    left.insert(node, said.lines().map(str::to_owned).collect());
                }
                _ => failed.push(format!("{node}: {}", said.lines().last().unwrap_or("it failed"))),
            }
        }
        if failed.is_empty() { Ok(left) } else { Err(InstallError::Nodes(failed)) }
    }

    /// What a pod has said that has ended, in the order of its steps.
    async fn said(&self, spec: &PodSpec, pod: &str) -> Result<String, InstallError> {
        let pods = self.within::<Pod>();
        let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
        let mut said = String::new();
        for container in containers {
            let container = Some(container.name.clone());
            let parameters = LogParams { container, ..LogParams::default() };
            // A step that did not begin, since the one before has failed, has no log.
            said += &match asked(&pod, pods.logs(pod, &parameters)).await {
                Err(InstallError::Refused { .. }) => String::new(),
                said => said?,
            };
        }
        Ok(said)
    }
}

/// An agent's container that keeps the plugin of the container network, taking it away instead.
fn without_plugin(agent: &PodSpec) -> Option<Container> {
    let keeper = agent.containers.iter().find(|container| container.name == STEPS[0])?;
    // The directories of the node are the same two that it is told in any case.
    let args = keeper.args.as_ref()?.iter().filter(|argument| argument.starts_with("/host/"));
    let args = std::iter::once("remove".to_owned()).chain(args.cloned());
    Some(Container { args: Some(args.collect()), readiness_probe: None, ..keeper.clone() })
}

fn name_for(node: &str) -> String {
    format!("{CLEANER}-{node}")
}

/// An agent's pod, but for what it does, and that it sees the directories in which the agents' own
/// are: what is mounted itself cannot be removed.
fn cleaner(agent: &PodSpec, node: &str) -> Pod {
    let first = agent.containers.first().cloned().unwrap_or_default();
    let parents = [("state", "/var/lib"), ("run", "/run")];
    let is_needed = |name: &str| {
        matches!(name, "config" | "cgroup" | "sysctls" | "bpf") || name.starts_with("cni-")
    };
    let mounts = first.volume_mounts.unwrap_or_default().into_iter();
    let mounts =
        mounts.filter(|mount| is_needed(&mount.name)).chain(parents.map(|(name, path)| {
            VolumeMount {
                name: name.to_owned(),
                mount_path: path.to_owned(),
                ..VolumeMount::default()
            }
        }));
    let volumes = agent.volumes.clone().unwrap_or_default().into_iter();
    let volumes =
        volumes.filter(|volume| is_needed(&volume.name)).chain(parents.map(|(name, path)| {
            let source = HostPathVolumeSource { path: path.to_owned(), type_: None };
            Volume { name: name.to_owned(), host_path: Some(source), ..Volume::default() }
        }));
    let args = ["--config", "/etc/martlet/node.yaml", "uninstall"].map(str::to_owned);
    let container = Container {
        name: STEPS[1].to_owned(),
        args: Some(args.to_vec()),
        volume_mounts: Some(mounts.collect()),
        ports: None,
        liveness_probe: None,
        readiness_probe: None,
        startup_probe: None,
        ..first
    };
    let anywhere = Toleration { operator: Some("Exists".to_owned()), ..Toleration::default() };
    let (part_of, martlet) = PART_OF.split_once('=').unwrap_or_default();
    let labels = [(NAME_LABEL, CLEANER), (part_of, martlet)];
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
    Pod {
        metadata: ObjectMeta {
            name: Some(name_for(node)),
            labels: Some(labels.into()),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            node_name: Some(node.to_owned()),
            node_selector: None,
            affinity: None,
            tolerations: Some(vec![anywhere]),
            containers: vec![container],
            init_containers: without_plugin(agent).map(|container| vec![container]),
            volumes: Some(volumes.collect()),
            restart_policy: Some("Never".to_owned()),
            active_deadline_seconds: Some(limits::LEAVE_NODE_SECONDS),
            ..agent.clone()
        }),
        ..Pod::default()
    }
}
