//! Martlet's own pods, found and spoken to from the machine of somebody who has a kubeconfig.
//!
//! Nothing of Martlet's listens for people: what is asked goes through the API server into the pod,
//! as `kubectl exec` does, and so to a socket that only the pod itself can open. Who may do that is
//! the API server's to say.

mod facts;
mod objects;
mod relay;
mod scene;

use std::{future::Future, path::PathBuf};

use k8s_openapi::api::{
    apps::v1::DaemonSet,
    coordination::v1::Lease,
    core::v1::{Node, Pod},
};
use kube::{
    Api, Client, Config,
    api::{ListParams, LogParams},
    client::UpgradeConnectionError,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use martlet_model::Label;
use thiserror::Error;
use tokio::time::timeout;

pub use facts::{Definition, NodeFacts, Right, Rollout, definition_names};
pub use objects::Objects;
pub use relay::{Relay, Said};
pub use scene::{Scene, ServiceEndpoint};

use crate::limits;

/// Which cluster, as a user of kubectl says it.
#[derive(Debug, Clone)]
pub struct Choice {
    /// Without it: the files that `KUBECONFIG` names, or `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// Without it: the kubeconfig's current one.
    pub context: Option<String>,
    /// Where Martlet itself runs.
    pub system: Label,
}

/// A cluster, as its users see it.
#[derive(Clone)]
pub struct Remote {
    pub client: Client,
    pub system: Label,
    /// Where its API server is.
    pub server: String,
}

/// Why something of a cluster could not be had.
#[derive(Debug, Error)]
pub enum RemoteError {
    #[error("reading the kubeconfig")]
    Kubeconfig(#[source] Box<KubeconfigError>),
    #[error("making a client of the API server")]
    Client(#[source] Box<kube::Error>),
    #[error("asking the API server for {what}")]
    Asked {
        what: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("the API server did not answer within {} s when asked for {what}", limits::QUESTION.as_secs())]
    Silent { what: String },
}

impl RemoteError {
    /// Whether the server has answered, and the answer is that this user may not.
    pub fn is_forbidden(&self) -> bool {
        let Self::Asked { source, .. } = self else { return false };
        match &**source {
            kube::Error::Api(status) => status.code == 403,
            kube::Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(status)) => {
                status.as_u16() == 403
            }
            _ => false,
        }
    }

    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Asked { source, .. }
            if matches!(&**source, kube::Error::Api(status) if status.code == 404))
    }
}

/// A pod of an agent or of a controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnPod {
    pub name: String,
    /// Empty if it has none yet.
    pub node: String,
    pub container: String,
    pub image: String,
    pub is_ready: bool,
    /// Why its program does not run, as far as the API server knows.
    pub absent: Option<String>,
    pub restarts: i32,
    /// The pod's other containers, which nobody asks.
    pub beside: Vec<Beside>,
    is_ending: bool,
}

/// A container beside the one that is asked, such as that of the plugin of the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beside {
    pub container: String,
    pub restarts: i32,
}

/// The agents' pods, one for each node, and the nodes that should have one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Agents {
    pub pods: Vec<OwnPod>,
    /// Nodes without one, if it is known that some lack.
    pub lacking: Vec<String>,
}

/// The label by which our pods are known, and its values.
const NAME_LABEL: &str = "app.kubernetes.io/name";
pub const AGENT: &str = "martlet-agent";
pub const CONTROLLER: &str = "martlet-controller";

impl Remote {
    /// Asks nobody yet.
    ///
    /// # Errors
    ///
    /// There is no kubeconfig, or nothing can be made of it.
    pub async fn open(choice: &Choice) -> Result<Self, RemoteError> {
        let options = KubeConfigOptions { context: choice.context.clone(), ..Default::default() };
        let unread = |error| RemoteError::Kubeconfig(Box::new(error));
        let config = match &choice.kubeconfig {
            None => Config::from_kubeconfig(&options).await,
            Some(path) => {
                let read = Kubeconfig::read_from(path).map_err(unread)?;
                Config::from_custom_kubeconfig(read, &options).await
            }
        };
        let config = config.map_err(unread)?;
        let server = config.cluster_url.to_string();
        let client =
            Client::try_from(config).map_err(|error| RemoteError::Client(Box::new(error)))?;
        Ok(Self { client, system: choice.system.clone(), server })
    }

