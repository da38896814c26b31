//! Policies: one per name, and no list that matches nothing.

use martlet_policy::{Action, Policy, Rule, Selector, Source};

use super::{Findings, Seen, text};
use crate::{
    file, limits,
    mark::{At, Given, Texts},
    problem::Fault,
};

const ANY_CALLER: &str = "leave it out to match any caller";

pub(super) fn policies(entries: &[file::Policy], found: &mut Findings) -> Vec<Policy> {
    let mut policies = Vec::new();
    let mut names = Seen::new();
    for entry in entries {
        let namespace = text::label(&entry.namespace, found);
        let name = text::label(&entry.name, found);
        let selector = selector(entry.selector.as_ref(), found);
        let rules = rules(&entry.rules, found);
        let (Some(namespace), Some(name)) = (namespace, name) else { continue };
        let what = || format!("policy {namespace}/{name}");
        names.once((namespace.clone(), name.clone()), what, entry.name.mark, found);
        let action = match entry.action {
            file::Action::Allow => Action::Allow,
            file::Action::Deny => Action::Deny,
        };
        policies.push(Policy { namespace, name, selector, action, rules });
    }
    policies
}

fn selector(entry: Option<&file::Selector>, found: &mut Findings) -> Selector {
    let Some(file::Selector { service_accounts }) = entry else { return Selector::All };
    let instead = "leave `selector` out to select every workload of the namespace";
    found.refuse_empty("serviceAccounts", service_accounts, instead);
    Selector::ServiceAccounts(text::labels(service_accounts, found))
}

fn rules(entries: &At<Vec<file::Rule>>, found: &mut Findings) -> Vec<Rule> {
    found.refuse_empty("rules", entries, "a rule `{}` matches every connection");
    let mut names = Seen::new();
    let mut rules = Vec::new();
    for entry in &entries.value {
        if let Some(name) = entry.name.as_ref() {
            check_rule_name(name, found);
            names.once(&name.value, || format!("rule {:?}", name.value), name.mark, found);
        }
        rules.push(Rule {
            name: entry.name.as_ref().map(|name| name.value.clone()),
            from: entry.from.as_ref().map(|from| source(from, found)),
            ports: list(
                "ports",
                &entry.ports,
                "leave it out to match any port",
                found,
                |texts, found| {
                    texts.value.iter().filter_map(|text| text::port_range(text, found)).collect()
                },
            ),
        });
    }
    rules
}

fn check_rule_name(name: &At<String>, found: &mut Findings) {
    let length = name.value.len();
    let fits = 0 < length && length <= limits::MAX_RULE_NAME_BYTES;
    if !fits || name.value.chars().any(char::is_control) {
        let shown = name.value.chars().take(limits::MAX_SHOWN).collect();
        found.note(name.mark, Fault::RuleName(shown));
    }
}

fn source(entry: &At<file::Source>, found: &mut Findings) -> Source {
    let file::Source { identities, namespaces, trust_domains, addresses } = &entry.value;
    let source = Source {
        identities: list("identities", identities, ANY_CALLER, found, |texts, found| {
            texts.value.iter().filter_map(|text| text::identity(text, found)).collect()
        }),
        namespaces: list("namespaces", namespaces, ANY_CALLER, found, text::labels),
        trust_domains: list("trustDomains", trust_domains, ANY_CALLER, found, |texts, found| {
            texts.value.iter().filter_map(|text| text::trust_domain(text, found)).collect()
        }),
        addresses: list("addresses", addresses, ANY_CALLER, found, |texts, found| {
            texts.value.iter().filter_map(|text| text::network(text, found)).collect()
        }),
    };
    if source == Source::default() {
        found.note(entry.mark, Fault::Empty { key: "from", instead: ANY_CALLER });
    }
    source
}

fn list<T>(
    key: &'static str,
    entry: &Given<Texts>,
    instead: &'static str,
    found: &mut Findings,
    read: fn(&Texts, &mut Findings) -> Vec<T>,
) -> Option<Vec<T>> {
    let texts = entry.as_ref()?;
    found.refuse_empty(key, texts, instead);
    Some(read(texts, found))
}
