//! The identities of Martlet's own parts, which no workload can have.

use std::fmt;

use crate::{Label, SpiffeId, TrustDomain};

/// Below this path are the parts' identities, and only theirs.
const RESERVED: &str = "/martlet/";

/// A part of Martlet that proves who it is. Lanes refuse it; between controller and agents there
/// is nobody else.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Part {
    /// `spiffe://<trust domain>/martlet/controller`.
    Controller,
    /// `spiffe://<trust domain>/martlet/node/<node>`.
    Node(Label),
}

impl Part {
    pub fn identity(&self, domain: &TrustDomain) -> SpiffeId {
        let text = format!("spiffe://{domain}{RESERVED}{self}");
        text.parse().expect("a trust domain of 255 bytes and a name of 253 make a SPIFFE ID")
    }

    /// `None` for workloads, and for reserved identities that no part has.
    pub fn of(identity: &SpiffeId) -> Option<Self> {
        let name = identity.path().strip_prefix(RESERVED)?;
        match name.strip_prefix("node/") {
            Some(node) => node.parse().ok().map(Self::Node),
            None => (name == "controller").then_some(Self::Controller),
        }
    }

    /// Whether no workload may have this identity.
    pub fn is_reserved(identity: &SpiffeId) -> bool {
        identity.path().starts_with(RESERVED)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Controller => f.write_str("controller"),
            Self::Node(node) => write!(f, "node/{node}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_known_by_its_identity() {
        let domain: TrustDomain = "a.org".parse().unwrap();
        for part in [Part::Controller, Part::Node("worker-1.rack".parse().unwrap())] {
            let identity = part.identity(&domain);
            assert_eq!(identity.trust_domain(), domain);
            assert!(Part::is_reserved(&identity));
            assert_eq!(Part::of(&identity), Some(part));
        }
        let longest = format!("{}.a", "a".repeat(251)).parse().unwrap();
        Part::Node(longest).identity(&"b".repeat(255).parse().unwrap());
    }

    #[test]
    fn what_only_looks_like_one_is_none() {
        for (text, reserved) in [
            ("spiffe://a.org/ns/martlet/sa/controller", false),
            ("spiffe://a.org/martletx/controller", false),
            ("spiffe://a.org/martlet", false),
            ("spiffe://a.org/martlet/controllers", true),
            ("spiffe://a.org/martlet/node", true),
            ("spiffe://a.org/martlet/node/One", true),
            ("spiffe://a.org/martlet/node/one/two", true),
        ] {
            let identity: SpiffeId = text.parse().unwrap();
            assert_eq!(Part::of(&identity), None, "{text}");
            assert_eq!(Part::is_reserved(&identity), reserved, "{text}");
        }
    }
}
