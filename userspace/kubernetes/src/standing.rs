//! Whether a pod is enrolled, said in a condition of its status.
//!
//! A condition and not an annotation: it has a reason, a text and a time, `kubectl wait` waits for it,
//! and a pod may name it among its readiness gates. It is written by its key, so that kubelet's own
//! conditions and those of others are not touched, and never read to decide anything.

use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use martlet_model::WorkloadName;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    limits,
    publish::{MANAGER, now},
    seen::PodObject,
};

/// Its type.
pub const CONDITION: &str = "martlet.dev/enrolled";

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Said {
    /// `True` or `False`.
    pub status: String,
    /// One word.
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub message: String,
}

impl Said {
    pub fn new(is_enrolled: bool, reason: &str, message: &str) -> Self {
        let status = if is_enrolled { "True" } else { "False" }.to_owned();
        let end = message.floor_char_boundary(limits::STANDING_BYTES);
        Self { status, reason: reason.to_owned(), message: message[..end].to_owned() }
    }
}

/// What has become of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    Yes,
    /// There is no such pod any more, or it is another life of its name.
    NoSuchPod,
}

/// Says it of this life of a pod; `None` takes back what was said.
///
/// # Errors
///
/// The server did not answer, or did not take it.
pub async fn say(
    client: &Client,
    pod: &WorkloadName,
    uid: &str,
    before: Option<&Said>,
    said: Option<&Said>,
) -> Result<Written, String> {
    let api: Api<PodObject> = Api::namespaced(client.clone(), pod.namespace.as_str());
    let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..Default::default() };
    let patch = patch(uid, &condition(before, said, &now()));
    let writing = api.patch_status(pod.name.as_str(), &parameters, &patch);
    match timeout(limits::QUESTION, writing).await {
        Err(_) => Err("no answer in time".to_owned()),
        Ok(Ok(_)) => Ok(Written::Yes),
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409 | 422) => {
            Ok(Written::NoSuchPod)
        }
        Ok(Err(error)) => Err(error.to_string()),
    }
}

/// Takes back what was said of this life of a pod when Martlet is uninstalled. A pod that is ready only
/// while it is said stays as ready as it is.
pub(crate) fn last_word(uid: &str, said: &Said, is_gated: bool) -> Patch<Value> {
    let last = Said {
        status: said.status.clone(),
        reason: "Uninstalled".to_owned(),
        message: "Martlet is gone; a readiness gate of the pod asks for this condition".to_owned(),
    };
    patch(uid, &condition(Some(said), is_gated.then_some(&last), ""))
}

/// A pod's UID does not change, so that a patch with another one is refused.
fn patch(uid: &str, condition: &Value) -> Patch<Value> {
    Patch::Strategic(json!({
        "metadata": { "uid": uid },
        "status": { "conditions": [condition] },
    }))
}

/// What is not named in it stays as it is, such as the time of what has not changed.
fn condition(before: Option<&Said>, said: Option<&Said>, now: &str) -> Value {
    let Some(said) = said else { return json!({ "type": CONDITION, "$patch": "delete" }) };
    let mut condition = json!({
        "type": CONDITION, "status": said.status, "reason": said.reason, "message": said.message,
    });
    if before.is_none_or(|before| before.status != said.status) {
        condition["lastTransitionTime"] = json!(now);
    }
    condition
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_that_since_which_it_is_so() {
        let (yes, no) = (Said::new(true, "Strict", ""), Said::new(false, "Pending", "why"));
        let time =
            |before, said| condition(before, Some(said), "now")["lastTransitionTime"].clone();
        assert_eq!(time(None, &yes), "now");
        assert_eq!(time(Some(&no), &yes), "now");
        let other = Said::new(true, "Permissive", "");
        assert_eq!(time(Some(&yes), &other), Value::Null, "it stays");
        assert_eq!(condition(Some(&yes), None, "now")["$patch"], "delete");
    }

    #[test]
    fn the_last_word_leaves_a_pod_ready_that_is_gated_by_it_and_nothing_on_others() {
        let said = Said::new(true, "Strict", "");
        let conditions = |is_gated| {
            let Patch::Strategic(patch) = last_word("1", &said, is_gated) else { panic!() };
            assert_eq!(patch["metadata"]["uid"], "1");
            patch["status"]["conditions"][0].clone()
        };
        assert_eq!(conditions(false)["$patch"], "delete");
        let stays = conditions(true);
        assert_eq!((&stays["status"], &stays["reason"]), (&json!("True"), &json!("Uninstalled")));
        assert_eq!(stays["lastTransitionTime"], Value::Null, "the time stays");
    }

    #[test]
    fn no_reason_of_an_agents_is_too_long() {
        assert_eq!(
            Said::new(false, "Pending", &"ü".repeat(9999)).message.len(),
            limits::STANDING_BYTES
        );
    }
}
