//! A service: its virtual addresses and ports. Those without any (headless ones, and mere names of
//! others) are reached at their endpoints' own addresses and are nothing here.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

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
    session_affinity: Option<String>,
    session_affinity_config: Option<AffinityConfig>,
    internal_traffic_policy: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct AffinityConfig {
    #[serde(rename = "clientIP")]
    client_ip: Option<ClientIp>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClientIp {
    timeout_seconds: Option<u32>,
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

/// What a server takes where nothing is said.
const AFFINITY_SECONDS: u32 = 10_800;

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
    /// Of these, those from which a caller is sent to endpoints of its own node only.
    pub own_node_only: Vec<IpAddr>,
    /// A caller stays with an endpoint for so long after it used it last.
    pub affinity: Option<Duration>,
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
        let of_cluster = spec.cluster_ips.into_iter().flatten().chain(spec.cluster_ip);
        let of_cluster: Vec<_> = of_cluster.collect();
        // From inside, external addresses lead to all endpoints, whatever their own policy says.
        let is_local = spec.internal_traffic_policy.as_deref() == Some("Local");
        let of_own_node = of_cluster.iter().filter(|_| is_local);
        let own_node_only = of_own_node.filter_map(|text| text.parse::<IpAddr>().ok());
        let own_node_only = own_node_only.map(|address| address.to_canonical()).collect();
        let affinity = spec.session_affinity.filter(|kind| kind == "ClientIP").map(|_| {
            let config = spec.session_affinity_config.and_then(|config| config.client_ip);
            let seconds = config.and_then(|config| config.timeout_seconds);
            Duration::from_secs(seconds.unwrap_or(AFFINITY_SECONDS).into())
        });
        let texts = of_cluster
            .into_iter()
            .chain(spec.external_ips.into_iter().flatten())
            .chain(of_balancer);
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
        let ports = ports.collect();
        Ok(Self { key, uid, addresses, own_node_only, affinity, ports })
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
    fn affinity_lasts_as_long_as_it_says_or_three_hours() {
        let affinity = |spec: Value| service(spec, json!({})).unwrap().affinity;
        assert_eq!(affinity(json!({})), None);
        assert_eq!(affinity(json!({"sessionAffinity": "None"})), None);
        let three_hours = Some(Duration::from_secs(10_800));
        assert_eq!(affinity(json!({"sessionAffinity": "ClientIP"})), three_hours);
        let config = json!({"clientIP": {"timeoutSeconds": 60}});
        let spec = json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": config});
        assert_eq!(affinity(spec), Some(Duration::from_secs(60)));
    }

    #[test]
    fn an_internal_policy_is_about_the_addresses_of_the_cluster() {
        let spec = |policy: &str| {
            json!({
                "clusterIP": "10.96.0.1", "externalIPs": ["192.0.2.1"], "internalTrafficPolicy": policy,
            })
        };
        let local = service(spec("Local"), json!({})).unwrap().own_node_only;
        assert_eq!(local, ["10.96.0.1".parse::<IpAddr>().unwrap()]);
        assert!(service(spec("Cluster"), json!({})).unwrap().own_node_only.is_empty());
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
