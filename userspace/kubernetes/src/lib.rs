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
//! | [`taint`] | what keeps pods off a node until its agent is ready |
//! | [`events`] | what is wrong with objects, said beside them |
//! | [`address`] | where agents find the controller |
//! | [`election`], [`lease`] | who of several is the controller |
//! | [`kept`] | what was set for the whole mesh last |
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
pub mod kept;
pub mod lease;
mod limits;
pub mod publish;
pub mod remote;
pub mod seen;
pub mod standing;
pub mod taint;
pub mod vault;
pub mod watch;
pub mod world;

pub use kube::{Client, Config, api::ObjectMeta, config::KubeConfigOptions};

/// The label of namespaces and pods that says whether and how they are enrolled.
pub const MODE_LABEL: &str = "martlet.dev/mode";
