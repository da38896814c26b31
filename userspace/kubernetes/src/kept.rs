//! What is set for the whole mesh, as it was in effect last: a ConfigMap that only the controller
//! writes, so that a controller that begins knows it, whatever has become of the object meanwhile.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{ObjectMeta, Patch, PatchParams},
};
use martlet_model::Label;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    api::{DefaultMode, FailureChoice, MeshConfigSpec, MeshSettings, UdpChoice},
    publish::{MANAGER, answered},
};

/// The ConfigMap, in the namespace of Martlet itself.
pub const SETTINGS: &str = "martlet-settings";
const KEY: &str = "settings.json";

/// What is set for the whole mesh, and by what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mesh {
    pub settings: MeshSettings,
    /// `None`: there is no object, and these are the defaults.
    pub by: Option<By>,
}

/// A generation of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct By {
    pub uid: Arc<str>,
    pub generation: i64,
}

/// Why it is not known what was in effect.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeptError {
    #[error("{0}")]
    Unavailable(String),
    #[error("the ConfigMap {SETTINGS} cannot be read: {0}")]
    Unreadable(String),
}

/// What a later version adds says nothing to this one.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    /// Always written: what lacks it was not written by us.
    default_mode: DefaultMode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failure: Option<FailureChoice>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    udp: Option<UdpChoice>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<KeptBy>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptBy {
    uid: String,
    generation: i64,
}

/// The defaults if nothing was ever kept.
///
/// # Errors
///
/// See [`KeptError`].
pub async fn read(client: &Client, namespace: &Label) -> Result<Mesh, KeptError> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace.as_str());
    let found = answered(api.get_opt(SETTINGS)).await.map_err(KeptError::Unavailable)?;
    let Some(map) = found else { return Ok(Mesh::default()) };
    let text = map.data.unwrap_or_default().remove(KEY);
    let text = text.ok_or_else(|| KeptError::Unreadable(format!("it has no {KEY}")))?;
    mesh(&text)
}

/// Keeps it, by server-side apply.
///
/// # Errors
///
/// The server did not answer, or did not take it.
pub async fn write(client: &Client, namespace: &Label, mesh: &Mesh) -> Result<(), String> {
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(SETTINGS.to_owned()),
            namespace: Some(namespace.to_string()),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(KEY.to_owned(), text(mesh))])),
        ..ConfigMap::default()
    };
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace.as_str());
    let parameters = PatchParams::apply(MANAGER).force();
    answered(api.patch(SETTINGS, &parameters, &Patch::Apply(&map))).await.map(drop)
}

fn text(mesh: &Mesh) -> String {
    let MeshConfigSpec { default_mode, failure, udp, .. } = mesh.settings.spec();
    let default_mode = default_mode.unwrap_or(DefaultMode::Off);
    let by = mesh.by.as_ref();
    let by = by.map(|by| KeptBy { uid: by.uid.to_string(), generation: by.generation });
    let kept = Kept { default_mode, failure, udp, by };
    serde_json::to_string(&kept).expect("it is JSON")
}

fn mesh(text: &str) -> Result<Mesh, KeptError> {
    let kept = serde_json::from_str(text);
    let kept: Kept = kept.map_err(|error| KeptError::Unreadable(error.to_string()))?;
    let Kept { default_mode, failure, udp, by } = kept;
    let default_mode = Some(default_mode);
    let spec = MeshConfigSpec { default_mode, failure, udp, trust_domain: None };
    let by = by.map(|by| By { uid: by.uid.into(), generation: by.generation });
    Ok(Mesh { settings: MeshSettings::from(&spec), by })
}

#[cfg(test)]
mod tests {
    use martlet_model::{Failure, Mode, Udp};

    use super::*;

    #[test]
    fn what_is_kept_is_what_was_in_effect() {
        let settings = MeshSettings {
            default_mode: Some(Mode::Strict),
            failure: Some(Failure::Open),
            udp: Some(Udp::Refuse),
        };
        let by = Some(By { uid: "1-2".into(), generation: 7 });
        for kept in [Mesh { settings, by }, Mesh::default()] {
            assert_eq!(mesh(&text(&kept)).unwrap(), kept);
        }
    }

    #[test]
    fn what_a_later_version_keeps_is_read_as_far_as_it_is_known_and_nonsense_is_not() {
        let later = mesh(r#"{"defaultMode": "strict", "tracing": "all"}"#).unwrap();
        assert_eq!(later.settings.default_mode, Some(Mode::Strict));
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"defaultMode": "stricter"}"#,
            r#"{"defaultMode": "off", "by": {"uid": 1}}"#,
        ] {
            assert!(matches!(mesh(bad), Err(KeptError::Unreadable(_))), "{bad}");
        }
    }
}
