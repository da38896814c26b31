//! A service: its virtual addresses and ports. Those without any (headless ones, and mere names of
//! others) are reached at their endpoints' own addresses and are nothing here.

use std::{fmt, net::IpAddr, sync::Arc};

use k8s_openapi::api::core::v1 as core;
use kube::{Resource, api::ObjectMeta};
use martlet_model::Label;
use serde::Deserialize;

use super::Problem;

#[derive(Debug, Clone, Resource, Deserialize)]
#[resource(inherit = "core::Service")]
pub struct ServiceObject {
    pub metadata: ObjectMeta,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Option<Vec<String>>,
    #[serde(rename = "externalIPs")]
    external_ips: Option<Vec<String>>,
    ports: Option<Vec<Port>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Port {
    name: Option<String>,
    protocol: Option<String>,
    port: u16,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    load_balancer: LoadBalancer,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct LoadBalancer {
    ingress: Option<Vec<Ingress>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Ingress {
    ip: Option<String>,
    /// `Proxy`: the load balancer is to be passed even from inside.
    ip_mode: Option<String>,
}

/// Namespace and name of a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    pub namespace: Label,
    pub name: Label,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub key: ServiceKey,
    pub uid: Arc<str>,
    /// Where kube-proxy would take connections of the cluster's own pods to its endpoints.
    pub addresses: Vec<IpAddr>,
    /// Those of TCP.
    pub ports: Vec<ServicePort>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// By which it is found in the slices; empty for the only one.
    pub name: String,
    pub port: u16,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl TryFrom<ServiceObject> for Service {
    type Error = Problem;

    fn try_from(object: ServiceObject) -> Result<Self, Problem> {
        let ServiceObject { metadata, spec, status } = object;
        let name = |text: Option<String>| {
            let named = text.unwrap_or_default().parse();
            named.map_err(|error| Problem::new("Name", format!("{error}")))
        };
        let key = ServiceKey { namespace: name(metadata.namespace)?, name: name(metadata.name)? };
        let of_balancer = status.load_balancer.ingress.unwrap_or_default().into_iter();
        let of_balancer = of_balancer
            .filter(|one| one.ip_mode.as_deref() != Some("Proxy"))
            .filter_map(|one| one.ip);
        let texts = spec.cluster_ips.into_iter().flatten().chain(spec.cluster_ip);
        let texts = texts.chain(spec.external_ips.into_iter().flatten()).chain(of_balancer);
        let mut addresses = Vec::new();
        for text in texts.filter(|text| !text.is_empty() && text != "None") {
            let address: IpAddr = text.parse().map_err(|_| {
                Problem::new("Address", format!("{text:?} of service {key} is no address"))
            })?;
            if !addresses.contains(&address.to_canonical()) {
                addresses.push(address.to_canonical());
            }
        }
        let ports = spec.ports.unwrap_or_default().into_iter();
        let ports = ports
            .filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP")
            .map(|port| ServicePort { name: port.name.unwrap_or_default(), port: port.port });
        let uid = metadata.uid.unwrap_or_default().into();
        Ok(Self { key, uid, addresses, ports: ports.collect() })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(spec: Value, status: Value) -> Result<Service, Problem> {
        let value = json!({
            "metadata": {"namespace": "shop", "name": "web"}, "spec": spec, "status": status,
        });
        serde_json::from_value::<ServiceObject>(value).unwrap().try_into()
    }

    fn addresses(spec: Value, status: Value) -> Vec<String> {
        service(spec, status).unwrap().addresses.iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn all_addresses_at_which_pods_reach_it_are_found_once() {
        let spec = json!({
            "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"],
            "externalIPs": ["192.0.2.1"],
        });
        let status = json!({"loadBalancer": {"ingress": [
            {"ip": "198.51.100.1"}, {"hostname": "lb.example"}, {"ip": "198.51.100.2", "ipMode": "Proxy"},
        ]}});
        let expected = ["10.96.0.1", "fd00::1", "192.0.2.1", "198.51.100.1"];
        assert_eq!(addresses(spec, status), expected);
    }

    #[test]
    fn headless_services_and_names_of_others_have_no_address() {
        let none = Vec::<String>::new();
        assert_eq!(
            addresses(json!({"clusterIP": "None", "clusterIPs": ["None"]}), json!({})),
            none
        );
        let name = json!({"type": "ExternalName", "externalName": "a.example", "clusterIP": ""});
        assert_eq!(addresses(name, json!({})), none);
        assert_eq!(addresses(json!({}), json!({})), none);
    }

    #[test]
    fn only_ports_of_tcp_are_kept() {
        let ports = json!({"ports": [
            {"name": "http", "port": 80}, {"name": "dns", "protocol": "UDP", "port": 53},
            {"name": "db", "protocol": "TCP", "port": 5432},
        ]});
        let ports = service(ports, json!({})).unwrap().ports;
        let ports: Vec<_> = ports.iter().map(|port| (port.name.as_str(), port.port)).collect();
        assert_eq!(ports, [("http", 80), ("db", 5432)]);
    }

    #[test]
    fn an_address_that_is_none_is_refused() {
        let refused = service(json!({"externalIPs": ["here"]}), json!({})).unwrap_err();
        assert_eq!(refused.reason, "Address");
    }
}
