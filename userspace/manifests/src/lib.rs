//! What is installed into a cluster: one template with comments, and the values that may differ.
//!
//! ```text
//!   template/*.yaml ─┬─ rendered by minijinja ──▶ `martlet install`, deploy/kubernetes
//!                    └─ written as Go's ────────▶ deploy/helm/martlet/templates
//!   deploy/helm/martlet/values.yaml: the defaults of both
//! ```
//!
//! The template uses Helm's names (`Values`, `Release`, `Chart`) and no more than [`chart`] can say in
//! the other language.

#![forbid(unsafe_code)]

pub mod chart;
mod check;
mod overrides;
mod render;
mod values;

pub use overrides::Overrides;
pub use render::{NAMESPACE, manifests, objects};
pub use values::{
    Agent, Cni, Controller, Image, Log, LogFormat, Metrics, PullPolicy, Traces, Values,
};

use thiserror::Error;

/// Of what is installed.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The kinds of martlet.dev, as YAML.
pub const DEFINITIONS: &str = include_str!("../../../deploy/kubernetes/crds.yaml");

/// Of ours, but not known to every API server: from Kubernetes 1.21, and where the Prometheus operator
/// is.
pub const BUDGET: &str = "policy/v1/PodDisruptionBudget";
pub const POD_MONITOR: &str = "monitoring.coreos.com/v1/PodMonitor";
/// Not of ours: every server from Kubernetes 1.23 on has it, and DaemonSets make the next pod before
/// the one that is there is gone since 1.22.
pub const SURGE: &str = "autoscaling/v2/HorizontalPodAutoscaler";

/// Whose every object of ours says to be.
pub const PART_OF: (&str, &str) = ("app.kubernetes.io/part-of", "martlet");
/// Of those that `martlet` has applied; the chart's say `Helm`.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "martlet");
pub const VERSION_LABEL: &str = "app.kubernetes.io/version";

/// Why values are not taken.
#[derive(Debug, Error)]
pub enum ValuesError {
    #[error("{0} is not YAML: {1}")]
    NotYaml(String, String),
    #[error("{0}: values are written as a map of keys")]
    NotMap(String),
    #[error("{0:?} is not KEY=VALUE, such as image.tag=1.2.3")]
    NotPair(String),
    #[error("{}", .0.join("\n       "))]
    Refused(Vec<String>),
}
