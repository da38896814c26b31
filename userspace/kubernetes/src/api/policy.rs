//! `AuthorizationPolicy`: who may connect to the selected workloads of its namespace.

use std::collections::BTreeMap;

use ipnet::IpNet;
use kube::{CustomResource, Resource, api::ObjectMeta};
use martlet_model::{Label, SpiffeId};
use martlet_policy as policy;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    api::status::{Condition, PolicyStatus},
    limits,
    seen::{Pod, Problem},
};

/// Who may connect to the selected workloads of the policy's namespace.
///
/// Within the mesh everything is allowed until a policy selects the called workload. A `Deny` that
/// matches wins; if any `Allow` selects the workload, what none of them matches is refused.
#[derive(Debug, Clone, CustomResource, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "martlet.dev",
    version = "v1alpha1",
    kind = "AuthorizationPolicy",
    namespaced,
    status = "PolicyStatus",
    shortname = "map",
    category = "martlet",
    printcolumn = r#"{"name":"Action","type":"string","jsonPath":".spec.action"}"#,
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name":"Programmed","type":"string","jsonPath":".status.conditions[?(@.type==\"Programmed\")].status"}"#,
    printcolumn = r#"{"name":"Agents","type":"string","jsonPath":".status.agents"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct AuthorizationPolicySpec {
    /// Which workloads of the namespace. Without it: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
    pub action: Action,
    /// A connection is matched if one of the rules matches. A rule `{}` matches every connection.
    #[schemars(length(min = 1, max = 256))]
    pub rules: Vec<Rule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Action {
    /// What no rule of the selecting `Allow` policies matches is refused.
    Allow,
    /// What a rule matches is refused, whatever is allowed elsewhere.
    Deny,
}

/// Which workloads of the policy's namespace: by one of the two.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1, "x-kubernetes-preserve-unknown-fields" = true))]
pub struct Selector {
    /// The pods with all of these labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minProperties" = 1))]
    pub match_labels: Option<BTreeMap<String, String>>,
    /// The pods with one of these service accounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub service_accounts: Option<Vec<String>>,
}

/// Matches if the caller and the port match.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct Rule {
    /// Shown in refusals. Without it: the rule's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub name: Option<String>,
    /// The callers: one of these must match. Without it: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub from: Option<Vec<From>>,
    /// The ports: one of these must match. Without it: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub to: Option<Vec<To>>,
}

/// Every field that is given must match, and of each field one entry.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("minProperties" = 1, "x-kubernetes-preserve-unknown-fields" = true))]
pub struct From {
    /// A SPIFFE ID, or all below a path if it ends with `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1), inner(regex(pattern = "^spiffe://")))]
    pub identities: Option<Vec<String>>,
    /// Namespaces of callers, of any trust domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub namespaces: Option<Vec<String>>,
    /// Trust domains of callers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub trust_domains: Option<Vec<String>>,
    /// Addresses of callers, or networks like `10.0.0.0/8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub addresses: Option<Vec<String>>,
}

/// Where to.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("minProperties" = 1, "x-kubernetes-preserve-unknown-fields" = true))]
pub struct To {
    /// Ports of the workload, and ranges like `9000-9100`.
    #[schemars(length(min = 1), inner(regex(pattern = "^[0-9]{1,5}(-[0-9]{1,5})?$")))]
    pub ports: Vec<String>,
}

/// A policy as it is stored, with whatever stands in it.
#[derive(Debug, Clone, Resource, Deserialize)]
#[resource(inherit = "AuthorizationPolicy")]
pub struct PolicyObject {
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub spec: Value,
    /// Whatever it is: one that cannot be read must not keep others from being heard.
    #[serde(default)]
    pub status: Value,
}

/// What a policy says, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    pub selected: Selected,
    pub action: policy::Action,
    pub rules: Vec<policy::Rule>,
}

/// Which workloads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selected {
    All,
    ServiceAccounts(Vec<Label>),
    Labels(BTreeMap<String, String>),
}

impl PolicyObject {
    /// What its status says; nothing if that cannot be read.
    pub fn said(&self) -> PolicyStatus {
        serde_json::from_value(self.status.clone()).unwrap_or_default()
    }

