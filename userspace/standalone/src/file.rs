//! The file's shape: its keys, in the order in which people write them.
//!
//! Texts stay texts here, each with its place, so that `check` can say where a bad one stands and
//! can report all of them at once. What the comments say becomes the schema's descriptions.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::mark::{At, Given, Texts};

pub(crate) const NAME: &str = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$";
pub(crate) const TRUST_DOMAIN: &str = "^[a-z0-9._-]+$";
pub(crate) const PATH: &str = "^/";
pub(crate) const HOST_AND_PORT: &str = r"^(\[[0-9a-fA-F:.]+\]|[-a-zA-Z0-9.]+):[0-9]+$";
pub(crate) const ADDRESS_AND_PORT: &str = r"^(\[[0-9a-fA-F:.]+\]|[0-9.]+):[0-9]+$";

/// What one node's agent is told in standalone mode: who vouches for identities, how this node's
/// agent runs, and which workloads, services and policies there are on all nodes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(
    title = "Martlet node file",
    extend("oneOf" = [{ "required": ["authority"] }, { "required": ["controller"] }])
)]
pub(crate) struct File {
    /// The trust domain of all identities in this file, such as `prod.example.org`.
    #[schemars(regex(pattern = TRUST_DOMAIN), length(max = 255))]
    pub(crate) trust_domain: At<String>,
    /// The authority that this agent asks for certificates. Either this or `controller`.
    #[serde(default)]
    pub(crate) authority: Given<Authority>,
    /// The controller, which issues certificates and says everything that is the same on all nodes,
    /// so that `workloads`, `services` and `policies` are not given here.
    #[serde(default)]
    pub(crate) controller: Given<At<Controller>>,
    /// How this node's agent runs.
    pub(crate) node: Node,
    /// All workloads, on this node and on others.
    #[serde(default)]
    pub(crate) workloads: Vec<At<Workload>>,
    /// Network namespaces of this node that are outside the mesh by decision.
    #[serde(default)]
    pub(crate) outside: Vec<At<Netns>>,
    /// What processes of this node meet at the mesh whose network namespace is neither a workload's
    /// nor outside.
    #[serde(default)]
    #[schemars(extend("default" = "refuse"))]
    pub(crate) undecided: Given<Undecided>,
    /// Virtual addresses and the endpoints behind them.
    #[serde(default)]
    pub(crate) services: Vec<Service>,
    /// Who may talk to whom. A workload that no policy selects may be called by every workload.
    #[serde(default)]
    pub(crate) policies: Vec<Policy>,
}

/// Root and issuer, as `martlet authority init` makes them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Authority {
    /// Holds `root.crt`, `issuer.crt` and `issuer.key`.
    #[schemars(regex(pattern = PATH))]
    pub(crate) directory: At<String>,
}

/// A controller, as `martlet-controller` runs it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("oneOf" = [
    { "required": ["token"] },
    { "required": ["serviceAccount"] },
    { "required": ["hostCertificate"] },
]))]
pub(crate) struct Controller {
    /// A name or an address, and a port.
    #[schemars(regex(pattern = HOST_AND_PORT), length(max = 259))]
    pub(crate) address: At<String>,
    /// The file with the token by which this node joins, once. One of this, `serviceAccount` and
    /// `hostCertificate`.
    #[serde(default)]
    #[schemars(regex(pattern = PATH))]
    pub(crate) token: Given<At<String>>,
    /// What this node joins by in Kubernetes.
    #[serde(default)]
    pub(crate) service_account: Given<At<ServiceAccount>>,
    /// What this node joins by if its host has a certificate, of an authority that the controller file
    /// names (`hosts`).
    #[serde(default)]
    pub(crate) host_certificate: Given<At<HostCertificate>>,
}

