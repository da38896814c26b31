//! `MeshConfig`: what is set for the whole mesh.

use kube::{CustomResource, Resource, api::ObjectMeta};
use martlet_model::{Failure, Mode, TrustDomain, Udp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{policy::strict, status::Condition};
use crate::{limits, seen::Problem};

/// What is set for the whole mesh. Only the one named `default` is used.
///
/// What cannot be used changes nothing: what was in effect stays. When it is deleted, all is as it
/// would be without it.
#[derive(Debug, Clone, PartialEq, Eq, CustomResource, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "martlet.dev",
    version = "v1alpha1",
    kind = "MeshConfig",
    status = "ConfigStatus",
    shortname = "mmc",
    category = "martlet",
    printcolumn = r#"{"name":"Default mode","type":"string","jsonPath":".status.inEffect.defaultMode"}"#,
    printcolumn = r#"{"name":"Failure","type":"string","jsonPath":".status.inEffect.failure"}"#,
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name":"Programmed","type":"string","jsonPath":".status.conditions[?(@.type==\"Programmed\")].status"}"#,
    printcolumn = r#"{"name":"Agents","type":"string","jsonPath":".status.agents"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct MeshConfigSpec {
    /// Of pods without a label martlet.dev/mode, in namespaces without one. Without it: `off`. It
    /// enrolls nothing in kube-system, nor in Martlet's own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_mode: Option<DefaultMode>,
    /// What becomes of connections between permissive workloads of a node while no agent lives there.
    /// Without it: as the node's own file says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureChoice>,
    /// What becomes of UDP between workloads and the mesh. Without it: as the controller's own file
    /// says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp: Option<UdpChoice>,
    /// Only for whoever reads it: one that is not the mesh's own is refused, since it cannot be
    /// changed while the mesh runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub trust_domain: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DefaultMode {
    /// They are outside of the mesh.
    Off,
    /// They are enrolled, and take plaintext, too.
    Permissive,
    /// They are enrolled, and take plaintext from nobody.
    Strict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FailureChoice {
    /// They are refused.
    Closed,
    /// They pass in plaintext and are counted, past every policy.
    Open,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UdpChoice {
    /// It passes unencrypted, and is counted.
    Pass,
    /// It is refused in the kernel, and counted.
    Refuse,
}

/// What has become of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigStatus {
    /// `Accepted`: it is used as it is written. `Programmed`: all agents go by it.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// How many agents go by it, of how many, like `2/3`.
    pub agents: String,
    /// What is in effect, be it by this generation of the object or by an earlier one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_effect: Option<MeshConfigSpec>,
}

/// An object as it is stored, with whatever stands in it.
#[derive(Debug, Clone, PartialEq, Resource, Deserialize)]
#[resource(inherit = "MeshConfig")]
pub struct ConfigObject {
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub spec: Value,
    #[serde(default)]
    pub status: Value,
}

/// The name of the object that is used.
pub const DEFAULT: &str = "default";

/// What is set, checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MeshSettings {
    /// Of pods that no label is about; `None`: they are outside.
    pub default_mode: Option<Mode>,
    /// `None`: as each node says.
    pub failure: Option<Failure>,
    /// `None`: as the controller file says.
    pub udp: Option<Udp>,
}

impl ConfigObject {
    pub fn name(&self) -> String {
        self.metadata.name.clone().unwrap_or_default()
    }

    pub fn uid(&self) -> String {
        self.metadata.uid.clone().unwrap_or_default()
    }

    pub fn generation(&self) -> i64 {
        self.metadata.generation.unwrap_or_default()
    }

    /// What its status says; nothing if that cannot be read.
    pub fn said(&self) -> ConfigStatus {
        serde_json::from_value(self.status.clone()).unwrap_or_default()
    }

    /// `own`: the trust domain of the mesh.
    ///
    /// # Errors
    ///
    /// It cannot be used as it is written.
    pub fn read(&self, own: &TrustDomain) -> Result<MeshSettings, Problem> {
        if self.name() != DEFAULT {
            let why = format!("only the MeshConfig named {DEFAULT} is used");
            return Err(Problem::new("NotDefault", why));
        }
        let bytes = self.spec.to_string().len();
        if bytes > limits::CONFIG_BYTES {
            let most = limits::CONFIG_BYTES;
            let why = format!("spec has {bytes} bytes, and {most} is the most");
            return Err(Problem::new("Invalid", why));
        }
        let spec: MeshConfigSpec =
            strict(&self.spec, "spec").map_err(|why| Problem::new("Invalid", why))?;
        if let Some(other) = spec.trust_domain.as_ref().filter(|other| *other != own.as_str()) {
            let why = format!(
                "trustDomain is {other:?}, and the mesh's own is {own}; it cannot be changed while \
                 the mesh runs"
            );
            return Err(Problem::new("Immutable", why));
        }
        Ok(MeshSettings::from(&spec))
    }
}

impl From<&MeshConfigSpec> for MeshSettings {
    fn from(spec: &MeshConfigSpec) -> Self {
        Self {
            default_mode: spec.default_mode.and_then(|mode| match mode {
                DefaultMode::Off => None,
                DefaultMode::Permissive => Some(Mode::Permissive),
                DefaultMode::Strict => Some(Mode::Strict),
            }),
            failure: spec.failure.map(|failure| match failure {
                FailureChoice::Closed => Failure::Closed,
                FailureChoice::Open => Failure::Open,
            }),
            udp: spec.udp.map(|udp| match udp {
                UdpChoice::Pass => Udp::Pass,
                UdpChoice::Refuse => Udp::Refuse,
            }),
        }
    }
}

impl MeshSettings {
    /// As an object would have it that sets the same.
    pub fn spec(&self) -> MeshConfigSpec {
        MeshConfigSpec {
            default_mode: Some(match self.default_mode {
                None => DefaultMode::Off,
                Some(Mode::Permissive) => DefaultMode::Permissive,
                Some(Mode::Strict) => DefaultMode::Strict,
            }),
            failure: self.failure.map(|failure| match failure {
                Failure::Closed => FailureChoice::Closed,
                Failure::Open => FailureChoice::Open,
            }),
            udp: self.udp.map(|udp| match udp {
                Udp::Pass => UdpChoice::Pass,
                Udp::Refuse => UdpChoice::Refuse,
            }),
            trust_domain: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(name: &str, spec: Value) -> ConfigObject {
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        ConfigObject { metadata, spec, status: Value::Null }
    }

    fn read(spec: Value) -> Result<MeshSettings, Problem> {
        object(DEFAULT, spec).read(&"a.org".parse().unwrap())
    }

    #[test]
    fn what_is_left_out_is_as_it_would_be_without_the_object() {
        assert_eq!(read(json!({})).unwrap(), MeshSettings::default());
        let off = json!({"defaultMode": "off", "trustDomain": "a.org"});
        assert_eq!(read(off).unwrap(), MeshSettings::default());
        let all = read(json!({"defaultMode": "strict", "failure": "open", "udp": "refuse"}));
        let all = all.unwrap();
        assert_eq!(
            (all.default_mode, all.failure, all.udp),
            (Some(Mode::Strict), Some(Failure::Open), Some(Udp::Refuse))
        );
        assert_eq!(MeshSettings::from(&all.spec()), all);
        let closed = read(json!({"failure": "closed"})).unwrap();
        assert_eq!(closed.failure, Some(Failure::Closed), "whatever a node file says");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (spec, reason, why) in [
            (json!(null), "Invalid", "spec"),
            (json!({"defaultMode": "Strict"}), "Invalid", "Strict"),
            (json!({"defaultMode": false}), "Invalid", "spec"),
            (json!({"failure": "opne"}), "Invalid", "opne"),
            (json!({"failure": "open", "tracing": true}), "Invalid", "tracing"),
            (json!({"trustDomain": "b.org"}), "Immutable", "b.org"),
            (json!({"trustDomain": "x".repeat(20_000)}), "Invalid", "bytes"),
        ] {
            let problem = read(spec).unwrap_err();
            assert_eq!(problem.reason, reason);
            assert!(problem.message.contains(why), "{}", problem.message);
        }
        let other = object("other", json!({})).read(&"a.org".parse().unwrap()).unwrap_err();
        assert_eq!(other.reason, "NotDefault");
    }
}
