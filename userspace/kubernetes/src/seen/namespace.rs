//! A namespace: its name, and whether its pods are enrolled.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use kube::{Resource, api::ObjectMeta};
use martlet_model::Label;
use serde::Deserialize;

use super::{Problem, Wanted};

#[derive(Debug, Clone, Resource, Deserialize)]
#[resource(inherit = "core::Namespace")]
pub struct NamespaceObject {
    pub metadata: ObjectMeta,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    pub name: Label,
    pub uid: Arc<str>,
    pub wanted: Option<Wanted>,
}

impl TryFrom<NamespaceObject> for Namespace {
    type Error = Problem;

    fn try_from(object: NamespaceObject) -> Result<Self, Problem> {
        let name = object.metadata.name.unwrap_or_default();
        let name = name.parse().map_err(|error| Problem::new("Name", format!("{error}")))?;
        let wanted = Wanted::of(object.metadata.labels.as_ref());
        Ok(Self { name, uid: object.metadata.uid.unwrap_or_default().into(), wanted })
    }
}
