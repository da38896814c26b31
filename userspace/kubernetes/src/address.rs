//! Where agents find the controller that serves them.
//!
//! Its Service has no selector: whoever holds the lease writes its own address into one EndpointSlice,
//! over that of whoever held it before.

use std::net::IpAddr;

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams},
};
use martlet_model::Label;
use serde_json::json;
use tokio::time::timeout;

use crate::{limits, publish::MANAGER, seen::SliceVersion};

/// The Service, and the EndpointSlice behind it.
const NAME: &str = "martlet-controller";

/// Lets the Service lead to this address and port, and to no other.
///
/// # Errors
///
/// The server did not answer, or did not take it.
pub async fn lead(
    client: &Client,
    version: SliceVersion,
    namespace: &Label,
    address: IpAddr,
    port: u16,
) -> Result<(), String> {
    let version = match version {
        SliceVersion::V1 => "v1",
        SliceVersion::V1Beta1 => "v1beta1",
    };
    let kind = GroupVersionKind::gvk("discovery.k8s.io", version, "EndpointSlice");
    let resource = ApiResource::from_gvk_with_plural(&kind, "endpointslices");
    let mut slice = DynamicObject::new(NAME, &resource).data(json!({
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{ "addresses": [address], "conditions": { "ready": true } }],
        "ports": [{ "name": "control", "protocol": "TCP", "port": port }],
    }));
    let labels = [
        ("kubernetes.io/service-name", NAME),
        // So that no controller of Kubernetes takes it for one of its own.
        ("endpointslice.kubernetes.io/managed-by", "martlet.dev"),
    ];
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
    slice.metadata.labels = Some(labels.into());
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), namespace.as_str(), &resource);
    let parameters = PatchParams::apply(MANAGER).force();
    let patch = Patch::Apply(&slice);
    match timeout(limits::QUESTION, api.patch(NAME, &parameters, &patch)).await {
        Ok(written) => written.map(drop).map_err(|error| error.to_string()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}