    /// What the API server calls its version, such as `v1.33.1`.
    ///
    /// # Errors
    ///
    /// It did not answer.
    pub async fn version(&self) -> Result<String, RemoteError> {
        let info = answer("its version", self.client.apiserver_version()).await?;
        Ok(info.git_version)
    }

    /// # Errors
    ///
    /// The API server did not say which pods there are.
    pub async fn agents(&self) -> Result<Agents, RemoteError> {
        let mut pods = self.own_pods(AGENT).await?;
        pods.retain(|pod| !pod.node.is_empty());
        // During an update a node can have two: the one to ask is that which stays.
        pods.sort_by(|a, b| {
            (&a.node, a.is_ending, !a.is_ready).cmp(&(&b.node, b.is_ending, !b.is_ready))
        });
        pods.dedup_by(|later, first| later.node == first.node);
        let lacking = self.lacking(&pods).await.unwrap_or_default();
        Ok(Agents { pods, lacking })
    }

    /// The controllers' pods: that which acts first.
    ///
    /// # Errors
    ///
    /// The API server did not say which pods there are.
    pub async fn controllers(&self) -> Result<Vec<OwnPod>, RemoteError> {
        let mut pods = self.own_pods(CONTROLLER).await?;
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), self.system.as_str());
        // Who may not see it asks whoever is ready.
        let lease = answer("the controller's lease", leases.get_opt(CONTROLLER)).await;
        let lease = lease.ok().flatten().and_then(|lease| lease.spec);
        let holder = lease.and_then(|spec| spec.holder_identity).unwrap_or_default();
        pods.sort_by_key(|pod| {
            let acts = pod.name == holder;
            (pod.is_ending, pod.absent.is_some(), !acts, !pod.is_ready)
        });
        Ok(pods)
    }

    /// The nodes that should have an agent's pod and have none. Who may not see the nodes is not
    /// told of them.
    async fn lacking(&self, pods: &[OwnPod]) -> Result<Vec<String>, RemoteError> {
        let api: Api<DaemonSet> = Api::namespaced(self.client.clone(), self.system.as_str());
        let set = answer("the DaemonSet martlet-agent", api.get_opt(AGENT)).await?;
        let Some(set) = set else { return Ok(vec![]) };
        let desired = set.status.map_or(0, |status| status.desired_number_scheduled);
        if usize::try_from(desired).is_ok_and(|desired| desired <= pods.len()) {
            return Ok(vec![]);
        }
        let template = set.spec.and_then(|spec| spec.template.spec);
        let wanted = template.and_then(|spec| spec.node_selector).unwrap_or_default();
        let nodes: Api<Node> = Api::all(self.client.clone());
        let nodes = answer("the nodes", nodes.list(&ListParams::default())).await?;
        let fits = |node: &Node| {
            let labels = node.metadata.labels.as_ref();
            wanted.iter().all(|(key, value)| labels.and_then(|all| all.get(key)) == Some(value))
        };
        let names = nodes.items.into_iter().filter(fits).filter_map(|node| node.metadata.name);
        Ok(names.filter(|name| pods.iter().all(|pod| pod.node != *name)).collect())
    }

    async fn own_pods(&self, name: &str) -> Result<Vec<OwnPod>, RemoteError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), self.system.as_str());
        let chosen = ListParams::default().labels(&format!("{NAME_LABEL}={name}"));
        let what = format!("the pods of {name} in {}", self.system);
        Ok(answer(&what, api.list(&chosen)).await?.items.into_iter().map(own).collect())
    }

    /// The last lines of what the program of a pod's container has written; of the one before it, if it
    /// was restarted and `previous` is said.
    ///
    /// # Errors
    ///
    /// The API server did not give them.
    pub async fn log(
        &self,
        pod: &OwnPod,
        container: &str,
        lines: i64,
        previous: bool,
    ) -> Result<String, RemoteError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), self.system.as_str());
        let chosen = LogParams {
            container: Some(container.to_owned()),
            tail_lines: Some(lines),
            previous,
            ..LogParams::default()
        };
        answer(&format!("the log of {}", pod.name), api.logs(&pod.name, &chosen)).await
    }
}