/// What a host has of its owner's public key infrastructure.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct HostCertificate {
    /// The file with the host's certificate, and those between it and the authority, in PEM.
    #[schemars(regex(pattern = PATH))]
    pub(crate) certificate: At<String>,
    /// The file with its key, in PEM, which not everybody may read.
    #[schemars(regex(pattern = PATH))]
    pub(crate) key: At<String>,
    /// The file with the controller's roots, in PEM, as `martlet trust export --pem` prints them.
    #[schemars(regex(pattern = PATH))]
    pub(crate) roots: At<String>,
}

/// What the agent's pod has of the cluster.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ServiceAccount {
    /// The file with the pod's token for the controller: a projected one, with the controller's
    /// audience.
    #[schemars(regex(pattern = PATH))]
    pub(crate) token: At<String>,
    /// The file with the roots, one of which the controller is certified by, in PEM.
    #[schemars(regex(pattern = PATH))]
    pub(crate) roots: At<String>,
}

/// How this node's agent runs.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Node {
    /// This node's name; workloads with this `node` are enrolled here. Left out where the agent is
    /// told it (`--node-name`).
    #[serde(default)]
    #[schemars(regex(pattern = NAME), length(max = 253))]
    pub(crate) name: Given<At<String>>,
    /// The cgroup whose processes are steered. Without it: the root of the mounted cgroup v2.
    #[serde(default)]
    #[schemars(regex(pattern = PATH))]
    pub(crate) cgroup: Given<At<String>>,
    /// The host's network namespace, where that is not the agent's own: in a pod that sees the
    /// host's processes it is `/proc/1/ns/net`.
    #[serde(default)]
    #[schemars(regex(pattern = PATH))]
    pub(crate) host_netns: Given<At<String>>,
    /// Who may probe strict workloads in plaintext.
    #[serde(default)]
    pub(crate) prober: Given<Prober>,
    /// Where programs and maps are pinned; on a mounted bpffs.
    #[serde(default)]
    #[schemars(regex(pattern = PATH), extend("default" = "/sys/fs/bpf/martlet"))]
    pub(crate) pin: Given<At<String>>,
    /// Where the agent notes what it must restore.
    #[serde(default)]
    #[schemars(regex(pattern = PATH), extend("default" = "/var/lib/martlet"))]
    pub(crate) state: Given<At<String>>,
    /// The Unix socket that `martlet` talks to.
    #[serde(default)]
    #[schemars(
        regex(pattern = PATH),
        length(max = 107),
        extend("default" = "/run/martlet/agent.sock")
    )]
    pub(crate) socket: Given<At<String>>,
    /// Where metrics and health are served, or `off`.
    #[serde(default)]
    #[schemars(extend("default" = "127.0.0.1:15020"))]
    pub(crate) metrics: Given<At<String>>,
    /// Where access records go: `stdout`, `off`, or the path of a file.
    #[serde(default)]
    #[schemars(extend("default" = "stdout"))]
    pub(crate) access_log: Given<At<String>>,
    /// Who is told of connections by OTLP. Without it: nobody.
    #[serde(default)]
    pub(crate) traces: Given<At<Traces>>,
    /// What becomes of connections between permissive workloads while no agent lives on this node.
    #[serde(default)]
    #[schemars(extend("default" = "closed"))]
    pub(crate) failure: Given<Failure>,
}

/// A collector of traces, and of what it is told.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Traces {
    /// `http://` or `https://`, a name or an address, and the port where the collector takes OTLP over
    /// gRPC. With `http` what is said goes in the clear.
    #[schemars(regex(pattern = r"^https?://[^/:]+:[0-9]+$|^https?://\[[^/]+\]:[0-9]+$"))]
    pub(crate) endpoint: At<String>,
    /// With `https`: the file with the authorities, in PEM, one of which the collector's certificate
    /// leads to.
    #[serde(default)]
    #[schemars(regex(pattern = PATH))]
    pub(crate) authorities: Given<At<String>>,
    /// What part of all connections.
    #[serde(default)]
    #[schemars(with = "f64", extend("exclusiveMinimum" = 0, "maximum" = 1, "default" = 1))]
    pub(crate) ratio: Given<At<String>>,
}

