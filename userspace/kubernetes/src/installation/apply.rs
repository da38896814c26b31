//! Server-side apply: what is ours in an object is ours, and what others have set stays theirs.

use std::collections::BTreeSet;

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, PropagationPolicy},
};
use serde_json::Value;

use super::{InstallError, Installer, MANAGED_BY_LABEL, Named, PART_OF, asked, if_there};

const MANAGER: &str = "martlet";

/// Of what Martlet consists, in the order in which it is taken away: what runs first, and last what
/// it runs as.
const KINDS: [(&str, &str, bool); 11] = [
    ("apps/v1", "DaemonSet", true),
    ("apps/v1", "Deployment", true),
    ("v1", "Service", true),
    ("policy/v1", "PodDisruptionBudget", true),
    ("monitoring.coreos.com/v1", "PodMonitor", true),
    ("v1", "ConfigMap", true),
    ("rbac.authorization.k8s.io/v1", "RoleBinding", true),
    ("rbac.authorization.k8s.io/v1", "Role", true),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", false),
    ("rbac.authorization.k8s.io/v1", "ClusterRole", false),
    ("v1", "ServiceAccount", true),
];

/// How objects are applied.
#[derive(Debug, Clone, Copy, Default)]
pub struct Manner {
    /// Fields that somebody else has set become ours.
    pub force: bool,
    /// The server looks at everything, and keeps nothing.
    pub dry_run: bool,
}

/// What has become of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Created,
    Changed,
    Same,
    /// Its namespace or its kind is not there yet, so that the server cannot look at it.
    Unseen,
}

impl Installer {
    /// Which rights are missing of those that applying takes, such as `create deployments.apps`.
    ///
    /// # Errors
    ///
    /// The server did not say.
    pub async fn missing_rights(&self, objects: &[Value]) -> Result<Vec<String>, InstallError> {
        let reviews: Api<SelfSubjectAccessReview> = Api::all(self.client.clone());
        let kinds = objects.iter().map(|object| {
            let named = Named::of(object);
            let resource = named.resource();
            (resource.group, resource.plural, named.namespace)
        });
        let mut missing = Vec::new();
        for (group, plural, namespace) in kinds.collect::<BTreeSet<_>>() {
            for verb in ["get", "create", "patch"] {
                let attributes = ResourceAttributes {
                    group: Some(group.clone()),
                    resource: Some(plural.clone()),
                    namespace: namespace.clone(),
                    verb: Some(verb.to_owned()),
                    ..ResourceAttributes::default()
                };
                let review = SelfSubjectAccessReview {
                    spec: SelfSubjectAccessReviewSpec {
                        resource_attributes: Some(attributes),
                        non_resource_attributes: None,
                    },
                    ..SelfSubjectAccessReview::default()
                };
                let parameters = PostParams::default();
                let answer = asked(&"your rights", reviews.create(&parameters, &review)).await?;
                if !answer.status.is_some_and(|status| status.allowed) {
                    let dotted = if group.is_empty() { "" } else { "." };
                    let within = match &namespace {
                        Some(namespace) => format!(" in namespace {namespace}"),
                        None => String::new(),
                    };
                    missing.push(format!("{verb} {plural}{dotted}{group}{within}"));
                }
            }
        }
        Ok(missing)
    }

    /// # Errors
    ///
    /// The server did not take it.
    pub async fn apply(&self, object: &Value, manner: Manner) -> Result<Change, InstallError> {
        let named = Named::of(object);
        let api = self.api(&named);
        let version = |metadata: kube::api::ObjectMeta| metadata.resource_version;
        let before = if_there(&named, api.get_metadata(&named.name)).await?;
        let parameters = PatchParams {
            dry_run: manner.dry_run,
            force: manner.force,
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::Apply(object);
        let after = api.patch_metadata(&named.name, &parameters, &patch);
        let after = match manner.dry_run {
            true => if_there(&named, after).await?,
            false => Some(asked(&named, after).await?),
        };
        Ok(match (before, after) {
            (_, None) => Change::Unseen,
            (None, Some(_)) => Change::Created,
            (Some(before), Some(after)) => {
                let is_same = match manner.dry_run {
                    true => {
                        before.metadata.generation == after.metadata.generation
                            && before.metadata.labels == after.metadata.labels
                            && before.metadata.annotations == after.metadata.annotations
                    }
                    false => version(before.metadata) == version(after.metadata),
                };
                if is_same { Change::Same } else { Change::Changed }
            }
        })
    }

    /// The objects that `martlet` has applied once, and that are not in `kept`.
    ///
    /// # Errors
    ///
    /// The server did not say.
    pub async fn stale(&self, kept: &[Value]) -> Result<Vec<Named>, InstallError> {
        let kept: BTreeSet<_> = kept.iter().map(Named::of).collect();
        let ours = self.own(&format!("{PART_OF},{MANAGED_BY_LABEL}={MANAGER}")).await?;
        Ok(ours.into_iter().filter(|named| !kept.contains(named)).collect())
    }

    /// All that is Martlet's but its namespace, what the controller has made, and the kinds.
    ///
    /// # Errors
    ///
    /// The server did not say.
    pub async fn everything(&self) -> Result<Vec<Named>, InstallError> {
        self.own(PART_OF).await
    }

    async fn own(&self, labels: &str) -> Result<Vec<Named>, InstallError> {
        let mut found = Vec::new();
        for (api_version, kind, is_namespaced) in KINDS {
            let any = Named {
                api_version: api_version.to_owned(),
                kind: kind.to_owned(),
                namespace: is_namespaced.then(|| self.namespace.clone()),
                name: String::new(),
            };
            let chosen = ListParams::default().labels(labels);
            // A server that does not know the kind has none of it.
            let listed = if_there(&kind, self.api(&any).list_metadata(&chosen)).await?;
            let items = listed.map(|listed| listed.items).unwrap_or_default();
            let names = items.into_iter().filter_map(|object| object.metadata.name);
            found.extend(names.map(|name| Named { name, ..any.clone() }));
        }
        Ok(found)
    }

    /// Whether it was there.
    ///
    /// # Errors
    ///
    /// The server did not do it.
    pub async fn delete(&self, named: &Named) -> Result<bool, InstallError> {
        let parameters = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            ..DeleteParams::default()
        };
        let api = self.api(named);
        Ok(if_there(named, api.delete(&named.name, &parameters)).await?.is_some())
    }
}
