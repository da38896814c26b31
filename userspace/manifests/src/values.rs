//! What may differ between installations. The defaults are those of the chart's `values.yaml`.

use std::collections::BTreeMap;

use schemars::{JsonSchema, generate::SchemaSettings};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{Overrides, ValuesError, check};

pub(crate) const DEFAULTS: &str = include_str!("../../../deploy/helm/martlet/values.yaml");

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Values {
    /// The first part of every identity
    pub trust_domain: String,
    pub image: Image,
    pub log: Log,
    pub metrics: Metrics,
    pub traces: Traces,
    pub controller: Controller,
    pub agent: Agent,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Image {
    /// Without a tag
    pub repository: String,
    /// The version of what is installed, if it is empty
    pub tag: String,
    /// Used instead of the tag, if it is not empty
    pub digest: String,
    pub pull_policy: PullPolicy,
    /// Secrets of the system namespace
    pub pull_secrets: Vec<PullSecret>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PullSecret {
    pub name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// As in RUST_LOG
    pub level: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

/// How Prometheus finds what controller and agents count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metrics {
    /// prometheus.io annotations on the pods
    pub annotations: bool,
    /// A PodMonitor, where the Prometheus operator is
    pub pod_monitor: bool,
}

/// Who is told of connections by OTLP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Traces {
    /// A collector's URL, for OTLP over gRPC; nobody is told anything if it is empty
    #[schemars(regex(pattern = r"^(https?://[A-Za-z0-9.:\[\]-]+:[0-9]+)?$"))]
    pub endpoint: String,
    /// What part of all connections, above 0 and up to 1
    pub ratio: f64,
    /// With https: a ConfigMap of the system namespace, whose ca.crt has the authorities
    pub authorities: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Controller {
    /// For Prometheus and for probes
    #[schemars(range(min = 1))]
    pub metrics_port: u16,
    /// As in a container's spec
    pub resources: BTreeMap<String, Value>,
    /// As in a pod's spec
    pub node_selector: BTreeMap<String, String>,
    /// As in a pod's spec
    pub tolerations: Vec<BTreeMap<String, Value>>,
    /// Besides those that are there anyway
    pub pod_annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Agent {
    /// For Prometheus and for probes
    #[schemars(range(min = 1))]
    pub metrics_port: u16,
    /// As in a container's spec
    pub resources: BTreeMap<String, Value>,
    /// As in a pod's spec
    pub node_selector: BTreeMap<String, String>,
    /// As in a pod's spec
    pub tolerations: Vec<BTreeMap<String, Value>>,
    /// Besides those that are there anyway
    pub pod_annotations: BTreeMap<String, String>,
    /// Nodes come with the taint martlet.dev/not-ready, and lose it when their agents are ready
    pub startup_taint: bool,
    pub cni: Cni,
    /// All of a privileged container's rights instead of three capabilities
    pub privileged: bool,
    /// The name of the process that may probe strict pods in plaintext
    #[schemars(length(min = 1, max = 15))]
    pub prober: String,
}

/// The plugin of the container network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cni {
    /// A pod has a network only when the node's agent is ready
    pub enabled: bool,
    /// Takes the plugin away from all nodes, where it is enabled
    pub remove: bool,
    /// Where the nodes' container runtime looks for plugins
    pub programs: String,
    /// Where it looks for networks
    pub networks: String,
    /// Namespaces whose pods have a network also without the agent
    pub exempt: Vec<String>,
}

impl Values {
    /// The defaults, but for what is said otherwise.
    ///
    /// # Errors
    ///
    /// A key is not known, or what stands there makes no sense.
    pub fn with(overrides: &Overrides) -> Result<Self, ValuesError> {
        let defaults = Overrides::read("the defaults", DEFAULTS)?;
        check::shape(&overrides.value(), &defaults.value())?;
        let merged = defaults.and(overrides.clone()).value();
        let read = serde_json::from_value(merged);
        let values: Self = read.map_err(|error| ValuesError::Refused(vec![error.to_string()]))?;
        check::meaning(&values)?;
        Ok(values)
    }

    /// As the chart says it to Helm.
    pub fn schema() -> Value {
        let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
        let mut schema = settings.into_generator().into_root_schema_for::<Self>().to_value();
        // A chart of which this one is a part hands it these.
        schema["properties"]["global"] = json!({ "type": "object" });
        // What is not said has its default.
        optional(&mut schema);
        schema
    }
}

fn optional(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.remove("required");
            fields.values_mut().for_each(optional);
        }
        Value::Array(all) => all.iter_mut().for_each(optional),
        _ => {}
    }
}
