//! Martlet's own objects in a cluster: putting them there, waiting for what comes of it, and taking
//! them away again.
//!
//! | module | what it does |
//! |---|---|
//! | [`apply`] | server-side apply of one object, and what that has changed |
//! | [`found`] | what is installed already, and in which version |
//! | [`rollout`] | waits until everything runs |
//! | [`ending`] | waits for pods to end |
//! | [`leave`] | lets every node be left as agents found it |
//! | [`silence`] | takes back what was said of pods' enrolment |

mod apply;
mod ending;
mod found;
mod leave;
mod rollout;
mod silence;

pub use apply::{Change, Manner};
pub use found::Found;
pub use leave::Left;
pub use silence::Silenced;

use std::{fmt, time::Duration};

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject},
    core::GroupVersionKind,
};
use serde_json::Value;
use thiserror::Error;
use tokio::time::{Instant, timeout};

use crate::limits;

/// Where values are remembered that differ from the defaults: on the ConfigMap with the settings.
pub const VALUES_ANNOTATION: &str = "martlet.dev/values";
const SETTINGS: &str = "martlet";
const AGENT: &str = "martlet-agent";
const CONTROLLER: &str = "martlet-controller";
const AUTHORITY: &str = "martlet-authority";
const PART_OF: &str = "app.kubernetes.io/part-of=martlet";
const NAME_LABEL: &str = "app.kubernetes.io/name";
const VERSION_LABEL: &str = "app.kubernetes.io/version";
const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";

/// Why something could not be done to a cluster.
#[derive(Debug, Error)]
pub enum InstallError {
    #[error("the API server could not be reached")]
    Unreachable(#[source] Box<kube::Error>),
    #[error("the API server did not answer about {0} in time")]
    Silent(String),
    #[error("no right to do that with {object}: {said}")]
    Forbidden { object: String, said: String },
    #[error("{object} has been changed by somebody else: {said}")]
    Conflict { object: String, said: String },
    #[error("the API server refuses {object}: {said}")]
    Refused { object: String, said: String },
    #[error("{what} after {} s{}", .waited.as_secs(), .why.as_deref().map(|why| format!(": {why}")).unwrap_or_default())]
    TooLong { what: String, waited: Duration, why: Option<String> },
    #[error("nodes could not be left: {}", .0.join("; "))]
    Nodes(Vec<String>),
}

/// What is done to one cluster, for one system namespace.
#[derive(Clone)]
pub struct Installer {
    client: Client,
    namespace: String,
}

/// An object by its kind and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    pub api_version: String,
    pub kind: String,
    pub namespace: Option<String>,
    pub name: String,
}

impl Installer {
    pub fn new(client: Client, namespace: &str) -> Self {
        Self { client, namespace: namespace.to_owned() }
    }

    fn within<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn api(&self, named: &Named) -> Api<DynamicObject> {
        let resource = named.resource();
        match &named.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }
}

impl Named {
    /// Of an object of ours, which has all of it.
    pub fn of(object: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Self {
            api_version: text(&object["apiVersion"]),
            kind: text(&object["kind"]),
            namespace: object["metadata"]["namespace"].as_str().map(str::to_owned),
            name: text(&object["metadata"]["name"]),
        }
    }

    fn resource(&self) -> ApiResource {
        let (group, version) = self.api_version.split_once('/').unwrap_or(("", &self.api_version));
        ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &self.kind))
    }
}

impl fmt::Display for Named {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(to, "{} {namespace}/{}", self.kind, self.name),
            None => write!(to, "{} {}", self.kind, self.name),
        }
    }
}

/// What the server says about an object, if it does in time.
async fn asked<T>(
    object: &impl fmt::Display,
    question: impl Future<Output = kube::Result<T>>,
) -> Result<T, InstallError> {
    match timeout(limits::INSTALL_QUESTION, question).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) => {
            let (object, said) = (object.to_string(), status.message.clone());
            Err(match status.code {
                401 | 403 => InstallError::Forbidden { object, said },
                409 => InstallError::Conflict { object, said },
                _ => InstallError::Refused { object, said },
            })
        }
        Ok(Err(error)) => Err(InstallError::Unreachable(Box::new(error))),
        Err(_) => Err(InstallError::Silent(object.to_string())),
    }
}

/// The same, where it may be that there is no such object, or no such kind.
async fn if_there<T>(
    object: &impl fmt::Display,
    question: impl Future<Output = kube::Result<T>>,
) -> Result<Option<T>, InstallError> {
    let question = async {
        match question.await {
            Ok(answer) => Ok(Some(answer)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(error),
        }
    };
    asked(object, question).await
}

/// Looks again and again until `look` finds nothing to wait for any more, and tells each new reason
/// to wait.
async fn until(
    what: &str,
    patience: Duration,
    tell: &mut dyn FnMut(&str),
    mut look: impl AsyncFnMut() -> Result<Option<String>, InstallError>,
) -> Result<(), InstallError> {
    let (began, mut last) = (Instant::now(), String::new());
    loop {
        match look().await? {
            None => return Ok(()),
            Some(why) if began.elapsed() >= patience => {
                let what = format!("still waiting for {what}");
                return Err(InstallError::TooLong { what, waited: patience, why: Some(why) });
            }
            Some(why) => {
                if why != last {
                    tell(&why);
                    last = why;
                }
            }
        }
        tokio::time::sleep(limits::INSTALL_LOOK).await;
    }
}
