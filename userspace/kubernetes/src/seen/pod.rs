//! A pod: who it is, where it runs, where it is reached, and where it is probed.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use k8s_openapi::{api::core::v1 as core, apimachinery::pkg::util::intstr::IntOrString};
use kube::{Resource, api::ObjectMeta};
use martlet_model::{Label, LabelError, WorkloadName};
use serde::Deserialize;

use super::{Problem, Wanted};
use crate::standing::{CONDITION, Said};

#[derive(Debug, Clone, Resource, Deserialize)]
#[resource(inherit = "core::Pod")]
pub struct PodObject {
    pub metadata: ObjectMeta,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    node_name: Option<String>,
    service_account_name: Option<String>,
    host_network: bool,
    containers: Vec<Container>,
    init_containers: Vec<Container>,
    readiness_gates: Option<Vec<Gate>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Gate {
    condition_type: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    ports: Vec<Port>,
    liveness_probe: Option<Probe>,
    readiness_probe: Option<Probe>,
    startup_probe: Option<Probe>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Port {
    name: Option<String>,
    container_port: i64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Probe {
    http_get: Option<At>,
    tcp_socket: Option<At>,
    grpc: Option<GrpcAt>,
}

#[derive(Debug, Clone, Deserialize)]
struct At {
    port: IntOrString,
}

#[derive(Debug, Clone, Deserialize)]
struct GrpcAt {
    port: i64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<PodIp>,
    conditions: Option<Vec<PodCondition>>,
}

#[derive(Debug, Clone, Deserialize)]
struct PodCondition {
    #[serde(rename = "type")]
    kind: String,
    #[serde(flatten)]
    said: Said,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct PodIp {
    ip: String,
}

/// A pod that has a place to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    pub name: WorkloadName,
    /// Which life of the name it is.
    pub uid: Arc<str>,
    pub node: Label,
    pub service_account: Label,
    /// None before its sandbox is there, nor after its last container has ended.
    pub addresses: Vec<IpAddr>,
    pub wanted: Option<Wanted>,
    /// It has the node's addresses, and so no identity of its own on the wire.
    pub is_on_host: bool,
    /// All its containers have ended: the address may be another pod's already.
    pub is_over: bool,
    /// Somebody has asked for its end.
    pub is_ending: bool,
    /// Seconds since 1970.
    pub created: i64,
    pub labels: BTreeMap<String, String>,
    /// Where kubelet probes it by itself, ascending.
    pub probes: Vec<u16>,
    /// What its status says of its enrolment. Nothing is decided by it.
    pub said: Option<Said>,
}

impl PodObject {
    /// What its status says of its enrolment.
    pub fn said(&self) -> Option<Said> {
        said(&self.status)
    }

    /// Whether it is ready only while its status says that it is enrolled.
    pub fn is_gated(&self) -> bool {
        let mut gates = self.spec.readiness_gates.iter().flatten();
        gates.any(|gate| gate.condition_type == CONDITION)
    }
}

impl Pod {
    /// `Ok(None)`: no node has it yet, so it does not run.
    pub fn read(object: PodObject) -> Result<Option<Self>, Problem> {
        let PodObject { metadata, spec, status } = object;
        let Some(node) = spec.node_name.as_deref().filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        let name = |text: &str| {
            text.parse().map_err(|error: LabelError| Problem::new("Name", error.to_string()))
        };
        let account = spec.service_account_name.as_deref().filter(|name| !name.is_empty());
        let mut probes: Vec<u16> = all(&spec).flat_map(probed).collect();
        probes.sort_unstable();
        probes.dedup();
        let is_over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        Ok(Some(Self {
            name: WorkloadName {
                namespace: name(metadata.namespace.as_deref().unwrap_or_default())?,
                name: name(metadata.name.as_deref().unwrap_or_default())?,
            },
            uid: metadata.uid.unwrap_or_default().into(),
            node: name(node)?,
            service_account: name(account.unwrap_or("default"))?,
            addresses: addresses(&status)?,
            said: said(&status),
            wanted: Wanted::of(metadata.labels.as_ref()),
            is_on_host: spec.host_network,
            is_over,
            is_ending: metadata.deletion_timestamp.is_some(),
            created: metadata.creation_timestamp.map_or(0, |time| time.0.as_second()),
            labels: metadata.labels.unwrap_or_default(),
            probes,
        }))
    }
}

fn all(spec: &Spec) -> impl Iterator<Item = &Container> {
    spec.containers.iter().chain(&spec.init_containers)
}

/// The ports of a container's probes. A name that no port has is kubelet's to complain about.
fn probed(container: &Container) -> Vec<u16> {
    let probes = [&container.liveness_probe, &container.readiness_probe, &container.startup_probe];
    let number = |port: i64| u16::try_from(port).ok().filter(|port| *port != 0);
    let of_name = |name: &str| {
        let port = container.ports.iter().find(|port| port.name.as_deref() == Some(name))?;
        number(port.container_port)
    };
    let port = |at: &At| match &at.port {
        IntOrString::Int(port) => number((*port).into()),
        // `port: "8080"` is a number, too.
        IntOrString::String(name) => name.parse().ok().filter(|n| *n != 0).or(of_name(name)),
    };
    let ports = probes.into_iter().flatten().flat_map(|probe| {
        let at = [&probe.http_get, &probe.tcp_socket].map(|at| at.as_ref().and_then(port));
        at.into_iter().chain([probe.grpc.as_ref().and_then(|at| number(at.port))]).flatten()
    });
    ports.collect()
}

fn said(status: &Status) -> Option<Said> {
    let conditions = status.conditions.iter().flatten();
    conditions.filter(|one| one.kind == CONDITION).map(|one| one.said.clone()).next()
}

fn addresses(status: &Status) -> Result<Vec<IpAddr>, Problem> {
    let texts = status.pod_ips.iter().map(|one| one.ip.as_str());
    let texts = texts.chain(status.pod_ip.as_deref()).filter(|text| !text.is_empty());
    let mut addresses: Vec<IpAddr> = Vec::new();
    for text in texts {
        let address: IpAddr = text.parse().map_err(|_| {
            Problem::new("Address", format!("{text:?} in the pod's status is no address"))
        })?;
        let address = address.to_canonical();
        if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
            return Err(Problem::new(
                "Address",
                format!("{address} in the pod's status can be no pod's address"),
            ));
        }
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests;