/// The one whose connections to declared probe ports pass in plaintext, as kubelet's do.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub(crate) struct Prober {
    /// A cgroup v2; processes of it and of those below it are the prober.
    #[serde(default)]
    #[schemars(regex(pattern = PATH))]
    pub(crate) cgroup: Given<At<String>>,
    /// The name of a process of root's, outside of all pods: its cgroup is the prober.
    #[serde(default)]
    #[schemars(length(min = 1, max = 15))]
    pub(crate) process: Given<At<String>>,
}

/// A network namespace with an identity.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Workload {
    /// With `name`, unique among workloads; part of the identity.
    #[schemars(regex(pattern = NAME), length(max = 253))]
    pub(crate) namespace: At<String>,
    /// With `namespace`, unique among workloads.
    #[schemars(regex(pattern = NAME), length(max = 253))]
    pub(crate) name: At<String>,
    /// The identity is `spiffe://<trustDomain>/ns/<namespace>/sa/<serviceAccount>`.
    #[schemars(regex(pattern = NAME), length(max = 253))]
    pub(crate) service_account: At<String>,
    /// Of a workload of another cluster: its trust domain. Without it: this file's.
    #[serde(default)]
    #[schemars(regex(pattern = TRUST_DOMAIN), length(max = 255))]
    pub(crate) trust_domain: Given<At<String>>,
    /// The node that it runs on. Without it: this node.
    #[serde(default)]
    #[schemars(regex(pattern = NAME), length(max = 253))]
    pub(crate) node: Given<At<String>>,
    /// One IPv4 address, one IPv6 address, or one of each.
    #[schemars(length(min = 1, max = 2))]
    pub(crate) addresses: Texts,
    /// What a connection that arrives in plaintext meets.
    #[serde(default)]
    #[schemars(extend("default" = "permissive"))]
    pub(crate) mode: Given<Mode>,
    /// What becomes of UDP between it and the mesh, in both directions.
    #[serde(default)]
    #[schemars(extend("default" = "pass"))]
    pub(crate) udp: Given<Udp>,
    /// Ports at which this node's prober may probe it in plaintext while it is strict.
    #[serde(default)]
    #[schemars(with = "Vec<ProbePort>", length(min = 1, max = 16))]
    pub(crate) probes: Given<Texts>,
    /// Whether it is offered its identity over the SPIFFE Workload API. Refused on other nodes.
    #[serde(default)]
    #[schemars(extend("default" = false))]
    pub(crate) workload_api: Given<At<bool>>,
    /// How the agent finds the network namespace. Required on this node, refused on others.
    #[serde(default)]
    pub(crate) netns: Given<At<Netns>>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Mode {
    /// Enrolled callers use mutual TLS; plaintext from others is let in and counted.
    Permissive,
    /// Whatever is not mutual TLS from an enrolled caller is refused.
    Strict,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Failure {
    /// They are refused.
    Closed,
    /// They pass in plaintext and are counted, past every policy.
    Open,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Undecided {
    /// They can't connect to addresses of the mesh.
    Refuse,
    /// They are outside: what they open goes out in plaintext.
    Pass,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Udp {
    /// It passes unencrypted, and is counted.
    Pass,
    /// It is refused in the kernel, and counted.
    Refuse,
}

/// Exactly one of the keys.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Netns {
    /// A file that stands for the namespace, such as `/run/netns/web`.
    Path(#[schemars(regex(pattern = PATH))] At<String>),
    /// A process in the namespace.
    Pid(#[schemars(with = "u32", range(min = 1, max = 2147483647))] At<String>),
    /// A cgroup; the namespace is that of its processes.
    Cgroup(#[schemars(regex(pattern = PATH))] At<String>),
}

/// A virtual address. Two entries with one name make a service with both families.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Service {
    #[schemars(regex(pattern = NAME), length(max = 253))]
    pub(crate) namespace: At<String>,
    #[schemars(regex(pattern = NAME), length(max = 253))]
    pub(crate) name: At<String>,
    /// The address that callers connect to; no workload may have it.
    pub(crate) address: At<String>,
    #[schemars(length(min = 1))]
    pub(crate) ports: At<Vec<ServicePort>>,
}

/// A port of a virtual address.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ServicePort {
    #[schemars(with = "u16", range(min = 1))]
    pub(crate) port: At<String>,
    /// Addresses and ports of the service's own family. An empty list refuses every caller.
    #[schemars(inner(regex(pattern = ADDRESS_AND_PORT)))]
    pub(crate) endpoints: Vec<At<String>>,
}

/// Rules about connections to the selected workloads of a namespace.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Policy {
    /// The namespace of the workloads that it is about.
    #[schemars(regex(pattern = NAME), length(max = 253))]
    pub(crate) namespace: At<String>,
    /// Unique within the namespace; shown in refusals.
    #[schemars(regex(pattern = NAME), length(max = 253))]
    pub(crate) name: At<String>,
    pub(crate) action: Action,
    /// Which workloads of the namespace. Without it: all.
    #[serde(default)]
    pub(crate) selector: Given<Selector>,
    /// A connection is matched if one of the rules matches.
    #[schemars(length(min = 1))]
    pub(crate) rules: At<Vec<Rule>>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Action {
    /// What no rule of the selecting allow policies matches is refused.
    Allow,
    /// What a rule matches is refused, whatever is allowed elsewhere.
    Deny,
}

/// Which workloads of the policy's namespace.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Selector {
    /// The workloads with one of these service accounts.
    #[schemars(length(min = 1), inner(regex(pattern = NAME), length(max = 253)))]
    pub(crate) service_accounts: Texts,
}

/// Matches if the caller and the port match.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Rule {
    /// Shown in refusals. Without it: the rule's number.
    #[serde(default)]
    #[schemars(length(min = 1, max = 64))]
    pub(crate) name: Given<At<String>>,
    /// The callers. Without it: any.
    #[serde(default)]
    pub(crate) from: Given<At<Source>>,
    /// Ports and ranges like `9000-9100`. Without it: any.
    #[serde(default)]
    #[schemars(with = "Vec<PortOrRange>", length(min = 1))]
    pub(crate) ports: Given<Texts>,
}

/// Every key that is given must match, and of each key one entry.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub(crate) struct Source {
    /// A SPIFFE ID, or all below a path if it ends with `/`.
    #[serde(default)]
    #[schemars(length(min = 1), inner(regex(pattern = "^spiffe://")))]
    pub(crate) identities: Given<Texts>,
    /// Namespaces of callers, of any trust domain.
    #[serde(default)]
    #[schemars(length(min = 1), inner(regex(pattern = NAME), length(max = 253)))]
    pub(crate) namespaces: Given<Texts>,
    /// Trust domains of callers.
    #[serde(default)]
    #[schemars(length(min = 1), inner(regex(pattern = TRUST_DOMAIN), length(max = 255)))]
    pub(crate) trust_domains: Given<Texts>,
    /// Addresses of callers, or networks like `10.0.0.0/8`.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub(crate) addresses: Given<Texts>,
}

// Only for the schema: it is read as text.
#[derive(JsonSchema)]
#[schemars(inline)]
#[allow(dead_code, reason = "the schema is made from the type alone")]
struct ProbePort(#[schemars(range(min = 1))] u16);

// Only for the schema: both forms are read as text.
#[derive(JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
#[allow(dead_code, reason = "the schema is made from the type alone")]
enum PortOrRange {
    Port(#[schemars(range(min = 1))] u16),
    Range(#[schemars(regex(pattern = "^[0-9]+(-[0-9]+)?$"))] String),
}
