//! The taint that keeps pods off a new node until its agent is ready.

use k8s_openapi::api::core::v1::{Node, Taint};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use martlet_model::Label;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::limits;

/// Whoever adds nodes gives it to them, with any effect; kubelet by `--register-with-taints`.
pub const NOT_READY: &str = "martlet.dev/not-ready";

/// Takes it off a node: whether it was there. All other taints stay.
///
/// # Errors
///
/// The server did not answer, or did not take it: somebody else may have changed the node meanwhile.
pub async fn remove(client: &Client, node: &Label) -> Result<bool, String> {
    let api: Api<Node> = Api::all(client.clone());
    let removing = async {
        let Some(patch) = without(&api.get(node.as_str()).await?) else { return Ok(false) };
        let patch = Patch::Merge(patch);
        api.patch(node.as_str(), &PatchParams::default(), &patch).await.map(|_| true)
    };
    match timeout(limits::QUESTION, removing).await {
        Ok(removed) => removed.map_err(|error: kube::Error| error.to_string()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

/// What makes a node one without it; `None`: it has none. A list is replaced as a whole, so it must
/// be the one that was read.
fn without(node: &Node) -> Option<Value> {
    let taints: Vec<Taint> = node.spec.clone()?.taints.unwrap_or_default();
    let rest: Vec<_> = taints.iter().filter(|taint| taint.key != NOT_READY).collect();
    (rest.len() < taints.len()).then(|| {
        let version = node.metadata.resource_version.clone();
        json!({ "metadata": { "resourceVersion": version }, "spec": { "taints": rest } })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(taints: Value) -> Node {
        let node = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": { "name": "one", "resourceVersion": "7" },
            "spec": { "taints": taints },
        });
        serde_json::from_value(node).unwrap()
    }

    #[test]
    fn only_our_taint_goes_whatever_its_effects_and_of_the_node_that_was_read() {
        let ours = |effect: &str| json!({ "key": NOT_READY, "effect": effect });
        let other = json!({ "key": "dedicated", "value": "db", "effect": "NoSchedule" });
        let tainted = node(json!([ours("NoSchedule"), other, ours("NoExecute")]));
        let wanted = json!({
            "metadata": { "resourceVersion": "7" },
            "spec": { "taints": [other] },
        });
        assert_eq!(without(&tainted), Some(wanted));
    }

    #[test]
    fn a_node_without_it_is_not_written() {
        let like = json!({ "key": "martlet.dev/not-ready-yet", "effect": "NoSchedule" });
        for taints in [json!(null), json!([]), json!([like])] {
            assert_eq!(without(&node(taints.clone())), None, "{taints}");
        }
    }
}
