//! Whom a node is told to trust, and who is cut off.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Label, SpiffeId, TrustDomain, WorkloadName};

/// What a node is told about trust. Replaced as a whole; nothing of an older version is kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trust {
    /// Grows with every change.
    pub version: u64,
    /// DER, at least one for each domain.
    pub roots: BTreeMap<TrustDomain, Vec<Vec<u8>>>,
    pub quarantines: Vec<Quarantine>,
    /// The SHA-256, in hex, of the issuer's certificate whose leaves are wanted: whoever has a leaf
    /// of another issuer renews it soon. `None`: every issuer's leaves are.
    pub issuer: Option<String>,
}

/// Who is cut off: new connections with them are refused, live ones are ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Quarantine {
    /// Everybody of a trust domain.
    Cluster(TrustDomain),
    /// Every workload on a node, by the name that the authority wrote into its certificates.
    Node(TrustDomain, Label),
    /// A pod, by name.
    Workload(TrustDomain, WorkloadName),
    /// Everybody with this identity.
    Identity(SpiffeId),
}

/// Whom a certificate is for: the identity, and what its authority wrote into the subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bearer {
    pub identity: SpiffeId,
    pub workload: Option<WorkloadName>,
    pub node: Option<Label>,
}

/// Why a text names nobody who could be cut off.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{0:?} names nobody to cut off: write cluster/<trust domain>, node/<trust domain>/<node>, workload/<trust domain>/<namespace>/<name> or identity/<SPIFFE ID>"
)]
pub struct QuarantineError(String);

impl Quarantine {
    /// Whether it is about this bearer. What the subject does not say is not guessed: a bearer of
    /// a trust domain under a quarantine of one of its nodes or pods that names neither is covered.
    pub fn covers(&self, bearer: &Bearer) -> bool {
        let is_of = |domain: &TrustDomain| bearer.identity.trust_domain_str() == domain.as_str();
        match self {
            Self::Cluster(domain) => is_of(domain),
            Self::Node(domain, node) => {
                is_of(domain) && bearer.node.as_ref().is_none_or(|of| of == node)
            }
            Self::Workload(domain, name) => {
                is_of(domain) && bearer.workload.as_ref().is_none_or(|of| of == name)
            }
            Self::Identity(identity) => bearer.identity == *identity,
        }
    }
}

impl fmt::Display for Quarantine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster(domain) => write!(f, "cluster/{domain}"),
            Self::Node(domain, node) => write!(f, "node/{domain}/{node}"),
            Self::Workload(domain, name) => write!(f, "workload/{domain}/{name}"),
            Self::Identity(identity) => write!(f, "identity/{identity}"),
        }
    }
}

impl FromStr for Quarantine {
    type Err = QuarantineError;

    fn from_str(text: &str) -> Result<Self, QuarantineError> {
        read(text).ok_or_else(|| QuarantineError(text.chars().take(256).collect()))
    }
}

fn read(text: &str) -> Option<Quarantine> {
    let (kind, rest) = text.split_once('/')?;
    if kind == "identity" {
        return Some(Quarantine::Identity(rest.parse().ok()?));
    }
    let mut parts = rest.split('/');
    let domain = parts.next()?.parse().ok()?;
    let names = parts.map(|part| part.parse().ok()).collect::<Option<Vec<Label>>>()?;
    match (kind, names.as_slice()) {
        ("cluster", []) => Some(Quarantine::Cluster(domain)),
        ("node", [node]) => Some(Quarantine::Node(domain, node.clone())),
        ("workload", [namespace, name]) => {
            let name = WorkloadName { namespace: namespace.clone(), name: name.clone() };
            Some(Quarantine::Workload(domain, name))
        }
        _ => None,
    }
}

impl TryFrom<String> for Quarantine {
    type Error = QuarantineError;
    fn try_from(text: String) -> Result<Self, QuarantineError> {
        text.parse()
    }
}

impl From<Quarantine> for String {
    fn from(quarantine: Quarantine) -> String {
        quarantine.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> WorkloadName {
        let (namespace, name) = text.split_once('/').unwrap();
        WorkloadName { namespace: namespace.parse().unwrap(), name: name.parse().unwrap() }
    }

    #[test]
    fn a_quarantine_is_read_as_it_is_written() {
        for text in [
            "cluster/b.org",
            "node/b.org/worker-1",
            "workload/b.org/shop/cart-0",
            "identity/spiffe://b.org/ns/shop/sa/cart",
        ] {
            assert_eq!(text.parse::<Quarantine>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "cluster",
            "cluster/",
            "cluster/b.org/x",
            "cluster/B.org",
            "node/b.org",
            "node/b.org/a/b",
            "workload/b.org/shop",
            "identity/b.org",
            "pod/b.org/shop/cart",
        ] {
            assert!(bad.parse::<Quarantine>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_quarantine_covers_whom_it_names_and_nobody_else() {
        let bearer = Bearer {
            identity: "spiffe://b.org/ns/shop/sa/cart".parse().unwrap(),
            workload: Some(name("shop/cart")),
            node: Some("one".parse().unwrap()),
        };
        for (text, covers) in [
            ("cluster/b.org", true),
            ("cluster/a.org", false),
            ("node/b.org/one", true),
            ("node/b.org/two", false),
            ("node/a.org/one", false),
            ("workload/b.org/shop/cart", true),
            ("workload/b.org/shop/web", false),
            ("workload/a.org/shop/cart", false),
            ("identity/spiffe://b.org/ns/shop/sa/cart", true),
            ("identity/spiffe://b.org/ns/shop/sa/web", false),
            ("identity/spiffe://a.org/ns/shop/sa/cart", false),
        ] {
            assert_eq!(text.parse::<Quarantine>().unwrap().covers(&bearer), covers, "{text}");
        }
    }

    #[test]
    fn who_does_not_say_where_it_runs_is_covered_by_a_quarantine_of_its_domain() {
        let identity = "spiffe://b.org/ns/shop/sa/cart".parse().unwrap();
        let silent = Bearer { identity, workload: None, node: None };
        let covers = |text: &str| text.parse::<Quarantine>().unwrap().covers(&silent);
        assert!(covers("node/b.org/one") && covers("workload/b.org/shop/cart"));
        assert!(!covers("node/a.org/one") && !covers("workload/a.org/shop/cart"));
    }
}
