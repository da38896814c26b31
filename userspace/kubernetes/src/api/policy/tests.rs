//! What is read of a policy, and what is refused.

use serde_json::json;

use super::*;

fn read(spec: Value) -> Result<Read, (Selected, Problem)> {
    let metadata = ObjectMeta {
        namespace: Some("shop".to_owned()),
        name: Some("web".to_owned()),
        ..ObjectMeta::default()
    };
    PolicyObject { metadata, spec, status: Value::Null }.read()
}

fn refused(spec: Value) -> String {
    read(spec).unwrap_err().1.message
}

fn refused_rule(rule: Value) -> String {
    refused(json!({"action": "Allow", "rules": [rule]}))
}

#[test]
fn a_policy_says_whom_from_where_and_where_to() {
    let read = read(json!({
        "selector": {"matchLabels": {"app": "web"}},
        "action": "Allow",
        "rules": [{
            "name": "cart",
            "from": [
                {"identities": ["spiffe://a.org/ns/shop/sa/cart", "spiffe://b.org/"]},
                {"namespaces": ["till"], "trustDomains": ["a.org"], "addresses": ["10.0.0.1", "fd00::/8"]},
            ],
            "to": [{"ports": ["8080", "9000-9100"]}],
        }, {}],
    }))
    .unwrap();
    assert_eq!(read.selected, Selected::Labels([("app".to_owned(), "web".to_owned())].into()));
    assert_eq!(read.action, policy::Action::Allow);
    let range = |first, last| policy::PortRange { first, last };
    let ports = Some(vec![range(8080, 8080), range(9000, 9100)]);
    let identities = vec![
        policy::IdentityMatch::Exact("spiffe://a.org/ns/shop/sa/cart".parse().unwrap()),
        policy::IdentityMatch::Below("spiffe://b.org/".to_owned()),
    ];
    let rule = |from| policy::Rule {
        name: Some("cart".to_owned()),
        from: Some(from),
        ports: ports.clone(),
    };
    let by_identity = policy::Source { identities: Some(identities), ..policy::Source::default() };
    let by_place = policy::Source {
        identities: None,
        namespaces: Some(vec!["till".parse().unwrap()]),
        trust_domains: Some(vec!["a.org".parse().unwrap()]),
        addresses: Some(vec!["10.0.0.1/32".parse().unwrap(), "fd00::/8".parse().unwrap()]),
    };
    let any = policy::Rule { name: Some("rule 2".to_owned()), from: None, ports: None };
    assert_eq!(read.rules, [rule(by_identity), rule(by_place), any]);
}

#[test]
fn what_is_not_known_is_refused_and_never_dropped() {
    let http = refused_rule(json!({"to": [{"ports": ["80"], "methods": ["GET"]}]}));
    assert!(http.contains("methods"), "{http}");
    let when = refused_rule(json!({"when": [{"key": "request.headers[x]"}]}));
    assert!(when.contains("when"), "{when}");
    let from = refused_rule(json!({"from": [{"principals": ["*"]}]}));
    assert!(from.contains("principals"), "{from}");
    let spec = refused(json!({"action": "Allow", "rules": [{}], "targetRefs": []}));
    assert!(spec.contains("targetRefs"), "{spec}");
    let action = refused(json!({"action": "Custom", "rules": [{}]}));
    assert!(action.contains("Custom"), "{action}");
}

#[test]
fn lists_that_match_nothing_are_refused() {
    for (rule, at) in [
        (json!({"from": []}), "rules[0].from"),
        (json!({"from": [{}]}), "rules[0].from[0]"),
        (json!({"from": [{"identities": []}]}), "identities"),
        (json!({"from": [{"namespaces": []}]}), "namespaces"),
        (json!({"from": [{"trustDomains": []}]}), "trustDomains"),
        (json!({"from": [{"addresses": []}]}), "addresses"),
        (json!({"to": []}), "rules[0].to"),
        (json!({"to": [{"ports": []}]}), "ports"),
    ] {
        let message = refused_rule(rule);
        assert!(message.contains(at), "{message}");
    }
    assert!(refused(json!({"action": "Deny", "rules": []})).contains("rules is empty"));
}

#[test]
fn values_that_mean_nothing_are_refused_with_their_place() {
    for (rule, text) in [
        (json!({"to": [{"ports": ["0"]}]}), "\"0\""),
        (json!({"to": [{"ports": ["9-8"]}]}), "\"9-8\""),
        (json!({"to": [{"ports": ["70000"]}]}), "\"70000\""),
        (json!({"from": [{"addresses": ["10.0.0.1/8"]}]}), "10.0.0.0/8"),
        (json!({"from": [{"addresses": ["ten"]}]}), "\"ten\""),
        (json!({"from": [{"identities": ["spiffe://A/x"]}]}), "spiffe://A/x"),
        (json!({"from": [{"identities": ["*"]}]}), "\"*\""),
        (json!({"from": [{"namespaces": ["A b"]}]}), "A b"),
    ] {
        let message = refused_rule(rule);
        assert!(message.contains(text), "{message}");
    }
}

#[test]
fn a_selector_selects_by_one_thing() {
    let rules = json!([{}]);
    for selector in [
        json!({}),
        json!({"matchLabels": {}}),
        json!({"serviceAccounts": []}),
        json!({"matchLabels": {"a": "b"}, "serviceAccounts": ["web"]}),
        json!({"matchExpressions": []}),
    ] {
        let policy = json!({"selector": selector, "action": "Allow", "rules": rules});
        let (selected, problem) = read(policy).unwrap_err();
        // Whom it is about cannot be told, so it is about all.
        assert_eq!(selected, Selected::All, "{problem:?}");
    }
}

#[test]
fn a_refused_policy_is_still_about_whom_it_selects() {
    let (selected, _) = read(json!({
        "selector": {"serviceAccounts": ["web"]}, "action": "Allow", "rules": [{"to": [{"paths": ["/"]}]}],
    }))
    .unwrap_err();
    assert_eq!(selected, Selected::ServiceAccounts(vec!["web".parse().unwrap()]));
}

#[test]
fn whatever_is_stored_is_read_without_panicking() {
    for spec in [Value::Null, json!([]), json!("x"), json!({"selector": 1}), json!({"rules": {}})] {
        assert!(read(spec).is_err());
    }
}

#[test]
fn a_status_that_cannot_be_read_says_nothing() {
    let spec = json!({"action": "Deny", "rules": [{}]});
    let object = PolicyObject { metadata: ObjectMeta::default(), spec, status: Value::Null };
    assert_eq!(object.said(), PolicyStatus::default());
    let unreadable = PolicyObject { status: json!({"conditions": 7}), ..object };
    assert_eq!(unreadable.said(), PolicyStatus::default());
}