/// What the server says, if it does in time.
pub(crate) async fn answer<T>(
    what: &str,
    asked: impl Future<Output = kube::Result<T>>,
) -> Result<T, RemoteError> {
    let what = || what.to_owned();
    match timeout(limits::QUESTION, asked).await {
        Ok(answer) => {
            answer.map_err(|source| RemoteError::Asked { what: what(), source: Box::new(source) })
        }
        Err(_) => Err(RemoteError::Silent { what: what() }),
    }
}

/// Of the first container: that is who is asked, and whatever else is in the pod comes after it.
fn own(pod: Pod) -> OwnPod {
    let spec = pod.spec.unwrap_or_default();
    let status = pod.status.unwrap_or_default();
    let statuses = status.container_statuses.unwrap_or_default();
    let of = |name: &str| statuses.iter().find(|one| one.name == name);
    let mut containers = spec.containers.into_iter();
    let container = containers.next().unwrap_or_default();
    let beside = containers.map(|one| Beside {
        restarts: of(&one.name).map_or(0, |found| found.restart_count),
        container: one.name,
    });
    let beside = beside.collect();
    let found = of(&container.name);
    let absent = match found.and_then(|found| found.state.as_ref()) {
        None => Some(status.phase.unwrap_or_else(|| "Pending".to_owned())),
        Some(state) if state.running.is_some() => None,
        Some(state) => {
            let waiting = state.waiting.as_ref().map(|why| (&why.reason, &why.message));
            let ended = state.terminated.as_ref().map(|why| (&why.reason, &why.message));
            let (reason, message) = waiting.or(ended).unwrap_or((&None, &None));
            let parts = [reason.as_deref(), message.as_deref()];
            let parts: Vec<_> = parts.into_iter().flatten().collect();
            Some(if parts.is_empty() { "it does not run".to_owned() } else { parts.join(": ") })
        }
    };
    OwnPod {
        name: pod.metadata.name.unwrap_or_default(),
        node: spec.node_name.unwrap_or_default(),
        container: container.name,
        image: container.image.unwrap_or_default(),
        beside,
        is_ready: found.is_some_and(|found| found.ready),
        absent,
        restarts: found.map_or(0, |found| found.restart_count),
        is_ending: pod.metadata.deletion_timestamp.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(status: serde_json::Value) -> OwnPod {
        let pod = json!({
            "metadata": {"name": "martlet-agent-x"},
            "spec": {"nodeName": "one", "containers": [{"name": "agent", "image": "martlet:1"}]},
            "status": status,
        });
        own(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn a_pod_whose_program_does_not_run_says_why() {
        let of = |state| {
            json!({"containerStatuses": [{"name": "agent", "image": "", "imageID": "",
            "ready": false, "restartCount": 2, "state": state}]})
        };
        let running = read(of(json!({"running": {}})));
        assert_eq!((running.absent, running.restarts, running.node.as_str()), (None, 2, "one"));
        let waiting = json!({"waiting": {"reason": "ErrImagePull", "message": "no such image"}});
        assert_eq!(read(of(waiting)).absent.unwrap(), "ErrImagePull: no such image");
        let ended = json!({"terminated": {"exitCode": 1, "reason": "Error"}});
        assert_eq!(read(of(ended)).absent.unwrap(), "Error");
        assert_eq!(read(json!({"phase": "Pending"})).absent.unwrap(), "Pending");
    }
}
