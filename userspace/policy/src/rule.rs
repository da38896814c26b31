//! Policies as data. A value that exists is valid: empty lists and turned ranges are refused.

use ipnet::IpNet;
use martlet_model::{Label, SpiffeId, TrustDomain, Workload};
use thiserror::Error;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Allow,
    Deny,
}

/// Rules about connections to the selected workloads of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub namespace: Label,
    pub name: Label,
    pub selector: Selector,
    pub action: Action,
    pub rules: Vec<Rule>,
}

/// Which workloads of the policy's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    All,
    ServiceAccounts(Vec<Label>),
    /// The workloads that list the policy ([`Workload::policies`]).
    Listing,
}

/// Matches if a source and a port match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Shown in refusals; the rule's number if it has none.
    pub name: Option<String>,
    /// `None`: any caller.
    pub from: Option<Source>,
    /// `None`: any port.
    pub ports: Option<Vec<PortRange>>,
}

/// Every field that is given must match; within a field, one entry must.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Source {
    pub identities: Option<Vec<IdentityMatch>>,
    pub namespaces: Option<Vec<Label>>,
    pub trust_domains: Option<Vec<TrustDomain>>,
    pub addresses: Option<Vec<IpNet>>,
}

/// One identity, or all below a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityMatch {
    Exact(SpiffeId),
    /// Ends in `/`, so that a prefix never cuts a name in two.
    Below(String),
}

/// Inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

/// Why a policy is refused as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PolicyError {
    #[error("policy {0}: `{1}` is empty, which matches nothing; leave it out to match anything")]
    Empty(String, &'static str),
    #[error("policy {0}: the port range {1}-{2} is turned around or contains port 0")]
    Ports(String, u16, u16),
    #[error("policy {0} is defined twice")]
    Twice(String),
    #[error("policy {0}: the identity prefix {1:?} must begin with spiffe:// and end with /")]
    Prefix(String, String),
}

impl Policy {
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    pub(crate) fn selects(&self, workload: &Workload) -> bool {
        match &self.selector {
            Selector::All => true,
            Selector::ServiceAccounts(accounts) => accounts.contains(&workload.service_account),
            Selector::Listing => {
                workload.name.namespace == self.namespace && workload.policies.contains(&self.name)
            }
        }
    }

    pub(crate) fn check(&self) -> Result<(), PolicyError> {
        let empty = |what| Err(PolicyError::Empty(self.full_name(), what));
        if self.rules.is_empty() {
            return empty("rules");
        }
        if matches!(&self.selector, Selector::ServiceAccounts(accounts) if accounts.is_empty()) {
            return empty("serviceAccounts");
        }
        self.rules.iter().try_for_each(|rule| self.check_rule(rule))
    }

    fn check_rule(&self, rule: &Rule) -> Result<(), PolicyError> {
        let empty = |what| PolicyError::Empty(self.full_name(), what);
        if let Some(ports) = &rule.ports {
            if ports.is_empty() {
                return Err(empty("ports"));
            }
            for PortRange { first, last } in ports {
                if *first == 0 || first > last {
                    return Err(PolicyError::Ports(self.full_name(), *first, *last));
                }
            }
        }
        let Some(from) = &rule.from else { return Ok(()) };
        let Source { identities, namespaces, trust_domains, addresses } = from;
        for prefix in identities.iter().flatten() {
            if let IdentityMatch::Below(text) = prefix
                && !(text.starts_with("spiffe://") && text.len() > 9 && text.ends_with('/'))
            {
                return Err(PolicyError::Prefix(self.full_name(), text.clone()));
            }
        }
        let lengths = [
            ("identities", identities.as_ref().map(Vec::len)),
            ("namespaces", namespaces.as_ref().map(Vec::len)),
            ("trustDomains", trust_domains.as_ref().map(Vec::len)),
            ("addresses", addresses.as_ref().map(Vec::len)),
        ];
        if lengths.iter().all(|(_, length)| length.is_none()) {
            return Err(empty("from"));
        }
        match lengths.iter().find(|(_, length)| *length == Some(0)) {
            Some((what, _)) => Err(empty(what)),
            None => Ok(()),
        }
    }
}
