//! What the agent says about itself on its Unix socket, and what `martlet` prints.
//!
//! Every answer is one JSON object; fields are only ever added.

mod nodes;
mod trust;

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{
    AccessRecord, ConnectionId, Label, Mode, Party, Protection, Reporter, Skew, SpiffeId, TlsFacts,
    TrustDomain, WorkloadName,
};

pub use nodes::{
    Advanced, AskIssuer, BroughtKey, CutOff, Export, Import, InstallIssuer, Invitation, Invite,
    IssuerAsked, IssuerOf, NodeName, NodeReport, Nodes, Release, Rotate, Unfederate,
};
pub use trust::{
    EndpointFailure, EndpointProfile, EndpointReport, ForeignReport, IssuerReport, KeyPlace,
    QuarantineReport, RootReport, RootRole, RotationReport, RotationStep, TrustNode, TrustReport,
};

/// `GET /status`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub node: Label,
    pub trust_domain: TrustDomain,
    pub ready: bool,
    /// Why the agent is not ready; empty when it is.
    pub not_ready: Vec<String>,
    pub uptime_seconds: u64,
    /// SHA-256 of the node file in use, in hex.
    pub configuration: String,
    /// Why the newest node file was not taken, if it was not.
    pub configuration_error: Option<String>,
    /// What of the agent's confinement is not in place, and why; empty when all is.
    #[serde(default)]
    pub unconfined: Vec<String>,
    /// Whether permissive workloads of this node connect in plaintext while no agent lives.
    #[serde(default)]
    pub fails_open: bool,
    /// `None`: this agent has an authority of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<ControllerReport>,
    pub workloads: usize,
    pub connections: usize,
    pub idle_lanes: usize,
    pub hooks: Vec<Hook>,
    pub counters: Vec<Counter>,
    /// What was put back since the agent started, the latest last; at most 64 things.
    #[serde(default)]
    pub repairs: Vec<Repair>,
    /// The connections that are carried to their end by an agent that this one has taken over from;
    /// absent when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predecessor: Option<usize>,
}

/// How it stands between an agent and its controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerReport {
    pub address: String,
    /// Why there is no connection; absent while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub away: Option<String>,
    /// Since when it is or is not connected, in seconds since the Unix epoch.
    pub since: u64,
    /// The version of what was said last and is in effect; absent until something was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Why what was said last was not taken; what was said before stays in effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// How far this node's clock was from the controller's when that was measured last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<Skew>,
    /// When the certificate of this node itself ends, in seconds since the Unix epoch; absent before
    /// it has joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_expires: Option<u64>,
}

/// What somebody else had changed in the kernel, and the agent has put back or could not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    pub kind: RepairKind,
    /// What was wrong.
    pub what: String,
    /// How often since the agent started.
    pub count: u64,
    /// Seconds since the Unix epoch.
    pub last: u64,
    /// Why it could not be put back the last time; absent if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What kind of thing was wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RepairKind {
    /// A link was detached, or its pin is gone.
    Link,
    /// Another program was in the place of ours.
    Program,
    /// A map's pin was gone, or another map was pinned in its place.
    Pin,
    /// An entry of a map was removed, altered or added.
    Entry,
    /// A pod's guard was detached, replaced, or had another program before it.
    Guard,
    /// A sysctl of a pod was changed.
    Sysctl,
    /// A listener of the agent's in a pod was closed, or its mark was removed.
    Listener,
    /// The kernel's state could not be looked at.
    Unknown,
}

impl RepairKind {
    pub const ALL: &'static [RepairKind] = &[
        RepairKind::Link,
        RepairKind::Program,
        RepairKind::Pin,
        RepairKind::Entry,
        RepairKind::Guard,
        RepairKind::Sysctl,
        RepairKind::Listener,
        RepairKind::Unknown,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            RepairKind::Link => "link",
            RepairKind::Program => "program",
            RepairKind::Pin => "pin",
            RepairKind::Entry => "entry",
            RepairKind::Guard => "guard",
            RepairKind::Sysctl => "sysctl",
            RepairKind::Listener => "listener",
            RepairKind::Unknown => "unknown",
        }
    }
}

/// One eBPF program and where it is attached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    pub name: String,
    pub attached: bool,
    /// Whether it was taken over from an earlier agent process.
    pub adopted: bool,
}

/// How often a hook reached a verdict since it was first attached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    pub hook: String,
    pub verdict: String,
    pub count: u64,
}

/// `GET /workloads`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workloads {
    pub workloads: Vec<WorkloadReport>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadReport {
    pub name: WorkloadName,
    pub identity: SpiffeId,
    pub addresses: Vec<IpAddr>,
    pub node: Label,
    pub mode: Mode,
    /// `seen`, `listening`, `steered`, `draining`, `failed` for workloads of this node; `remote` for others.
    pub state: String,
    /// Why it is not steered, for `failed`.
    pub reason: Option<String>,
}

/// `GET /connections`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    pub connections: Vec<ConnectionReport>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionReport {
    pub id: ConnectionId,
    pub reporter: Reporter,
    pub source: Party,
    pub destination: Party,
    pub origin: Option<SocketAddr>,
    pub protection: Protection,
    pub tls: Option<TlsFacts>,
    pub age_ms: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
}

/// `GET /certificates`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificates {
    pub roots: Vec<CertificateReport>,
    pub leaves: Vec<LeafReport>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeafReport {
    pub workload: WorkloadName,
    /// Leaf first, then its issuers.
    pub chain: Vec<CertificateReport>,
    /// Seconds since the Unix epoch.
    pub renews_at: u64,
    /// The last failure to renew, if it was the latest attempt.
    pub renewal_error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateReport {
    pub subject: String,
    pub issuer: String,
    pub uris: Vec<String>,
    /// Hex.
    pub serial: String,
    /// SHA-256 of the DER, in hex.
    pub fingerprint: String,
    /// Seconds since the Unix epoch.
    pub not_before: u64,
    /// Seconds since the Unix epoch.
    pub not_after: u64,
}

/// `GET /check`, in the shape that linkerd's users script against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    pub success: bool,
    pub categories: Vec<CheckCategory>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckCategory {
    pub category_name: String,
    pub checks: Vec<Check>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub description: String,
    pub result: CheckResult,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckResult {
    Success,
    Warning,
    Error,
}

/// One element of `GET /records`, and one line of the access log in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimedRecord {
    /// When the record was taken: RFC 3339, UTC, milliseconds.
    pub time: String,
    #[serde(flatten)]
    pub record: AccessRecord,
}
