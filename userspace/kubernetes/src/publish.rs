//! What the controller writes into the cluster: the roots, for whoever has to know the controller, and
//! what has become of policies, for whoever wrote them.

use std::{collections::BTreeMap, future::Future};

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Client,
    api::{ObjectMeta, Patch, PatchParams},
};
use martlet_model::Label;
use serde_json::json;
use tokio::time::timeout;

use crate::{
    api::{BundleObject, BundleStatus, ConfigObject, ConfigStatus, PolicyObject, PolicyStatus},
    limits,
};

/// The ConfigMap with the roots, in the namespace of Martlet itself.
pub const ROOTS: &str = "martlet-roots";
/// Its only key.
pub const ROOTS_KEY: &str = "roots.pem";
pub(crate) const MANAGER: &str = "martlet-controller";

/// Writes the roots of the own trust domain, in PEM, by server-side apply.
///
/// # Errors
///
/// The server did not answer, or did not take it.
pub async fn roots(client: &Client, namespace: &Label, pem: &str) -> Result<(), String> {
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(ROOTS.to_owned()),
            namespace: Some(namespace.to_string()),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(ROOTS_KEY.to_owned(), pem.to_owned())])),
        ..ConfigMap::default()
    };
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace.as_str());
    let parameters = PatchParams::apply(MANAGER).force();
    let patch = Patch::Apply(&map);
    answered(api.patch(ROOTS, &parameters, &patch)).await.map(drop)
}

/// As conditions have times.
pub fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Writes the status of a policy, whatever else stands in it.
///
/// # Errors
///
/// The server did not answer, or did not take it; there may be no such policy any more.
pub async fn status(
    client: &Client,
    namespace: &str,
    name: &str,
    status: &PolicyStatus,
) -> Result<(), String> {
    let api: Api<PolicyObject> = Api::namespaced(client.clone(), namespace);
    let patch = Patch::Merge(json!({ "status": status }));
    let writing = async { api.patch_status(name, &PatchParams::default(), &patch).await.map(drop) };
    answered(writing).await
}

/// The same of a trust bundle.
///
/// # Errors
///
/// As above.
pub async fn bundle_status(
    client: &Client,
    name: &str,
    status: &BundleStatus,
) -> Result<(), String> {
    let api: Api<BundleObject> = Api::all(client.clone());
    let patch = Patch::Merge(json!({ "status": status }));
    let writing = async { api.patch_status(name, &PatchParams::default(), &patch).await.map(drop) };
    answered(writing).await
}

/// The same of a mesh config.
///
/// # Errors
///
/// As above.
pub async fn config_status(
    client: &Client,
    name: &str,
    status: &ConfigStatus,
) -> Result<(), String> {
    let api: Api<ConfigObject> = Api::all(client.clone());
    // A merge leaves what is not named: what is set no more is named as nothing.
    let mut body = json!({ "status": status });
    if let Some(in_effect) = body["status"].get_mut("inEffect") {
        for key in ["failure", "udp"] {
            if in_effect.get(key).is_none() {
                in_effect[key] = serde_json::Value::Null;
            }
        }
    }
    let patch = Patch::Merge(body);
    let writing = async { api.patch_status(name, &PatchParams::default(), &patch).await.map(drop) };
    answered(writing).await
}

pub(crate) async fn answered<T>(
    asking: impl Future<Output = kube::Result<T>>,
) -> Result<T, String> {
    match timeout(limits::QUESTION, asking).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}
