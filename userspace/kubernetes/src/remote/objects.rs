//! Objects as the API server has them, for whoever has to find out what is wrong. Never a Secret.

use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment},
    core::v1::{ConfigMap, Event, Namespace, Node, Pod},
};
use kube::{
    Api, Resource,
    api::{DynamicObject, ListParams},
    core::ApiResource,
};
use serde_json::Value;

use super::{Remote, RemoteError, answer};
use crate::{
    MODE_LABEL,
    api::{AuthorizationPolicy, MeshConfig},
};

/// Objects of one kind, or why they could not be had.
pub type Objects = (&'static str, Result<Value, RemoteError>);

/// Holds the whole of an object once more, as text.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

impl Remote {
    /// Martlet's own objects, the nodes, the policies, what is set for the mesh, and the namespaces that are labelled.
    pub async fn objects(&self) -> Vec<Objects> {
        let all = ListParams::default();
        let labelled = ListParams::default().labels(MODE_LABEL);
        let own = Some(self.system.as_str());
        vec![
            ("pods", self.all::<Pod>("pods", own, &all).await),
            ("daemonsets", self.all::<DaemonSet>("daemonsets", own, &all).await),
            ("deployments", self.all::<Deployment>("deployments", own, &all).await),
            ("configmaps", self.all::<ConfigMap>("configmaps", own, &all).await),
            ("events", self.all::<Event>("events", own, &all).await),
            ("nodes", self.all::<Node>("nodes", None, &all).await),
            ("namespaces", self.all::<Namespace>("namespaces", None, &labelled).await),
            ("policies", self.all::<AuthorizationPolicy>("policies", None, &all).await),
            ("meshconfigs", self.all::<MeshConfig>("meshconfigs", None, &all).await),
        ]
    }

    async fn all<K>(
        &self,
        what: &str,
        namespace: Option<&str>,
        chosen: &ListParams,
    ) -> Result<Value, RemoteError>
    where
        K: Resource<DynamicType = ()>,
    {
        let kind = ApiResource::erase::<K>(&());
        let client = self.client.clone();
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, &kind),
            None => Api::all_with(client, &kind),
        };
        let mut items = answer(what, api.list(chosen)).await?.items;
        for item in &mut items {
            item.metadata.managed_fields = None;
            if let Some(annotations) = &mut item.metadata.annotations {
                annotations.remove(LAST_APPLIED);
            }
        }
        Ok(serde_json::to_value(items).expect("objects are JSON"))
    }
}
