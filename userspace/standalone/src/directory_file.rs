//! The controller's directory file: what there is on all nodes.

use std::sync::Arc;

use martlet_model::{LocalWorkload, Service, TrustDomain, Workload};
use martlet_policy::Policy;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    check,
    file::{self, TRUST_DOMAIN},
    mark::At,
    problem::NodeFileError,
    yaml,
};

/// What there is on all nodes: workloads, each with the node that it runs on, services and policies.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(title = "Martlet directory file")]
pub(crate) struct Shape {
    /// The trust domain of all identities in this file; that of the controller.
    #[schemars(regex(pattern = TRUST_DOMAIN), length(max = 255))]
    pub(crate) trust_domain: At<String>,
    /// All workloads. Each needs `node` and `netns`.
    #[serde(default)]
    pub(crate) workloads: Vec<At<file::Workload>>,
    /// Virtual addresses and the endpoints behind them.
    #[serde(default)]
    pub(crate) services: Vec<file::Service>,
    /// Who may talk to whom. A workload that no policy selects may be called by every workload.
    #[serde(default)]
    pub(crate) policies: Vec<file::Policy>,
}

/// What a valid directory file says.
#[derive(Debug, Clone)]
pub struct DirectoryFile {
    pub trust_domain: TrustDomain,
    pub workloads: Vec<Arc<Workload>>,
    pub services: Vec<Arc<Service>>,
    pub policies: Vec<Arc<Policy>>,
    /// All workloads again, with what the agents of their nodes need beyond.
    pub local: Vec<LocalWorkload>,
}

impl DirectoryFile {
    /// `name` stands before each problem, as compilers do it.
    pub fn parse(text: &str, name: &str) -> Result<Self, NodeFileError> {
        let shape = yaml::read(text).map_err(|problem| NodeFileError::one(name, problem))?;
        check::directory(&shape).map_err(|findings| NodeFileError::all(name, findings))
    }

    /// The file's JSON schema.
    pub fn schema() -> Value {
        schemars::schema_for!(Shape).to_value()
    }
}
