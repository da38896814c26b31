//! Our own resources, `martlet.dev/v1alpha1`: what users write.
//!
//! Their schemas are generated from these types. Fields that a schema does
//! not know would be dropped by the API server without a word, and a rule with one condition less
//! allows more. So the server is told to keep them, and whoever reads a policy refuses it.

mod bundle;
mod config;
mod policy;
mod status;

pub use bundle::{Bundle, BundleObject, BundleStatus, BundleText, TrustBundle, TrustBundleSpec};
pub use config::{
    ConfigObject, ConfigStatus, DEFAULT, DefaultMode, FailureChoice, MeshConfig, MeshConfigSpec,
    MeshSettings, UdpChoice,
};
pub use policy::{
    Action, AuthorizationPolicy, AuthorizationPolicySpec, From, PolicyObject, Read, Rule, Selected,
    Selector, To,
};
pub use status::{Condition, PolicyStatus, Verdict};

use kube::CustomResourceExt as _;
use serde_json::{Value, json};

/// The definitions of all of them, for the API server.
pub fn definitions() -> Vec<Value> {
    let definitions = [AuthorizationPolicy::crd(), TrustBundle::crd(), MeshConfig::crd()];
    let definitions = definitions.iter().map(serde_json::to_value);
    let mut definitions: Vec<_> =
        definitions.map(|one| one.expect("a definition is JSON")).collect();
    definitions.iter_mut().for_each(without_additional);
    for definition in &mut definitions {
        definition["metadata"]["labels"] = json!({
            "app.kubernetes.io/part-of": "martlet",
            "app.kubernetes.io/version": env!("CARGO_PKG_VERSION"),
        });
    }
    definitions
}

/// That there is nothing beside what is known is checked by whoever reads; an API server takes no
/// schema that says both what is known and that there is nothing else.
fn without_additional(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if fields.get("additionalProperties") == Some(&Value::Bool(false)) {
                fields.remove("additionalProperties");
            }
            // Kubernetes 1.20 reads an empty text as none, which is no text.
            if fields.get("default").is_some_and(|default| default == "") {
                fields.remove("default");
            }
            fields.values_mut().for_each(without_additional);
        }
        Value::Array(all) => all.iter_mut().for_each(without_additional),
        _ => {}
    }
}
