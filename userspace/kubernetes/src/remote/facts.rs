//! What the API server says about a cluster in which Martlet is, or is to be.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment},
        authorization::v1::{
            ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
        },
        core::v1::Node,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, PostParams},
};

use super::{AGENT, CONTROLLER, Remote, RemoteError, answer};
use crate::{
    MODE_LABEL,
    api::{ConfigObject, PolicyObject},
    seen::{NamespaceObject, PodObject},
};

/// A node as its kubelet describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    pub name: String,
    /// As `uname -r` says it.
    pub kernel: String,
    /// `linux`, or else.
    pub system: String,
    pub is_ready: bool,
}

/// What somebody may or may not do; an empty group is the core's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Right {
    pub verb: &'static str,
    pub group: &'static str,
    pub resource: &'static str,
    pub subresource: &'static str,
    /// Whether it is about Martlet's own namespace, and not about the cluster.
    pub is_of_system: bool,
}

/// A DaemonSet or Deployment of ours, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout {
    pub image: String,
    pub wanted: i32,
    pub ready: i32,
    pub updated: i32,
}

/// A definition of ours that the API server has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    pub name: String,
    /// The versions that it serves.
    pub served: Vec<String>,
}

impl Remote {
    /// # Errors
    ///
    /// The API server did not say.
    pub async fn nodes(&self) -> Result<Vec<NodeFacts>, RemoteError> {
        let api: Api<Node> = Api::all(self.client.clone());
        let nodes = answer("the nodes", api.list(&ListParams::default())).await?;
        Ok(nodes.items.into_iter().map(facts).collect())
    }

    /// Whether this user may do this.
    ///
    /// # Errors
    ///
    /// The API server did not say.
    pub async fn may(&self, right: &Right) -> Result<bool, RemoteError> {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let attributes = ResourceAttributes {
            verb: text(right.verb),
            group: text(right.group),
            resource: text(right.resource),
            subresource: text(right.subresource),
            namespace: right.is_of_system.then(|| self.system.to_string()),
            ..ResourceAttributes::default()
        };
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(attributes),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let api: Api<SelfSubjectAccessReview> = Api::all(self.client.clone());
        let parameters = PostParams::default();
        let asked = api.create(&parameters, &review);
        let review = answer("this user's rights", asked).await?;
        Ok(review.status.is_some_and(|status| status.allowed))
    }

    /// Our own definitions that are there.
    ///
    /// # Errors
    ///
    /// The API server did not say.
    pub async fn definitions(&self) -> Result<Vec<Definition>, RemoteError> {
        let api: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let mut found = Vec::new();
        for name in definition_names() {
            if let Some(one) = answer("our definitions", api.get_opt(&name)).await? {
                let served = one.spec.versions.into_iter().filter(|version| version.served);
                let served = served.map(|version| version.name).collect();
                found.push(Definition { name, served });
            }
        }
        Ok(found)
    }

    /// The labels of Martlet's own namespace, if it is there.
    ///
    /// # Errors
    ///
    /// The API server did not say.
    pub async fn system_labels(&self) -> Result<Option<BTreeMap<String, String>>, RemoteError> {
        let api: Api<NamespaceObject> = Api::all(self.client.clone());
        let what = format!("the namespace {}", self.system);
        let namespace = answer(&what, api.get_opt(self.system.as_str())).await?;
        Ok(namespace.map(|namespace| namespace.metadata.labels.unwrap_or_default()))
    }

    /// The agents' DaemonSet, if it is there.
    ///
    /// # Errors
    ///
    /// The API server did not say.
    pub async fn agents_rollout(&self) -> Result<Option<Rollout>, RemoteError> {
        let api: Api<DaemonSet> = Api::namespaced(self.client.clone(), self.system.as_str());
        let set = answer("the DaemonSet martlet-agent", api.get_opt(AGENT)).await?;
        Ok(set.map(|set| {
            let status = set.status.unwrap_or_default();
            let template = set.spec.unwrap_or_default().template.spec.unwrap_or_default();
            Rollout {
                image: image(template.containers),
                wanted: status.desired_number_scheduled,
                ready: status.number_ready,
                updated: status.updated_number_scheduled.unwrap_or_default(),
            }
        }))
    }

