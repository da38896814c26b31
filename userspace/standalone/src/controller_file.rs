//! The controller's own file: where it listens, and where it keeps what it keeps.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use martlet_model::{Label, TrustDomain, Udp};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    check,
    federated::{BundleEndpoint, BundleEndpointShape, Federated, FederatedShape},
    file::{self, HOST_AND_PORT, NAME, PATH, TRUST_DOMAIN},
    mark::{At, Given, Texts},
    problem::NodeFileError,
    yaml,
};

/// How a controller runs, and by what it knows what there is on the nodes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(
    title = "Martlet controller file",
    extend("oneOf" = [{ "required": ["directory"] }, { "required": ["kubernetes"] }])
)]
pub(crate) struct Shape {
    /// The trust domain whose authority this is.
    #[schemars(regex(pattern = TRUST_DOMAIN), length(max = 255))]
    pub(crate) trust_domain: At<String>,
    /// The directory file (docs/controller-file.md). Either this or `kubernetes`.
    #[serde(default)]
    #[schemars(regex(pattern = PATH))]
    pub(crate) directory: Given<At<String>>,
    /// The cluster that this controller runs in, or that a kubeconfig names, says what there is.
    #[serde(default)]
    pub(crate) kubernetes: Given<At<Kubernetes>>,
    /// Hosts that have certificates of an authority of yours may join by them, beside those that have
    /// join tokens. Only with `directory`.
    #[serde(default)]
    pub(crate) hosts: Given<At<HostsShape>>,
    /// How agents reach this controller; written into the snippet that `martlet node join` prints.
    /// Without it: the first address of `listen`, if that is one.
    #[schemars(regex(pattern = HOST_AND_PORT), length(max = 259))]
    #[serde(default)]
    pub(crate) address: Given<At<String>>,
    /// Where agents are listened for.
    #[serde(default)]
    #[schemars(with = "Vec<String>", length(min = 1, max = 16), extend("default" = ["0.0.0.0:15012"]))]
    pub(crate) listen: Given<Texts>,
    /// Keeps the authority, its log, and who the nodes are.
    #[serde(default)]
    #[schemars(regex(pattern = PATH), extend("default" = "/var/lib/martlet-controller"))]
    pub(crate) state: Given<At<String>>,
    /// The Unix socket that `martlet` talks to.
    #[serde(default)]
    #[schemars(
        regex(pattern = PATH),
        length(max = 107),
        extend("default" = "/run/martlet/controller.sock")
    )]
    pub(crate) socket: Given<At<String>>,
    /// Where metrics and health are served, or `off`.
    #[serde(default)]
    #[schemars(extend("default" = "127.0.0.1:15021"))]
    pub(crate) metrics: Given<At<String>>,
    /// How long workloads' certificates live: from `10m` to `24h`.
    #[serde(default)]
    #[schemars(regex(pattern = "^[0-9]+[mh]$"), extend("default" = "24h"))]
    pub(crate) leaf_lifetime: Given<At<String>>,
    /// Other trust domains whose roots are fetched from where they publish them.
    #[serde(default)]
    #[schemars(with = "Vec<FederatedShape>", length(min = 1, max = 256))]
    pub(crate) federation: Given<At<Vec<At<FederatedShape>>>>,
    /// Where the own roots are published for other trust domains. Without it: nowhere.
    #[serde(default)]
    pub(crate) bundle_endpoint: Given<At<BundleEndpointShape>>,
}

/// Whose certificates make a host a node.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct HostsShape {
    /// The file with the authorities' certificates, in PEM. It is read whenever a host joins.
    #[schemars(regex(pattern = PATH))]
    pub(crate) authorities: At<String>,
    /// A host's certificate is for the name `NODE.DOMAIN`; without this for `NODE`.
    #[serde(default)]
    #[schemars(regex(pattern = NAME), length(max = 253))]
    pub(crate) domain: Given<At<String>>,
}

/// What a cluster has of Martlet's.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Kubernetes {
    /// The namespace that Martlet itself runs in. Nothing in it is enrolled.
    #[serde(default)]
    #[schemars(regex(pattern = NAME), length(max = 253), extend("default" = SYSTEM_NAMESPACE))]
    pub(crate) namespace: Given<At<String>>,
    /// The service account of the agents' pods.
    #[serde(default)]
    #[schemars(regex(pattern = NAME), length(max = 253), extend("default" = AGENT))]
    pub(crate) agent_service_account: Given<At<String>>,
    /// The audience of the agents' tokens.
    #[serde(default)]
    #[schemars(length(min = 1, max = 253), extend("default" = AUDIENCE))]
    pub(crate) audience: Given<At<String>>,
    /// What becomes of UDP between workloads and the mesh.
    #[serde(default)]
    pub(crate) udp: Given<file::Udp>,
    /// The taint `martlet.dev/not-ready` is taken off nodes whose agents are ready.
    #[serde(default)]
    #[schemars(extend("default" = false))]
    pub(crate) startup_taint: Given<At<bool>>,
}

pub(crate) const SYSTEM_NAMESPACE: &str = "martlet-system";
pub(crate) const AGENT: &str = "martlet-agent";
pub(crate) const AUDIENCE: &str = "martlet-controller";

/// What a valid controller file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerFile {
    pub trust_domain: TrustDomain,
    pub knows: Knows,
    pub hosts: Option<Hosts>,
    /// Host and port, as agents write it.
    pub address: Option<String>,
    pub listen: Vec<SocketAddr>,
    pub state: PathBuf,
    pub socket: PathBuf,
    /// `None`: off.
    pub metrics: Option<SocketAddr>,
    pub leaf_lifetime: Duration,
    /// Each trust domain once, and never the own one.
    pub federated: Vec<Federated>,
    pub bundle_endpoint: Option<BundleEndpoint>,
}

/// Whose certificates make a host a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hosts {
    pub authorities: PathBuf,
    /// What stands behind a node's name in its host's.
    pub domain: Option<Label>,
}

/// By what a controller knows what there is on the nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Knows {
    Directory(PathBuf),
    Cluster(InCluster),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InCluster {
    pub namespace: Label,
    pub agent_service_account: Label,
    pub audience: String,
    pub udp: Udp,
    /// Whether it is taken off nodes whose agents are ready.
    pub startup_taint: bool,
}

/// For all addresses of this machine; the port is that at which meshes listen for such things.
pub(crate) const LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 15012);
pub(crate) const METRICS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15021);

impl ControllerFile {
    /// `name` stands before each problem, as compilers do it.
    pub fn parse(text: &str, name: &str) -> Result<Self, NodeFileError> {
        let shape = yaml::read(text).map_err(|problem| NodeFileError::one(name, problem))?;
        check::controller(&shape).map_err(|findings| NodeFileError::all(name, findings))
    }

    /// Host and port by which agents reach it, if that is known.
    pub fn reached_at(&self) -> Option<String> {
        let first = self.listen.first().filter(|first| !first.ip().is_unspecified());
        self.address.clone().or_else(|| first.map(ToString::to_string))
    }

    /// The file's JSON schema.
    pub fn schema() -> Value {
        schemars::schema_for!(Shape).to_value()
    }
}
