//! What a controller says about its nodes, and what it can be asked to do.

use serde::{Deserialize, Serialize};

use crate::{Label, Quarantine, Skew, TrustDomain};

/// `GET /nodes`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nodes {
    pub trust_domain: TrustDomain,
    /// The latest of what nodes are told.
    pub version: u64,
    pub trust_version: u64,
    /// All that have joined and were not removed, by name.
    pub nodes: Vec<NodeReport>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    pub name: Label,
    /// Seconds since the Unix epoch.
    pub joined: u64,
    pub is_connected: bool,
    /// Seconds since the Unix epoch; absent if nothing was heard of it since the controller started.
    pub last_seen: Option<u64>,
    pub agent_version: Option<String>,
    /// What it has put into effect.
    pub version: Option<u64>,
    pub trust_version: Option<u64>,
    /// Why it did not put the latest into effect, if it said so.
    pub error: Option<String>,
    /// Certificates in use, its own one too.
    pub leaves: u64,
    pub connections: u64,
    /// How far its clock is from the controller's, as it has measured it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<Skew>,
}

/// `POST /nodes/join`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invite {
    pub node: Label,
    /// How long the token is good; an hour if it is absent.
    pub valid_seconds: Option<u64>,
}

/// What a host needs to become a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    pub node: Label,
    /// A secret.
    pub token: String,
    /// Seconds since the Unix epoch.
    pub expires: u64,
    pub trust_domain: TrustDomain,
    /// Host and port of the controller, if it knows how it is reached.
    pub controller: Option<String>,
}

/// `POST /nodes/remove`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeName {
    pub node: Label,
}

/// `POST /trust/rotate`, or `null` for a root that the controller makes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotate {
    /// PEM: the new root, and further ones that are to be trusted.
    pub certificates: String,
    pub key: BroughtKey,
}

/// How the key of a root that is brought is reached. Without `Debug`: it may hold that key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BroughtKey {
    /// PEM, a secret.
    Here(String),
    /// The text of a `keys.yaml` that names the command which signs.
    Command(String),
    /// Whoever has it signs issuers by hand.
    Elsewhere,
}

/// Which root an issuer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IssuerOf {
    Issuing,
    /// The other one of a rotation.
    Other,
}

/// `POST /trust/csr`. Without `of`: the new root if it waits for an issuer, or else that which issues.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskIssuer {
    pub of: Option<IssuerOf>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuerAsked {
    /// A PKCS #10 request, PEM.
    pub request: String,
}

/// `POST /trust/install`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstallIssuer {
    pub of: Option<IssuerOf>,
    /// PEM.
    pub certificate: String,
    /// Whether it may live longer than 7 days.
    #[serde(default)]
    pub may_last_long: bool,
}

/// The answer to `POST /trust/rotate`, `pause`, `resume`, `back` and `force`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advanced {
    /// What was in the way of a step that was forced, for people.
    pub broken: Vec<String>,
}

/// `GET /trust/export`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    pub trust_domain: TrustDomain,
    /// A SPIFFE bundle document.
    pub document: String,
}

/// `POST /trust/import`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    pub trust_domain: TrustDomain,
    /// A SPIFFE bundle document.
    pub document: String,
    /// Where it is from, for people.
    pub source: String,
}

/// `POST /trust/remove` and `refresh`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfederate {
    pub trust_domain: TrustDomain,
}

/// `POST /trust/quarantine`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutOff {
    pub whom: Quarantine,
    #[serde(default)]
    pub reason: String,
}

/// `POST /trust/release`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    pub whom: Quarantine,
}
