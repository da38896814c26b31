//! What a controller says about trust, and what `martlet trust status` prints.

use serde::{Deserialize, Serialize};

use super::CertificateReport;
use crate::{Label, Quarantine, TrustDomain};

/// `GET /trust`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustReport {
    pub trust_domain: TrustDomain,
    /// Of what nodes are told.
    pub version: u64,
    pub rotation: Option<RotationReport>,
    /// Of the own trust domain; that which issues first.
    pub roots: Vec<RootReport>,
    pub issuers: Vec<IssuerReport>,
    /// Certificates in use whose issuer this authority does not know.
    pub leaves_of_unknown_issuers: u64,
    /// Why the issuer could not be renewed the last time, if it could not.
    pub renewal_error: Option<String>,
    /// All that ever joined and were not forgotten.
    pub nodes: Vec<TrustNode>,
    pub foreign: Vec<ForeignReport>,
    /// Where other trust domains publish their roots, if that is declared.
    #[serde(default)]
    pub endpoints: Vec<EndpointReport>,
    pub quarantines: Vec<QuarantineReport>,
}

/// A change of roots that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationReport {
    pub step: RotationStep,
    /// Seconds since the Unix epoch.
    pub since: u64,
    pub is_paused: bool,
    /// Nodes with this version or a later one trust both roots.
    pub version: u64,
    /// What is in the way of the next step, for people; empty if it is taken now.
    pub waits_for: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RotationStep {
    /// Both roots are trusted; the one that was there issues.
    Staged,
    /// Both roots are trusted; the one that stays issues.
    Switched,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootReport {
    pub certificate: CertificateReport,
    pub role: RootRole,
    pub key: KeyPlace,
    /// Certificates in use below it.
    pub leaves: u64,
    /// Live connections that it proves, each counted at either end.
    pub connections: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RootRole {
    Issuing,
    Coming,
    Leaving,
}

/// Where a root's key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyPlace {
    /// In a file of the authority's directory.
    Here,
    /// Behind a command.
    Command,
    /// With somebody who signs issuers by hand.
    Elsewhere,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuerReport {
    pub certificate: CertificateReport,
    /// Whether it issues now.
    pub is_current: bool,
    /// Seconds since the Unix epoch; absent if it does not renew itself, or does not issue.
    pub renews_at: Option<u64>,
    /// Certificates in use below it.
    pub leaves: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustNode {
    pub name: Label,
    /// Seconds since the Unix epoch; absent if nothing was heard of it since the controller started.
    pub last_seen: Option<u64>,
    /// What it has put into effect.
    pub trust_version: Option<u64>,
    /// Whether that is the latest.
    pub is_current: bool,
    pub leaves: u64,
    pub connections: u64,
    /// Seconds since the Unix epoch; of its certificates the first to expire.
    pub oldest_expiry: Option<u64>,
    /// Its certificates by the quarter of their life that they are in.
    #[serde(default)]
    pub quarters: [u64; 4],
    /// Seconds since the Unix epoch; when the next of them is to be renewed.
    #[serde(default)]
    pub next_renewal: Option<u64>,
}

/// Another trust domain whose workloads are believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignReport {
    pub trust_domain: TrustDomain,
    pub roots: Vec<CertificateReport>,
    pub sequence: Option<u64>,
    /// In seconds.
    pub refresh_hint: Option<u64>,
    /// Seconds since the Unix epoch.
    pub fetched: u64,
    /// Whether it was not fetched for much longer than it should have been.
    pub is_stale: bool,
    pub source: String,
    pub connections: u64,
}

/// A bundle endpoint that is followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointReport {
    pub trust_domain: TrustDomain,
    pub url: String,
    pub profile: EndpointProfile,
    /// Seconds since the Unix epoch; absent if no document was taken since the controller started.
    pub confirmed: Option<u64>,
    /// Since the controller started.
    pub looks: u64,
    pub looks_failed: u64,
    /// What is wrong, if the last look failed.
    pub failure: Option<EndpointFailure>,
    /// Whether the domain was removed by hand, so that nothing that the endpoint says is taken.
    pub is_removed: bool,
    /// Whether the bundle was not fetched for three intervals, or never.
    pub is_stale: bool,
}

/// How an endpoint proves itself (SPIFFE Federation, section 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointProfile {
    HttpsWeb,
    HttpsSpiffe,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointFailure {
    pub reason: String,
    /// Seconds since the Unix epoch: the first of the looks that failed one after the other.
    pub since: u64,
    /// How many they are.
    pub looks: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantineReport {
    pub whom: Quarantine,
    /// Seconds since the Unix epoch.
    pub since: u64,
    pub reason: String,
}
