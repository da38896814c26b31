//! From policies and a request to a permit, or a refusal that names its rule.

use std::{collections::HashMap, net::IpAddr};

use martlet_model::{Label, SpiffeId, Workload};

use crate::{
    Permit,
    rule::{Action, IdentityMatch, Policy, PolicyError, Rule, Source},
};

/// A connection that asks to be permitted.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// From the caller's certificate.
    pub caller: &'a SpiffeId,
    pub caller_address: IpAddr,
    pub callee: &'a Workload,
    pub port: u16,
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// The policy and its rule, or that no rule of the policies that select the workload allows.
    pub policy: String,
}

/// All policies, by the namespace of the workloads that they are about.
#[derive(Debug, Default, PartialEq)]
pub struct PolicySet {
    by_namespace: HashMap<Label, Vec<Policy>>,
}

impl PolicySet {
    pub fn new(policies: Vec<Policy>) -> Result<Self, PolicyError> {
        let mut set = Self::default();
        for policy in policies {
            policy.check()?;
            let namespace = set.by_namespace.entry(policy.namespace.clone()).or_default();
            if namespace.iter().any(|other| other.name == policy.name) {
                return Err(PolicyError::Twice(policy.full_name()));
            }
            namespace.push(policy);
        }
        Ok(set)
    }

    /// Decides about a connection between two workloads.
    pub fn authorize(&self, request: &Request<'_>) -> Result<Permit, Denied> {
        let namespace = self.by_namespace.get(&request.callee.name.namespace);
        let selected =
            || namespace.into_iter().flatten().filter(|policy| policy.selects(request.callee));
        let with = |action| selected().filter(move |policy| policy.action == action);
        if let Some(denied) = with(Action::Deny).find_map(|policy| matching(policy, request)) {
            return Err(Denied { policy: denied });
        }
        let mut restricted = None;
        for policy in with(Action::Allow) {
            if let Some(allowed) = matching(policy, request) {
                return Ok(Permit::new(Some(allowed)));
            }
            restricted.get_or_insert(policy);
        }
        match restricted {
            None => Ok(Permit::new(None)),
            Some(policy) => {
                Err(Denied { policy: format!("{}: no rule allows", policy.full_name()) })
            }
        }
    }

    /// A workload that talks to itself needs nobody's permission.
    pub fn authorize_own(&self, _workload: &Workload) -> Permit {
        Permit::new(None)
    }

    /// Policies are about connections to workloads; an endpoint outside the mesh is none.
    pub fn authorize_outside(&self, _caller: &Workload) -> Permit {
        Permit::new(None)
    }
}

/// The name of the first rule that matches.
fn matching(policy: &Policy, request: &Request<'_>) -> Option<String> {
    let index = policy.rules.iter().position(|rule| rule_matches(rule, request))?;
    let rule = policy.rules[index].name.clone().unwrap_or_else(|| format!("rule {}", index + 1));
    Some(format!("{}: {rule}", policy.full_name()))
}

fn rule_matches(rule: &Rule, request: &Request<'_>) -> bool {
    let port = request.port;
    let port_matches = rule
        .ports
        .as_ref()
        .is_none_or(|ports| ports.iter().any(|range| (range.first..=range.last).contains(&port)));
    port_matches && rule.from.as_ref().is_none_or(|source| source_matches(source, request))
}

fn source_matches(source: &Source, request: &Request<'_>) -> bool {
    let Source { identities, namespaces, trust_domains, addresses } = source;
    // A socket of both families shows IPv4 addresses as mapped ones; a rule is about the address.
    let (caller, address) = (request.caller, request.caller_address.to_canonical());
    let identity = |wanted: &IdentityMatch| match wanted {
        IdentityMatch::Exact(exact) => exact == caller,
        IdentityMatch::Below(prefix) => caller.as_str().starts_with(prefix),
    };
    let namespace = caller.workload_names().map(|(namespace, _)| namespace);
    let one = |entries: &Option<Vec<_>>| entries.as_ref().is_none_or(|e| e.iter().any(identity));
    one(identities)
        && namespaces
            .as_ref()
            .is_none_or(|entries| entries.iter().any(|wanted| Some(wanted.as_str()) == namespace))
        && trust_domains.as_ref().is_none_or(|entries| {
            entries.iter().any(|wanted| wanted.as_str() == caller.trust_domain_str())
        })
        && addresses
            .as_ref()
            .is_none_or(|entries| entries.iter().any(|wanted| wanted.contains(&address)))
}

#[cfg(test)]
mod tests;
