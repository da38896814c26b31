//! `TrustBundle`: another trust domain that is trusted, by its roots.

use kube::{CustomResource, Resource, api::ObjectMeta};
use martlet_model::TrustDomain;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{policy::strict, status::Condition};
use crate::{limits, seen::Problem};

/// The roots of another trust domain, with whose workloads ours may speak.
///
/// Policies say which of them may connect where. What cannot be used changes nothing: the roots that
/// were there stay. When the object is deleted the domain is trusted no more.
#[derive(Debug, Clone, CustomResource, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "martlet.dev",
    version = "v1alpha1",
    kind = "TrustBundle",
    status = "BundleStatus",
    shortname = "mtb",
    category = "martlet",
    printcolumn = r#"{"name":"Trust domain","type":"string","jsonPath":".spec.trustDomain"}"#,
    printcolumn = r#"{"name":"Quarantined","type":"boolean","jsonPath":".spec.quarantined"}"#,
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name":"Programmed","type":"string","jsonPath":".status.conditions[?(@.type==\"Programmed\")].status"}"#,
    printcolumn = r#"{"name":"Agents","type":"string","jsonPath":".status.agents"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend(
    "oneOf" = [{"required": ["pem"]}, {"required": ["document"]}],
    "x-kubernetes-preserve-unknown-fields" = true
))]
pub struct TrustBundleSpec {
    /// Whose roots these are. It cannot be changed; make another object for another domain.
    #[schemars(length(min = 1, max = 255), regex(pattern = "^[a-z0-9._-]+$"))]
    pub trust_domain: String,
    /// The roots as certificates in PEM. Either this or `document`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 262144))]
    pub pem: Option<String>,
    /// The roots as a SPIFFE bundle document: a JWK set, as `martlet trust export` prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 262144))]
    pub document: Option<String>,
    /// The number of what is in `pem`; a document has its own. A lower one than before is refused,
    /// and none where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0), extend("format" = "int64"))]
    pub sequence: Option<u64>,
    /// Everybody of the domain is cut off: new connections are refused, live ones end.
    #[serde(default)]
    pub quarantined: bool,
}

/// What has become of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BundleStatus {
    /// `Accepted`: it is used as it is written. `Programmed`: all agents go by it.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// How many agents go by it, of how many, like `2/3`.
    pub agents: String,
    /// How many roots of the domain are trusted now.
    #[schemars(extend("format" = "int32"))]
    pub roots: u32,
}

/// An object as it is stored, with whatever stands in it.
#[derive(Debug, Clone, PartialEq, Resource, Deserialize)]
#[resource(inherit = "TrustBundle")]
pub struct BundleObject {
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub spec: Value,
    #[serde(default)]
    pub status: Value,
}

/// What it says, read as far as Kubernetes is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    pub trust_domain: TrustDomain,
    pub roots: BundleText,
    pub is_quarantined: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BundleText {
    Pem { text: String, sequence: Option<u64> },
    Document(String),
}

impl BundleObject {
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
    pub fn said(&self) -> BundleStatus {
        serde_json::from_value(self.status.clone()).unwrap_or_default()
    }

    /// # Errors
    ///
    /// It cannot be used as it is written.
    pub fn read(&self) -> Result<Bundle, Problem> {
        self.try_read().map_err(|message| Problem::new("Invalid", message))
    }

    /// Whose domain is to be cut off, whatever else is wrong with the object.
    pub fn cuts_off(&self) -> Option<TrustDomain> {
        let domain = self.spec["trustDomain"].as_str()?.parse().ok()?;
        (self.spec["quarantined"] == true).then_some(domain)
    }

    fn try_read(&self) -> Result<Bundle, String> {
        let bytes = self.spec.to_string().len();
        if bytes > limits::BUNDLE_BYTES {
            let most = limits::BUNDLE_BYTES;
            return Err(format!("spec has {bytes} bytes, and {most} is the most"));
        }
        let spec: TrustBundleSpec = strict(&self.spec, "spec")?;
        let trust_domain = spec.trust_domain.parse();
        let trust_domain = trust_domain.map_err(|error| format!("trustDomain: {error}"))?;
        let roots = match (spec.pem, spec.document, spec.sequence) {
            (Some(text), None, sequence) => BundleText::Pem { text, sequence },
            (None, Some(text), None) => BundleText::Document(text),
            (None, Some(_), Some(_)) => {
                return Err("sequence is for pem; a document has its own".to_owned());
            }
            (Some(_), Some(_), _) => return Err("it has both pem and document".to_owned()),
            (None, None, _) => return Err("it has neither pem nor document".to_owned()),
        };
        Ok(Bundle { trust_domain, roots, is_quarantined: spec.quarantined })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(spec: Value) -> Result<Bundle, String> {
        let metadata = ObjectMeta::default();
        let object = BundleObject { metadata, spec, status: Value::Null };
        object.read().map_err(|problem| problem.message)
    }

    #[test]
    fn roots_come_as_pem_or_as_a_document() {
        let pem = read(json!({"trustDomain": "b.org", "pem": "x", "sequence": 3})).unwrap();
        assert_eq!(pem.roots, BundleText::Pem { text: "x".to_owned(), sequence: Some(3) });
        assert!(!pem.is_quarantined);
        let document = json!({"trustDomain": "b.org", "document": "{}", "quarantined": true});
        let document = read(document).unwrap();
        assert_eq!(document.roots, BundleText::Document("{}".to_owned()));
        assert!(document.is_quarantined);
    }

    #[test]
    fn what_is_wrong_is_named_and_where() {
        for (spec, why) in [
            (json!(null), "spec"),
            (json!({}), "spec"),
            (json!({"trustDomain": "b.org"}), "neither"),
            (json!({"trustDomain": "b.org", "pem": "x", "document": "{}"}), "both"),
            (json!({"trustDomain": "b.org", "document": "{}", "sequence": 1}), "sequence"),
            (json!({"trustDomain": "B ORG", "pem": "x"}), "trustDomain"),
            (json!({"trustDomain": "b.org", "pem": "x", "endpoint": "y"}), "endpoint"),
            (json!({"trustDomain": "b.org", "pem": "x", "sequence": -1}), "spec"),
            (json!({"trustDomain": "b.org", "pem": "x".repeat(600_000)}), "bytes"),
        ] {
            let said = read(spec.clone()).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn who_is_to_be_cut_off_is_whatever_else_is_wrong() {
        let of = |spec: Value| {
            let metadata = ObjectMeta::default();
            BundleObject { metadata, spec, status: Value::Null }.cuts_off()
        };
        let bad = json!({"trustDomain": "b.org", "quarantined": true, "nonsense": 1});
        assert_eq!(of(bad).unwrap().as_str(), "b.org");
        assert_eq!(of(json!({"trustDomain": "b.org", "quarantined": false})), None);
        assert_eq!(of(json!({"quarantined": true})), None);
    }
}
