//! What is installed already.

use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment},
        core::v1::{ConfigMap, Namespace, Secret},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{Api, api::ListParams};

use super::{
    AGENT, AUTHORITY, CONTROLLER, InstallError, Installer, MANAGED_BY_LABEL, Named, PART_OF,
    SETTINGS, VALUES_ANNOTATION, VERSION_LABEL, if_there,
};

/// An installation in the system namespace, or what is left of one.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Without one: something is there that does not say it.
    pub version: Option<String>,
    /// `martlet`, or `Helm`.
    pub managed_by: Option<String>,
    /// What was said otherwise than the defaults, as JSON.
    pub values: Option<String>,
    pub has_agent: bool,
    pub has_controller: bool,
    pub has_settings: bool,
}

impl Installer {
    /// # Errors
    ///
    /// The server did not say.
    pub async fn found(&self) -> Result<Option<Found>, InstallError> {
        let controller = self.within::<Deployment>();
        let controller =
            if_there(&"Deployment martlet-controller", controller.get_metadata(CONTROLLER)).await?;
        let agent = self.within::<DaemonSet>();
        let agent = if_there(&"DaemonSet martlet-agent", agent.get_metadata(AGENT)).await?;
        let settings = self.within::<ConfigMap>();
        let settings = if_there(&"ConfigMap martlet", settings.get_metadata(SETTINGS)).await?;
        let metadata: Vec<_> = [
            controller.as_ref().map(|found| &found.metadata),
            agent.as_ref().map(|found| &found.metadata),
            settings.as_ref().map(|found| &found.metadata),
        ]
        .into_iter()
        .flatten()
        .collect();
        if metadata.is_empty() {
            return Ok(None);
        }
        let label =
            |key: &str| metadata.iter().find_map(|found| found.labels.as_ref()?.get(key).cloned());
        let values = |found: &kube::api::ObjectMeta| {
            found.annotations.as_ref()?.get(VALUES_ANNOTATION).cloned()
        };
        Ok(Some(Found {
            version: label(VERSION_LABEL),
            managed_by: label(MANAGED_BY_LABEL),
            values: settings.as_ref().and_then(|found| values(&found.metadata)),
            has_agent: agent.is_some(),
            has_controller: controller.is_some(),
            has_settings: settings.is_some(),
        }))
    }

    /// Which of these kinds the server has, each of which is given as `group/version/Kind`.
    ///
    /// # Errors
    ///
    /// The server did not say.
    pub async fn served<'a>(&self, kinds: &[&'a str]) -> Result<Vec<&'a str>, InstallError> {
        let mut served = Vec::new();
        for whole in kinds {
            let (version, kind) = whole.rsplit_once('/').unwrap_or(("v1", whole));
            let listed = if_there(whole, self.client.list_api_group_resources(version)).await?;
            let resources = listed.map(|listed| listed.resources).unwrap_or_default();
            if resources.iter().any(|resource| resource.kind == kind) {
                served.push(*whole);
            }
        }
        Ok(served)
    }

    /// The kinds of martlet.dev that there are, with their versions if they say them.
    ///
    /// # Errors
    ///
    /// The server did not say.
    pub async fn kinds(&self) -> Result<Vec<(Named, Option<String>)>, InstallError> {
        let api: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let listed = super::asked(&"kinds", api.list_metadata(&ListParams::default())).await?;
        let ours = listed.items.into_iter().filter_map(|found| {
            let name = found.metadata.name.filter(|name| name.ends_with(".martlet.dev"))?;
            let version = found.metadata.labels.and_then(|all| all.get(VERSION_LABEL).cloned());
            let named = Named {
                api_version: "apiextensions.k8s.io/v1".to_owned(),
                kind: "CustomResourceDefinition".to_owned(),
                namespace: None,
                name,
            };
            Some((named, version))
        });
        Ok(ours.collect())
    }

    /// Whether there is an authority's Secret, and whether the system namespace is ours.
    ///
    /// # Errors
    ///
    /// The server did not say.
    pub async fn remains(&self) -> Result<(bool, bool), InstallError> {
        let secret = self.within::<Secret>();
        let secret = if_there(&"Secret martlet-authority", secret.get_metadata(AUTHORITY)).await?;
        let spaces: Api<Namespace> = Api::all(self.client.clone());
        let space = if_there(&"the namespace", spaces.get_metadata(&self.namespace)).await?;
        let (key, value) = PART_OF.split_once('=').unwrap_or_default();
        let is_ours = space.is_some_and(|space| {
            space
                .metadata
                .labels
                .is_some_and(|all| all.get(key).is_some_and(|found| found == value))
        });
        Ok((secret.is_some(), is_ours))
    }

    /// What the controller has made in its namespace: what it makes again, and what it could not, which
    /// is the authority and what was in effect in the mesh last.
    pub fn made_by_controller(&self) -> (Vec<Named>, Vec<Named>) {
        let named = |api_version: &str, kind: &str, name: &str| Named {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            namespace: Some(self.namespace.clone()),
            name: name.to_owned(),
        };
        let again = vec![
            named("v1", "ConfigMap", crate::publish::ROOTS),
            named("coordination.k8s.io/v1", "Lease", CONTROLLER),
            // Of whichever version the server has.
            named("discovery.k8s.io/v1", "EndpointSlice", CONTROLLER),
            named("discovery.k8s.io/v1beta1", "EndpointSlice", CONTROLLER),
        ];
        let kept =
            vec![named("v1", "Secret", AUTHORITY), named("v1", "ConfigMap", crate::kept::SETTINGS)];
        (again, kept)
    }

    pub fn own_namespace(&self) -> Named {
        Named {
            api_version: "v1".to_owned(),
            kind: "Namespace".to_owned(),
            namespace: None,
            name: self.namespace.clone(),
        }
    }
}
