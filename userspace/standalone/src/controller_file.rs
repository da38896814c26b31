//! The controller's own file: where it listens, and where it keeps what it keeps.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use martlet_model::TrustDomain;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    check,
    file::{HOST_AND_PORT, PATH, TRUST_DOMAIN},
    mark::{At, Given, Texts},
    problem::NodeFileError,
    yaml,
};

/// How a controller runs in standalone mode.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(title = "Martlet controller file")]
pub(crate) struct Shape {
    /// The trust domain whose authority this is.
    #[schemars(regex(pattern = TRUST_DOMAIN), length(max = 255))]
    pub(crate) trust_domain: At<String>,
    /// The directory file (docs/directory-file.md).
    #[schemars(regex(pattern = PATH))]
    pub(crate) directory: At<String>,
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
}

/// What a valid controller file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerFile {
    pub trust_domain: TrustDomain,
    pub directory: PathBuf,
    /// Host and port, as agents write it.
    pub address: Option<String>,
    pub listen: Vec<SocketAddr>,
    pub state: PathBuf,
    pub socket: PathBuf,
    /// `None`: off.
    pub metrics: Option<SocketAddr>,
    pub leaf_lifetime: Duration,
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
