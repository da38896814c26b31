//! What all agents of a lab are told: trust domain, authority, workloads, services, policies.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{lab::Lab, node::Node, pod::Pod, program::find_binary};

/// Change it, then start or reload the agents.
#[derive(Debug, Clone)]
pub struct Mesh {
    trust_domain: String,
    authority: PathBuf,
    members: Vec<Member>,
    outside: Vec<Pod>,
    services: Vec<Value>,
    policies: Vec<Value>,
    /// Names of pods, with the ports at which they are probed.
    probes: Vec<(String, Vec<u16>)>,
    /// Names of pods that are offered the Workload API.
    workload_api: Vec<String>,
    /// Names of pods whose network namespaces are found by their cgroups.
    by_cgroup: Vec<String>,
    /// What nodes do without an agent; nothing is said by default.
    failure: Option<String>,
}

#[derive(Debug, Clone)]
struct Member {
    pod: Pod,
    namespace: String,
    service_account: String,
    mode: String,
    /// Of a pod of another cluster.
    foreign: Option<String>,
}

impl Mesh {
    /// Makes an authority of its own with `martlet authority init`.
    pub fn new(lab: &Lab, trust_domain: &str) -> Result<Mesh> {
        let authority = lab.directory().join(format!("authority.{trust_domain}"));
        let mut init = std::process::Command::new(find_binary("martlet")?);
        init.args(["authority", "init"]).arg(&authority).args(["--trust-domain", trust_domain]);
        let output = init.output().context("running `martlet authority init`")?;
        if !output.status.success() {
            bail!("`martlet authority init` failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(Mesh::with_authority(trust_domain, authority))
    }

    /// For nodes that follow a controller, which has the authority.
    pub fn without_authority(trust_domain: &str) -> Mesh {
        Mesh::with_authority(trust_domain, PathBuf::new())
    }

    /// Uses an authority that was made before: its directory holds root and issuer.
    pub fn with_authority(trust_domain: &str, authority: PathBuf) -> Mesh {
        Mesh {
            trust_domain: trust_domain.to_owned(),
            authority,
            members: Vec::new(),
            outside: Vec::new(),
            services: Vec::new(),
            policies: Vec::new(),
            probes: Vec::new(),
            workload_api: Vec::new(),
            by_cgroup: Vec::new(),
            failure: None,
        }
    }

    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    pub fn authority(&self) -> &PathBuf {
        &self.authority
    }

    /// What is told from now on: another directory with an authority's files.
    pub fn set_authority(&mut self, authority: PathBuf) {
        self.authority = authority;
    }

    /// Enrols a pod, or changes what was said about it; `mode` is `permissive` or `strict`.
    pub fn enroll(&mut self, pod: &Pod, namespace: &str, service_account: &str, mode: &str) {
        self.withdraw(pod);
        self.outside.retain(|outside| outside.netns().path() != pod.netns().path());
        self.members.push(Member {
            pod: pod.clone(),
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
            mode: mode.to_owned(),
            foreign: None,
        });
    }

    /// Takes over what another mesh says about its pods: they are those of another cluster.
    pub fn know(&mut self, other: &Mesh) {
        let foreign = |member: &Member| Member {
            foreign: Some(other.trust_domain.clone()),
            ..member.clone()
        };
        let theirs = other.members.iter().filter(|member| member.foreign.is_none());
        self.members.extend(theirs.map(foreign));
    }

    /// Decides that a pod is outside: it may call the mesh in plaintext.
    pub fn leave_outside(&mut self, pod: &Pod) {
        self.withdraw(pod);
        self.outside.push(pod.clone());
    }

    /// Declares ports of a pod at which `Node::prober` may probe in plaintext.
    pub fn probes(&mut self, pod: &Pod, ports: &[u16]) {
        self.probes.retain(|(name, _)| name != pod.name());
        if !ports.is_empty() {
            self.probes.push((pod.name().to_owned(), ports.to_vec()));
        }
    }

    /// Whether a pod is offered the Workload API.
    pub fn workload_api(&mut self, pod: &Pod, offered: bool) {
        self.workload_api.retain(|name| name != pod.name());
        if offered {
            self.workload_api.push(pod.name().to_owned());
        }
    }

    /// The pod is a service of the node: its network namespace is that of its cgroup's processes.
    pub fn found_by_cgroup(&mut self, pod: &Pod) {
        self.by_cgroup.push(pod.name().to_owned());
    }

    /// What becomes of connections without an agent: `open` or `closed`.
    pub fn failure(&mut self, failure: &str) {
        self.failure = Some(failure.to_owned());
    }

    /// Nothing is said about the pod any more: it is undecided.
    pub fn withdraw(&mut self, pod: &Pod) {
        self.members.retain(|member| member.pod.netns().path() != pod.netns().path());
    }

    pub fn identity(&self, namespace: &str, service_account: &str) -> String {
        format!("spiffe://{}/ns/{namespace}/sa/{service_account}", self.trust_domain)
    }

    /// A virtual address whose port leads to endpoints like `10.1.0.2:8080`.
    pub fn service(
        &mut self,
        namespace: &str,
        name: &str,
        address: &str,
        port: u16,
        endpoints: &[String],
    ) {
        self.services.push(json!({
            "namespace": namespace, "name": name, "address": address,
            "ports": [{ "port": port, "endpoints": endpoints }],
        }));
    }

    pub fn clear_services(&mut self) {
        self.services.clear();
    }

    /// A policy in the node file's own form.
    pub fn policy(&mut self, policy: Value) {
        self.policies.push(policy);
    }

    pub fn clear_policies(&mut self) {
        self.policies.clear();
    }

    /// What this node's agent is told: its own pods come with their network namespaces.
    pub fn node_file(&self, node: &Node) -> Result<Value> {
        let directory = node.directory()?;
        let here = self.outside.iter().filter(|pod| pod.node().name() == node.name());
        let outside: Vec<_> = here.map(|pod| json!({ "path": pod.netns().path() })).collect();
        let mut file = json!({
            "trustDomain": self.trust_domain,
            "authority": { "directory": self.authority },
            "node": {
                "name": node.name(),
                "cgroup": node.cgroup(),
                "pin": node.pin(),
                "state": directory.join("state"),
                "socket": directory.join("agent.sock"),
                "metrics": "127.0.0.1:15020",
                "accessLog": directory.join("access.log"),
            },
            "workloads": self.members.iter().map(|member| self.entry(member, node)).collect::<Vec<_>>(),
            "services": self.services,
            "policies": self.policies,
        });
        // Builds from before a key was there can be measured too.
        if !outside.is_empty() {
            file["outside"] = json!(outside);
        }
        if !self.probes.is_empty() {
            file["node"]["prober"] = json!({ "cgroup": node.prober() });
        }
        if let Some(failure) = &self.failure {
            file["node"]["failure"] = json!(failure);
        }
        Ok(file)
    }

    /// What the controller of several nodes is told: all pods come with their network namespaces.
    pub fn directory_file(&self) -> Value {
        let entry = |member: &Member| self.entry(member, member.pod.node());
        json!({
            "trustDomain": self.trust_domain,
            "workloads": self.members.iter().map(entry).collect::<Vec<_>>(),
            "services": self.services,
            "policies": self.policies,
        })
    }

    fn entry(&self, member: &Member, node: &Node) -> Value {
        let mut entry = member.entry(node);
        if let Some((_, ports)) = self.probes.iter().find(|(name, _)| name == member.pod.name()) {
            entry["probes"] = json!(ports);
        }
        let is_local = entry.get("netns").is_some();
        if is_local && self.by_cgroup.iter().any(|name| name == member.pod.name()) {
            entry["netns"] = json!({ "cgroup": member.pod.cgroup() });
        }
        if is_local && self.workload_api.iter().any(|name| name == member.pod.name()) {
            entry["workloadApi"] = json!(true);
        }
        entry
    }
}

impl Member {
    fn entry(&self, node: &Node) -> Value {
        let mut entry = json!({
            "namespace": self.namespace,
            "name": self.pod.name(),
            "serviceAccount": self.service_account,
            "node": self.pod.node().name(),
            "addresses": self.pod.addresses(),
            "mode": self.mode,
        });
        if let Some(domain) = &self.foreign {
            entry["trustDomain"] = json!(domain);
        } else if self.pod.node().name() == node.name() {
            entry["netns"] = json!({ "path": self.pod.netns().path() });
        }
        entry
    }
}
