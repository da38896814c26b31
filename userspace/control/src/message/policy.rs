//! Policies. That no list is empty and no range turned around is for the policy set to check.

use ipnet::IpNet;
use martlet_model::{Label, WorkloadName};
use martlet_policy::{Action, IdentityMatch, Policy, PortRange, Rule, Selector, Source};

use super::{Malformed, each, name_from, name_to, parsed};
use crate::{limits, proto};

/// The SPIFFE ID standard's own bound, section 2.3.
const PREFIX_BYTES: usize = 2048;

/// Namespace and name; unique among policies.
pub type PolicyName = (Label, Label);

pub fn policy_name_to((namespace, name): &PolicyName) -> proto::Name {
    name_to(&WorkloadName { namespace: namespace.clone(), name: name.clone() })
}

pub fn policy_name_from(name: Option<proto::Name>) -> Result<PolicyName, Malformed> {
    name_from(name).map(|WorkloadName { namespace, name }| (namespace, name))
}

pub fn policy_to(policy: &Policy) -> proto::Policy {
    let action = match policy.action {
        Action::Allow => proto::Action::Allow,
        Action::Deny => proto::Action::Deny,
    };
    let service_accounts = match &policy.selector {
        Selector::All | Selector::Listing => None,
        Selector::ServiceAccounts(accounts) => Some(names(accounts)),
    };
    proto::Policy {
        name: Some(policy_name_to(&(policy.namespace.clone(), policy.name.clone()))),
        action: action.into(),
        service_accounts,
        listing: policy.selector == Selector::Listing,
        rules: policy.rules.iter().map(rule_to).collect(),
    }
}

pub fn policy_from(policy: proto::Policy) -> Result<Policy, Malformed> {
    let (namespace, name) = policy_name_from(policy.name)?;
    let within = |bad: Malformed| bad.within(format_args!("policy {namespace}/{name}"));
    let action = match proto::Action::try_from(policy.action) {
        Ok(proto::Action::Allow) => Action::Allow,
        Ok(proto::Action::Deny) => Action::Deny,
        Ok(proto::Action::Unspecified) | Err(_) => {
            return Err(within(Malformed::new("action", "is unknown")));
        }
    };
    let accounts = read("service_accounts", policy.service_accounts, |text| parsed("name", &text));
    let selector = match (accounts.map_err(within)?, policy.listing) {
        (None, false) => Selector::All,
        (None, true) => Selector::Listing,
        (Some(accounts), false) => Selector::ServiceAccounts(accounts),
        (Some(_), true) => return Err(within(Malformed::new("listing", "and service accounts"))),
    };
    let rules = each("rules", policy.rules, limits::RULES, rule_from).map_err(within)?;
    Ok(Policy { namespace, name, selector, action, rules })
}

fn rule_to(rule: &Rule) -> proto::Rule {
    let ports = rule
        .ports
        .as_ref()
        .map(|ports| proto::Ports { ranges: ports.iter().map(range_to).collect() });
    proto::Rule { name: rule.name.clone(), from: rule.from.as_ref().map(source_to), ports }
}

fn rule_from(rule: proto::Rule) -> Result<Rule, Malformed> {
    let is_fit = |name: &String| {
        (1..=limits::RULE_NAME_BYTES).contains(&name.len()) && !name.chars().any(char::is_control)
    };
    if rule.name.as_ref().is_some_and(|name| !is_fit(name)) {
        return Err(Malformed::new("name", "is not a rule's name"));
    }
    let ports = rule.ports.map(|ports| {
        each("ports", ports.ranges, limits::RULE_ENTRIES, |range| {
            let port = |port| u16::try_from(port).map_err(|_| Malformed::new("port", "is no port"));
            Ok(PortRange { first: port(range.first)?, last: port(range.last)? })
        })
    });
    let from = rule.from.map(source_from).transpose().map_err(|bad| bad.within("from"))?;
    Ok(Rule { name: rule.name, from, ports: ports.transpose()? })
}

fn range_to(range: &PortRange) -> proto::PortRange {
    proto::PortRange { first: range.first.into(), last: range.last.into() }
}

fn source_to(source: &Source) -> proto::Source {
    let identity = |wanted: &IdentityMatch| match wanted {
        IdentityMatch::Exact(identity) => identity.to_string(),
        IdentityMatch::Below(prefix) => prefix.clone(),
    };
    proto::Source {
        identities: source
            .identities
            .as_ref()
            .map(|entries| proto::Names { names: entries.iter().map(identity).collect() }),
        namespaces: source.namespaces.as_deref().map(names),
        trust_domains: source.trust_domains.as_deref().map(names),
        addresses: source.addresses.as_deref().map(names),
    }
}

fn source_from(source: proto::Source) -> Result<Source, Malformed> {
    Ok(Source {
        identities: read("identities", source.identities, identity)?,
        namespaces: read("namespaces", source.namespaces, |text| parsed("name", &text))?,
        trust_domains: read("trust_domains", source.trust_domains, |text| parsed("name", &text))?,
        addresses: read("addresses", source.addresses, network)?,
    })
}

/// An identity never ends with a slash, a prefix always does.
fn identity(text: String) -> Result<IdentityMatch, Malformed> {
    if !text.ends_with('/') {
        return parsed("identity", &text).map(IdentityMatch::Exact);
    }
    match text.len() <= PREFIX_BYTES && text.is_ascii() {
        true => Ok(IdentityMatch::Below(text)),
        false => Err(Malformed::new("identity", "is no prefix of identities")),
    }
}

fn network(text: String) -> Result<IpNet, Malformed> {
    let network: IpNet = parsed("network", &text)?;
    match network.trunc() == network {
        true => Ok(network),
        false => Err(Malformed::new("network", format_args!("{network} is within a network"))),
    }
}

fn names<T: ToString>(entries: &[T]) -> proto::Names {
    proto::Names { names: entries.iter().map(ToString::to_string).collect() }
}

fn read<T>(
    at: &str,
    names: Option<proto::Names>,
    one: impl Fn(String) -> Result<T, Malformed>,
) -> Result<Option<Vec<T>>, Malformed> {
    names.map(|given| each(at, given.names, limits::RULE_ENTRIES, one)).transpose()
}
