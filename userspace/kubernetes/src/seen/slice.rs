//! A part of a service's endpoints.
//!
//! `discovery.k8s.io/v1` since Kubernetes 1.21, `v1beta1` until 1.24; they differ in nothing that is
//! read here.

use std::{borrow::Cow, collections::BTreeMap, net::IpAddr, str::FromStr};

use kube::{Resource, api::ObjectMeta, core::DynamicResourceScope};
use martlet_model::{Label, Zone};
use serde::Deserialize;

use super::{Problem, ServiceKey};

/// Which version of slices a server has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SliceVersion {
    #[default]
    V1,
    V1Beta1,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SliceObject {
    pub metadata: ObjectMeta,
    endpoints: Option<Vec<EndpointObject>>,
    ports: Option<Vec<Port>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct EndpointObject {
    addresses: Option<Vec<String>>,
    conditions: Option<Conditions>,
    node_name: Option<String>,
    /// Of v1beta1.
    topology: Option<BTreeMap<String, String>>,
    hints: Option<Hints>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Hints {
    for_zones: Option<Vec<Hint>>,
    for_nodes: Option<Vec<Hint>>,
}

#[derive(Debug, Clone, Deserialize)]
struct Hint {
    name: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Port {
    name: Option<String>,
    protocol: Option<String>,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    pub namespace: Label,
    pub name: Label,
    /// Whose endpoints these are; without one they are nobody's.
    pub service: Option<ServiceKey>,
    pub endpoints: Vec<Endpoint>,
    /// Names of the service's ports and the numbers behind them; those of TCP.
    pub ports: Vec<(String, u16)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub address: IpAddr,
    /// On which it is, if it is in the cluster.
    pub node: Option<Label>,
    pub is_ready: bool,
    /// It is about to end and still answers: taken where none is ready.
    pub is_leaving: bool,
    /// The zones and nodes whose callers are to be sent to it; of those that have none, nothing is
    /// said.
    pub zones: Vec<Zone>,
    pub nodes: Vec<Label>,
}

impl Resource for SliceObject {
    type DynamicType = SliceVersion;
    type Scope = DynamicResourceScope;

    fn kind(_: &SliceVersion) -> Cow<'_, str> {
        "EndpointSlice".into()
    }

    fn group(_: &SliceVersion) -> Cow<'_, str> {
        "discovery.k8s.io".into()
    }

    fn version(version: &SliceVersion) -> Cow<'_, str> {
        match version {
            SliceVersion::V1 => "v1".into(),
            SliceVersion::V1Beta1 => "v1beta1".into(),
        }
    }

    fn plural(_: &SliceVersion) -> Cow<'_, str> {
        "endpointslices".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl TryFrom<SliceObject> for Slice {
    type Error = Problem;

    fn try_from(object: SliceObject) -> Result<Self, Problem> {
        let SliceObject { metadata, endpoints, ports } = object;
        let name = |text: Option<&str>| -> Result<Label, Problem> {
            let named = text.unwrap_or_default().parse();
            named.map_err(|error| Problem::new("Name", format!("{error}")))
        };
        let namespace = name(metadata.namespace.as_deref())?;
        let service = metadata.labels.as_ref().and_then(|l| l.get("kubernetes.io/service-name"));
        let service = service.map(|text| name(Some(text))).transpose()?;
        let service = service.map(|name| ServiceKey { namespace: namespace.clone(), name });
        let mut read = Vec::new();
        for EndpointObject { addresses, conditions, node_name, topology, hints } in
            endpoints.unwrap_or_default()
        {
            let topology = topology.unwrap_or_default().remove("kubernetes.io/hostname");
            let node = node_name.or(topology).and_then(|name| name.parse().ok());
            let Conditions { ready, serving, terminating } = conditions.unwrap_or_default();
            // "nil indicates an unknown state", which is to be taken as ready.
            let is_ready = ready.unwrap_or(true);
            let is_leaving = !is_ready && terminating.unwrap_or(false) && serving.unwrap_or(false);
            // All of an endpoint's addresses lead to the same; the first is the one to use. A name
            // instead of an address (address type FQDN) is for nobody who connects.
            let first = addresses.unwrap_or_default().into_iter().next();
            if let Some(address) = first.and_then(|text| text.parse::<IpAddr>().ok()) {
                let address = address.to_canonical();
                let Hints { for_zones, for_nodes } = hints.unwrap_or_default();
                let (zones, nodes) = (places(for_zones), places(for_nodes));
                read.push(Endpoint { address, node, is_ready, is_leaving, zones, nodes });
            }
        }
        let ports = ports.unwrap_or_default().into_iter();
        let ports = ports.filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
        let ports = ports.filter_map(|port| Some((port.name.unwrap_or_default(), port.port?)));
        Ok(Self {
            name: name(metadata.name.as_deref())?,
            namespace,
            service,
            endpoints: read,
            ports: ports.collect(),
        })
    }
}

/// What cannot be a name is for nobody.
fn places<T: FromStr>(hints: Option<Vec<Hint>>) -> Vec<T> {
    let hints = hints.unwrap_or_default().into_iter();
    hints.filter_map(|hint| hint.name.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn slice(endpoints: Value, ports: Value) -> Slice {
        let value = json!({
            "metadata": {
                "namespace": "shop", "name": "web-x1",
                "labels": {"kubernetes.io/service-name": "web"},
            },
            "addressType": "IPv4", "endpoints": endpoints, "ports": ports,
        });
        serde_json::from_value::<SliceObject>(value).unwrap().try_into().unwrap()
    }

    fn states(conditions: Value) -> (bool, bool) {
        let slice =
            slice(json!([{"addresses": ["10.0.0.1"], "conditions": conditions}]), json!(null));
        (slice.endpoints[0].is_ready, slice.endpoints[0].is_leaving)
    }

    #[test]
    fn it_belongs_to_the_service_of_its_label() {
        let service = slice(json!(null), json!(null)).service.unwrap();
        assert_eq!(service.to_string(), "shop/web");
        let value = json!({"metadata": {"namespace": "shop", "name": "x"}});
        let orphan: Slice =
            serde_json::from_value::<SliceObject>(value).unwrap().try_into().unwrap();
        assert_eq!(orphan.service, None);
    }

    #[test]
    fn an_endpoint_is_ready_unless_it_says_otherwise() {
        assert_eq!(states(json!({})), (true, false));
        assert_eq!(states(json!({"ready": true})), (true, false));
        assert_eq!(states(json!({"ready": false})), (false, false));
        let leaving = json!({"ready": false, "serving": true, "terminating": true});
        assert_eq!(states(leaving), (false, true));
        let dead = json!({"ready": false, "serving": false, "terminating": true});
        assert_eq!(states(dead), (false, false));
    }

    #[test]
    fn ports_are_those_of_tcp_that_have_a_number() {
        let ports = json!([
            {"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "any"}, {"port": 9},
        ]);
        let slice = slice(json!([{"addresses": ["10.0.0.1"]}]), ports);
        assert_eq!(slice.ports, [("http".to_owned(), 8080), (String::new(), 9)]);
    }

    #[test]
    fn an_endpoints_node_is_named_by_either_version() {
        let endpoints = json!([
            {"addresses": ["10.0.0.1"], "nodeName": "one"},
            {"addresses": ["10.0.0.2"], "topology": {"kubernetes.io/hostname": "two"}},
            {"addresses": ["10.0.0.3"]},
        ]);
        let read = slice(endpoints, json!(null)).endpoints;
        let nodes: Vec<_> = read.iter().map(|one| one.node.as_ref().map(Label::as_str)).collect();
        assert_eq!(nodes, [Some("one"), Some("two"), None]);
    }

    #[test]
    fn an_endpoint_is_for_the_zones_and_nodes_of_its_hints() {
        let hints = json!({"forZones": [{"name": "a"}, {"name": "b c"}], "forNodes": null});
        let endpoints = json!([
            {"addresses": ["10.0.0.1"], "hints": hints},
            {"addresses": ["10.0.0.2"], "hints": {"forNodes": [{"name": "one"}]}},
            {"addresses": ["10.0.0.3"], "hints": null},
        ]);
        let read = slice(endpoints, json!(null)).endpoints;
        let zones: Vec<_> = read[0].zones.iter().map(Zone::as_str).collect();
        assert_eq!((zones, read[0].nodes.len()), (vec!["a"], 0));
        assert_eq!((read[1].zones.len(), read[1].nodes[0].as_str()), (0, "one"));
        assert!(read[2].zones.is_empty() && read[2].nodes.is_empty());
    }

    #[test]
    fn names_instead_of_addresses_are_no_endpoints() {
        let slice =
            slice(json!([{"addresses": ["a.example"]}, {"addresses": []}, {}]), json!(null));
        assert_eq!(slice.endpoints, []);
    }
}
