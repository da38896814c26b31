//! What a cluster says, as Martlet's nouns. Alone names kube.
//!
//! ```text
//!   API server ──watch──▶ seen ──▶ world ──▶ picture: workloads, services, policies, locals
//!              ◀──get──── attest: does this pod run there now?
//!              ◀──review─ attest: whose token is this?
//! ```
//!
//! | module | what it does |
//! |---|---|
//! | [`api`] | our own resources: what users write |
//! | [`seen`] | of each object, the part that matters here |
//! | [`watch`] | follows one kind of objects; a list that lacks some removes none of them unasked |
//! | [`world`] | from all objects to a picture; pure |
//! | [`attest`] | what only the API server itself may answer |
//! | [`publish`] | what everybody may read |
//! | [`standing`] | whether a pod is enrolled, said in its status |
//! | [`events`] | what is wrong with objects, said beside them |
//! | [`address`] | where agents find the controller |
//! | [`election`], [`lease`] | who of several is the controller |
//! | [`vault`] | what has to outlive the controller |
//! | [`installation`] | our own objects: applied, waited for, and taken away again |
//! | [`remote`] | Martlet's own pods, from a user's machine |

#![forbid(unsafe_code)]

pub mod address;
pub mod api;
pub mod attest;
pub mod election;
pub mod events;
pub mod installation;
pub mod lease;
mod limits;
pub mod publish;
pub mod remote;
pub mod seen;
pub mod standing;
pub mod vault;
pub mod watch;
pub mod world;

use std::path::Path;

use kube::config::{Kubeconfig, KubeconfigError};
pub use kube::{Client, Config, api::ObjectMeta, config::KubeConfigOptions};
use thiserror::Error;

/// Why there is no client of a cluster.
#[derive(Debug, Error)]
pub enum ClientError {
    #[error("no kubeconfig could be read")]
    Kubeconfig(#[source] Box<KubeconfigError>),
    #[error("a client could not be made of the kubeconfig")]
    Client(#[source] Box<kube::Error>),
}

/// As a user of kubectl reaches a cluster. Asks nobody yet.
///
/// # Errors
///
/// There is no kubeconfig, or nothing can be made of it.
pub async fn client(file: Option<&Path>, context: Option<&str>) -> Result<Client, ClientError> {
    let options =
        KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    let unread = |error| ClientError::Kubeconfig(Box::new(error));
    let config = match file {
        None => Config::from_kubeconfig(&options).await,
        Some(path) => {
            let read = Kubeconfig::read_from(path).map_err(unread)?;
            Config::from_custom_kubeconfig(read, &options).await
        }
    };
    let config = config.map_err(unread)?;
    Client::try_from(config).map_err(|error| ClientError::Client(Box::new(error)))
}

/// The label of namespaces and pods that says whether and how they are enrolled.
pub const MODE_LABEL: &str = "martlet.dev/mode";