    /// What its status says, as far as that can be read.
    pub fn conditions(&self) -> Vec<Condition> {
        let said = serde_json::from_value(self.status.clone());
        let PolicyStatus { conditions, .. } = said.unwrap_or_default();
        conditions
    }

    /// Whether it is about this pod, which is of its namespace.
    pub fn selects(&self, pod: &Pod) -> bool {
        let selected = match self.read() {
            Ok(read) => read.selected,
            Err((selected, _)) => selected,
        };
        match selected {
            Selected::All => true,
            Selected::ServiceAccounts(accounts) => accounts.contains(&pod.service_account),
            Selected::Labels(labels) => {
                labels.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
            }
        }
    }

    pub fn namespace(&self) -> String {
        self.metadata.namespace.clone().unwrap_or_default()
    }

    pub fn name(&self) -> String {
        self.metadata.name.clone().unwrap_or_default()
    }

    pub fn names(&self) -> Result<(Label, Label), Problem> {
        let name =
            |text: &str| text.parse().map_err(|error| Problem::new("Name", format!("{error}")));
        Ok((name(&self.namespace())?, name(self.metadata.name.as_deref().unwrap_or_default())?))
    }

    /// What it says; or which workloads it is about, as far as that can be told, and why it cannot be
    /// enforced.
    pub fn read(&self) -> Result<Read, (Selected, Problem)> {
        let selector = match self.spec.get("selector") {
            None | Some(Value::Null) => Ok(Selected::All),
            Some(value) => strict(value, "selector").and_then(select),
        };
        // Whom it is about is not known: then about all whom it can be about.
        let selected = selector.as_ref().map_or(Selected::All, Clone::clone);
        let read = || {
            let selected = selector?;
            let bytes = self.spec.to_string().len();
            if bytes > limits::POLICY_BYTES {
                let most = limits::POLICY_BYTES;
                return Err(format!("spec has {bytes} bytes, and {most} is the most; split it"));
            }
            let spec: AuthorizationPolicySpec = strict(&self.spec, "spec")?;
            let action = match spec.action {
                Action::Allow => policy::Action::Allow,
                Action::Deny => policy::Action::Deny,
            };
            Ok(Read { selected, action, rules: rules(spec.rules)? })
        };
        read().map_err(|message| (selected, Problem::new("Invalid", message)))
    }
}

/// Says where in the object it goes wrong.
pub(super) fn strict<T: DeserializeOwned>(value: &Value, at: &str) -> Result<T, String> {
    serde_json::from_value(value.clone()).map_err(|error| format!("{at}: {error}"))
}

fn select(selector: Selector) -> Result<Selected, String> {
    match (selector.match_labels, selector.service_accounts) {
        (Some(labels), None) if labels.is_empty() => {
            Err("selector.matchLabels is empty; leave `selector` out to select all".to_owned())
        }
        (Some(labels), None) => Ok(Selected::Labels(labels)),
        (None, Some(accounts)) if accounts.is_empty() => {
            Err("selector.serviceAccounts is empty; leave `selector` out to select all".to_owned())
        }
        (None, Some(accounts)) => {
            parsed("selector.serviceAccounts", accounts).map(Selected::ServiceAccounts)
        }
        (None, None) => Err("selector is empty; leave it out to select all".to_owned()),
        (Some(_), Some(_)) => {
            Err("selector has both matchLabels and serviceAccounts; use one of them".to_owned())
        }
    }
}

/// A rule with several sources is as many rules with one each.
fn rules(rules: Vec<Rule>) -> Result<Vec<policy::Rule>, String> {
    if rules.is_empty() {
        return Err("rules is empty, which matches nothing; a rule `{}` matches all".to_owned());
    }
    let mut read = Vec::new();
    for (index, Rule { name, from, to }) in rules.into_iter().enumerate() {
        let at = format!("rules[{index}]");
        let name = name.unwrap_or_else(|| format!("rule {}", index + 1));
        let fits = (1..=limits::RULE_NAME_BYTES).contains(&name.len());
        if !fits || name.chars().any(char::is_control) {
            return Err(format!("{at}.name has 1 to {} characters", limits::RULE_NAME_BYTES));
        }
        let name = Some(name);
        let ports = to.map(|to| ports(&at, to)).transpose()?;
        match from {
            None => read.push(policy::Rule { name, from: None, ports }),
            Some(from) if from.is_empty() => {
                let why = "is empty, which matches nothing; leave it out for any";
                return Err(format!("{at}.from {why}"));
            }
            Some(from) => {
                for (number, one) in from.into_iter().enumerate() {
                    let from = Some(source(&format!("{at}.from[{number}]"), one)?);
                    read.push(policy::Rule { name: name.clone(), from, ports: ports.clone() });
                }
            }
        }
        if read.len() > limits::RULES {
            let most = limits::RULES;
            return Err(format!("there are more than {most} rules and sources; split it"));
        }
    }
    Ok(read)
}

