//! A workload: what has an identity and addresses.

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::SpiffeId;

/// A DNS-like name (RFC 1123 subdomain): namespaces, service accounts, pods, nodes, services.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(Arc<str>);

/// Why a text is not a [`Label`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{0:?} is not a name: use 1 to 253 of a-z, 0-9, '-' and '.', starting and ending with a letter or digit"
)]
pub struct LabelError(String);

/// What a connection that arrives in plaintext meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Enrolled callers use mTLS; others are let in untouched, and counted.
    Permissive,
    /// Whatever is not mTLS from an enrolled caller is refused in the kernel.
    Strict,
}

/// What becomes of UDP between a workload and the mesh, in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Udp {
    /// It passes unencrypted, and is counted.
    #[default]
    Pass,
    /// It is refused in the kernel, and counted.
    Refuse,
}

/// What becomes of connections between permissive workloads while no agent lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Failure {
    /// They are refused, as those of strict ones are in any case.
    #[default]
    Closed,
    /// They pass in plaintext, and are counted.
    Open,
}

/// Namespace and pod name: unique among workloads.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WorkloadName {
    pub namespace: Label,
    pub name: Label,
}

/// A pod, or in standalone mode a declared network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    pub name: WorkloadName,
    pub service_account: Label,
    pub identity: SpiffeId,
    /// At most one of each family is steered to; all are known as this workload's.
    pub addresses: Vec<IpAddr>,
    pub node: Label,
    pub mode: Mode,
    /// Names of the policies of its namespace that select it by what only its cluster knows about
    /// it, such as labels.
    pub policies: Vec<Label>,
}

impl Label {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Label {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        let inner = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let valid = text.len() <= 253
            && text.bytes().all(inner)
            && edge(text.bytes().next())
            && edge(text.bytes().last());
        if valid {
            Ok(Self(Arc::from(text)))
        } else {
            Err(LabelError(text.chars().take(64).collect()))
        }
    }
}

impl TryFrom<String> for Label {
    type Error = LabelError;
    fn try_from(text: String) -> Result<Self, LabelError> {
        text.parse()
    }
}

impl From<Label> for String {
    fn from(label: Label) -> String {
        label.as_str().to_owned()
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for WorkloadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Permissive => "permissive",
            Mode::Strict => "strict",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_like() {
        for good in ["a", "web-0", "a.b", "0"] {
            assert!(good.parse::<Label>().is_ok(), "{good}");
        }
        let long = "a".repeat(254);
        for bad in ["", "-a", "a-", "A", "a_b", "a/b", "ü", ".a", long.as_str()] {
            assert!(bad.parse::<Label>().is_err(), "{bad}");
        }
    }
}