    /// The controller's Deployment, if it is there.
    ///
    /// # Errors
    ///
    /// The API server did not say.
    pub async fn controller_rollout(&self) -> Result<Option<Rollout>, RemoteError> {
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), self.system.as_str());
        let found = answer("the Deployment martlet-controller", api.get_opt(CONTROLLER)).await?;
        Ok(found.map(|found| {
            let (spec, status) = (found.spec.unwrap_or_default(), found.status.unwrap_or_default());
            Rollout {
                wanted: spec.replicas.unwrap_or(1),
                image: image(spec.template.spec.unwrap_or_default().containers),
                ready: status.ready_replicas.unwrap_or_default(),
                updated: status.updated_replicas.unwrap_or_default(),
            }
        }))
    }

    /// The namespaces and pods whose label says something that is none of its three values.
    ///
    /// # Errors
    ///
    /// The API server did not say.
    pub async fn unknown_modes(&self) -> Result<Vec<String>, RemoteError> {
        let chosen = format!("{MODE_LABEL},{MODE_LABEL} notin (permissive,strict,off)");
        let chosen = ListParams::default().labels(&chosen);
        let namespaces: Api<NamespaceObject> = Api::all(self.client.clone());
        let namespaces = answer("the namespaces", namespaces.list_metadata(&chosen)).await?;
        let pods: Api<PodObject> = Api::all(self.client.clone());
        let pods = answer("the pods", pods.list_metadata(&chosen)).await?;
        let value =
            |labels: &BTreeMap<String, String>| labels.get(MODE_LABEL).cloned().unwrap_or_default();
        let namespaces = namespaces
            .items
            .iter()
            .map(|one| format!("namespace {} ({:?})", one.name_any(), value(one.labels())));
        let pods = pods.items.iter().map(|one| {
            let namespace = one.namespace().unwrap_or_default();
            format!("pod {namespace}/{} ({:?})", one.name_any(), value(one.labels()))
        });
        Ok(namespaces.chain(pods).collect())
    }

    /// All that is set for the whole mesh, as it is stored; nothing where the kind is not defined.
    ///
    /// # Errors
    ///
    /// The API server did not say.
    pub async fn configs(&self) -> Result<Vec<ConfigObject>, RemoteError> {
        let api: Api<ConfigObject> = Api::all(self.client.clone());
        match answer("the mesh configs", api.list(&ListParams::default())).await {
            Ok(list) => Ok(list.items),
            Err(error) if error.is_not_found() => Ok(vec![]),
            Err(error) => Err(error),
        }
    }

    /// All policies, as they are stored.
    ///
    /// # Errors
    ///
    /// The API server did not say.
    pub async fn policies(&self) -> Result<Vec<PolicyObject>, RemoteError> {
        let api: Api<PolicyObject> = Api::all(self.client.clone());
        Ok(answer("the policies", api.list(&ListParams::default())).await?.items)
    }
}

/// Of all definitions that belong to this version.
pub fn definition_names() -> Vec<String> {
    let definitions = crate::api::definitions();
    let name = |one: &serde_json::Value| one["metadata"]["name"].as_str().map(str::to_owned);
    definitions.iter().filter_map(name).collect()
}

fn image(containers: Vec<k8s_openapi::api::core::v1::Container>) -> String {
    containers.into_iter().next().and_then(|first| first.image).unwrap_or_default()
}

fn facts(node: Node) -> NodeFacts {
    let status = node.status.unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let is_ready = conditions.iter().any(|one| one.type_ == "Ready" && one.status == "True");
    let info = status.node_info.unwrap_or_default();
    NodeFacts {
        name: node.metadata.name.unwrap_or_default(),
        kernel: info.kernel_version,
        system: info.operating_system,
        is_ready,
    }
}