fn source(at: &str, from: From) -> Result<policy::Source, String> {
    let From { identities, namespaces, trust_domains, addresses } = from;
    if identities.is_none()
        && namespaces.is_none()
        && trust_domains.is_none()
        && addresses.is_none()
    {
        return Err(format!("{at} names nobody; leave `from` out for any caller"));
    }
    let identities = identities.map(|texts| {
        let texts = filled(format!("{at}.identities"), texts)?;
        texts.iter().map(|text| identity(at, text)).collect::<Result<Vec<_>, _>>()
    });
    let addresses = addresses.map(|texts| {
        let texts = filled(format!("{at}.addresses"), texts)?;
        texts.iter().map(|text| network(at, text)).collect::<Result<Vec<_>, _>>()
    });
    let listed = |key, texts| parsed(&format!("{at}.{key}"), texts);
    Ok(policy::Source {
        identities: identities.transpose()?,
        namespaces: namespaces.map(|texts| listed("namespaces", texts)).transpose()?,
        trust_domains: trust_domains
            .map(|texts| parsed(&format!("{at}.trustDomains"), texts))
            .transpose()?,
        addresses: addresses.transpose()?,
    })
}

fn identity(at: &str, text: &str) -> Result<policy::IdentityMatch, String> {
    let bad = |error| format!("{at}.identities: {text:?}: {error}");
    let parse = |text: &str| text.parse::<SpiffeId>();
    match text.strip_suffix('/') {
        None => parse(text).map(policy::IdentityMatch::Exact).map_err(bad),
        // All of a trust domain has an empty path, which by itself is no identity.
        Some(_) => match parse(&format!("{text}x")) {
            Ok(_) => Ok(policy::IdentityMatch::Below(text.to_owned())),
            Err(error) => Err(bad(error)),
        },
    }
}

fn network(at: &str, text: &str) -> Result<IpNet, String> {
    let parsed =
        text.parse().or_else(|_| text.parse().map(|address: std::net::IpAddr| address.into()));
    let network: IpNet =
        parsed.map_err(|_| format!("{at}.addresses: {text:?} is no address and no network"))?;
    match network == network.trunc() {
        true => Ok(network),
        false => Err(format!(
            "{at}.addresses: {text:?} has bits beside its prefix; write {}",
            network.trunc()
        )),
    }
}

fn ports(at: &str, to: Vec<To>) -> Result<Vec<policy::PortRange>, String> {
    if to.is_empty() {
        return Err(format!("{at}.to is empty, which matches nothing; leave it out for any port"));
    }
    let mut read = Vec::new();
    for (number, To { ports }) in to.into_iter().enumerate() {
        let at = format!("{at}.to[{number}].ports");
        for text in filled(at.clone(), ports)? {
            let (first, last) = text.split_once('-').unwrap_or((&text, &text));
            let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
            match (port(first), port(last)) {
                (Some(first), Some(last)) if first <= last => {
                    read.push(policy::PortRange { first, last });
                }
                _ => return Err(format!("{at}: {text:?} is no port and no range of ports")),
            }
        }
    }
    Ok(read)
}

fn filled(at: String, texts: Vec<String>) -> Result<Vec<String>, String> {
    match texts.is_empty() {
        true => Err(format!("{at} is empty, which matches nothing; leave it out to match any")),
        false => Ok(texts),
    }
}

fn parsed<T>(at: &str, texts: Vec<String>) -> Result<Vec<T>, String>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    let texts = filled(at.to_owned(), texts)?;
    let each = texts.iter().map(|text| text.parse().map_err(|error| format!("{at}: {error}")));
    each.collect()
}

#[cfg(test)]
mod tests;
