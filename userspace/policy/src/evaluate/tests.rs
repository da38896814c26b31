//! Tables for what people write, and an oracle for what they don't think of.

use martlet_model::{Mode, WorkloadName};
use proptest::prelude::*;

use super::*;
use crate::rule::{PortRange, Selector};

fn workload(account: &str) -> Workload {
    Workload {
        name: WorkloadName { namespace: "shop".parse().unwrap(), name: "web-0".parse().unwrap() },
        service_account: account.parse().unwrap(),
        identity: format!("spiffe://a.org/ns/shop/sa/{account}").parse().unwrap(),
        addresses: vec!["10.0.0.1".parse().unwrap()],
        node: "one".parse().unwrap(),
        mode: Mode::Strict,
        policies: vec!["p1".parse().unwrap()],
    }
}

fn caller(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

fn decide(set: &PolicySet, who: &str, port: u16) -> Result<Permit, Denied> {
    let callee = workload("web");
    let caller = caller(who);
    let caller_address = "10.0.0.2".parse().unwrap();
    set.authorize(&Request { caller: &caller, caller_address, callee: &callee, port })
}

fn rule(from: Option<Source>, ports: Option<Vec<PortRange>>) -> Rule {
    Rule { name: None, from, ports }
}

fn policy(name: &str, action: Action, rules: Vec<Rule>) -> Policy {
    let (namespace, name) = ("shop".parse().unwrap(), name.parse().unwrap());
    Policy { namespace, name, selector: Selector::All, action, rules }
}

fn from(identities: &[&str]) -> Option<Source> {
    let identities = identities.iter().map(|id| IdentityMatch::Exact(caller(id))).collect();
    Some(Source { identities: Some(identities), ..Source::default() })
}

const CART: &str = "spiffe://a.org/ns/shop/sa/cart";
const EVIL: &str = "spiffe://a.org/ns/evil/sa/cart";

#[test]
fn without_a_policy_the_mesh_is_open() {
    let permit = decide(&PolicySet::default(), EVIL, 80).unwrap();
    assert_eq!(permit.policy(), None);
}

#[test]
fn an_allow_policy_refuses_what_it_does_not_allow() {
    let allow = policy("only-cart", Action::Allow, vec![rule(from(&[CART]), None)]);
    let set = PolicySet::new(vec![allow]).unwrap();
    assert_eq!(decide(&set, CART, 80).unwrap().policy(), Some("shop/only-cart: rule 1"));
    let denied = decide(&set, EVIL, 80).unwrap_err();
    assert_eq!(denied.policy, "shop/only-cart: no rule allows");
}

#[test]
fn deny_wins_and_names_its_rule() {
    let allow = policy("open", Action::Allow, vec![rule(None, None)]);
    let mut blocked = rule(from(&[EVIL]), Some(vec![PortRange { first: 80, last: 90 }]));
    blocked.name = Some("no-evil".into());
    let set = PolicySet::new(vec![allow, policy("block", Action::Deny, vec![blocked])]).unwrap();
    assert_eq!(decide(&set, EVIL, 85).unwrap_err().policy, "shop/block: no-evil");
    assert!(decide(&set, EVIL, 91).is_ok());
    assert!(decide(&set, CART, 85).is_ok());
}

#[test]
fn a_policy_is_about_the_workloads_that_it_selects() {
    let mut other = policy("other", Action::Deny, vec![rule(None, None)]);
    other.selector = Selector::ServiceAccounts(vec!["db".parse().unwrap()]);
    assert!(decide(&PolicySet::new(vec![other]).unwrap(), CART, 80).is_ok());
    let mut elsewhere = policy("elsewhere", Action::Deny, vec![rule(None, None)]);
    elsewhere.namespace = "bank".parse().unwrap();
    assert!(decide(&PolicySet::new(vec![elsewhere]).unwrap(), CART, 80).is_ok());
}

#[test]
fn every_given_field_of_a_source_must_match() {
    let source = Source {
        namespaces: Some(vec!["shop".parse().unwrap()]),
        trust_domains: Some(vec!["a.org".parse().unwrap()]),
        addresses: Some(vec!["10.0.0.0/24".parse().unwrap()]),
        identities: Some(vec![IdentityMatch::Below("spiffe://a.org/ns/shop/".into())]),
    };
    let set = |source: &Source| {
        let rules = vec![rule(Some(source.clone()), None)];
        PolicySet::new(vec![policy("p", Action::Allow, rules)]).unwrap()
    };
    assert!(decide(&set(&source), CART, 80).is_ok());
    assert!(decide(&set(&source), EVIL, 80).is_err());
    assert!(decide(&set(&source), "spiffe://b.org/ns/shop/sa/cart", 80).is_err());
    let elsewhere = Source { addresses: Some(vec!["10.9.0.0/24".parse().unwrap()]), ..source };
    assert!(decide(&set(&elsewhere), CART, 80).is_err());
}

#[test]
fn a_mapped_address_is_the_address_that_it_maps() {
    let source =
        Source { addresses: Some(vec!["10.0.0.0/24".parse().unwrap()]), ..Source::default() };
    let deny = policy("p", Action::Deny, vec![rule(Some(source), None)]);
    let set = PolicySet::new(vec![deny]).unwrap();
    let (callee, caller) = (workload("web"), caller(CART));
    let from = |address: &str| {
        let caller_address = address.parse().unwrap();
        set.authorize(&Request { caller: &caller, caller_address, callee: &callee, port: 80 })
    };
    assert!(from("::ffff:10.0.0.2").is_err());
    assert!(from("::ffff:10.0.9.2").is_ok());
}

#[test]
fn what_would_mean_nothing_is_refused() {
    let empty_source = Source { namespaces: Some(vec![]), ..Source::default() };
    let turned = Some(vec![PortRange { first: 9, last: 8 }]);
    let zero = Some(vec![PortRange { first: 0, last: 8 }]);
    let half = Source {
        identities: Some(vec![IdentityMatch::Below("spiffe://a.org/ns/sh".into())]),
        ..Source::default()
    };
    for rules in [
        vec![],
        vec![rule(None, Some(vec![]))],
        vec![rule(Some(Source::default()), None)],
        vec![rule(Some(empty_source), None)],
        vec![rule(None, turned)],
        vec![rule(None, zero)],
        vec![rule(Some(half), None)],
    ] {
        let shown = format!("{rules:?}");
        assert!(PolicySet::new(vec![policy("p", Action::Deny, rules)]).is_err(), "{shown}");
    }
    let twice = vec![policy("p", Action::Deny, vec![rule(None, None)]); 2];
    assert_eq!(PolicySet::new(twice).unwrap_err(), PolicyError::Twice("shop/p".into()));
}

/// Slow and obvious: asks every policy every question.
fn oracle(policies: &[Policy], who: &str, port: u16) -> bool {
    let applies = |policy: &Policy| match &policy.selector {
        Selector::All => policy.namespace.as_str() == "shop",
        Selector::ServiceAccounts(accounts) => {
            policy.namespace.as_str() == "shop" && accounts.iter().any(|a| a.as_str() == "web")
        }
        // The workload lists one.
        Selector::Listing => policy.namespace.as_str() == "shop" && policy.name.as_str() == "p1",
    };
    let hit = |policy: &Policy| {
        policy.rules.iter().any(|rule| {
            let ports = match &rule.ports {
                None => true,
                Some(ranges) => ranges.iter().any(|r| r.first <= port && port <= r.last),
            };
            let source = match rule.from.as_ref().and_then(|from| from.identities.as_ref()) {
                None => true,
                Some(ids) => ids.iter().any(|id| *id == IdentityMatch::Exact(caller(who))),
            };
            ports && source
        })
    };
    let mine: Vec<_> = policies.iter().filter(|policy| applies(policy)).collect();
    if mine.iter().any(|policy| policy.action == Action::Deny && hit(policy)) {
        return false;
    }
    let allows: Vec<_> = mine.iter().filter(|policy| policy.action == Action::Allow).collect();
    allows.is_empty() || allows.iter().any(|policy| hit(policy))
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let ports = proptest::option::of(
        (1..6_u16, 0..3_u16)
            .prop_map(|(first, more)| vec![PortRange { first, last: first + more }]),
    );
    let who = proptest::option::of(prop_oneof![Just(CART), Just(EVIL)]);
    (who, ports).prop_map(|(who, ports)| rule(who.and_then(|who| from(&[who])), ports))
}

fn any_policies() -> impl Strategy<Value = Vec<Policy>> {
    let one = (
        prop_oneof![Just("shop"), Just("bank")],
        prop_oneof![Just(Action::Allow), Just(Action::Deny)],
        prop_oneof![Just("all"), Just("web"), Just("db"), Just("listing")],
        proptest::collection::vec(any_rule(), 1..3),
    );
    proptest::collection::vec(one, 0..5).prop_map(|policies| {
        let make = |(index, (namespace, action, selector, rules))| {
            let mut made = policy(&format!("p{index}"), action, rules);
            made.namespace = str::parse(namespace).unwrap();
            made.selector = match selector {
                "all" => Selector::All,
                "listing" => Selector::Listing,
                account => Selector::ServiceAccounts(vec![str::parse(account).unwrap()]),
            };
            made
        };
        policies.into_iter().enumerate().map(make).collect()
    })
}

proptest! {
    #[test]
    fn evaluation_equals_the_oracle(policies in any_policies(), port in 1..9_u16, evil: bool) {
        let who = if evil { EVIL } else { CART };
        let set = PolicySet::new(policies.clone()).unwrap();
        prop_assert_eq!(decide(&set, who, port).is_ok(), oracle(&policies, who, port));
    }
}
