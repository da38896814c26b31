//! A good pair, and everything that makes it another.

use martlet_model::report::{CertificateReport, Hook};

use super::*;

const NOW: u64 = 1_000_000;

fn end(name: &str, node: &str) -> End {
    let name = WorkloadName { namespace: "shop".parse().unwrap(), name: name.parse().unwrap() };
    let certificate = CertificateReport {
        subject: String::new(),
        issuer: String::new(),
        uris: vec![],
        serial: String::new(),
        fingerprint: String::new(),
        not_before: NOW - 3600,
        not_after: NOW + 3600,
    };
    let hook = Hook { name: "martlet_connect4".to_owned(), attached: true, adopted: false };
    End {
        node: node.to_owned(),
        mode: Some(Mode::Strict),
        is_default: false,
        is_workload: true,
        is_on_host: false,
        problems: vec![],
        status: Some(Status {
            version: "1".to_owned(),
            node: node.parse().unwrap(),
            trust_domain: "a.org".parse().unwrap(),
            ready: true,
            not_ready: vec![],
            uptime_seconds: 1,
            configuration: String::new(),
            configuration_error: None,
            unconfined: vec![],
            fails_open: false,
            controller: None,
            workloads: 1,
            connections: 0,
            idle_lanes: 0,
            hooks: vec![hook],
            counters: vec![],
            repairs: vec![],
            predecessor: None,
        }),
        silent: None,
        state: Some(WorkloadReport {
            name: name.clone(),
            identity: "spiffe://a.org/ns/shop/sa/x".parse().unwrap(),
            addresses: vec![],
            node: node.parse().unwrap(),
            mode: Mode::Strict,
            state: "steered".to_owned(),
            reason: None,
        }),
        leaf: Some(LeafReport {
            workload: name.clone(),
            chain: vec![certificate],
            renews_at: NOW,
            renewal_error: None,
        }),
        name,
    }
}

fn judged(change: impl FnOnce(&mut Facts)) -> Judged {
    let mut facts = Facts {
        caller: end("client", "one"),
        called: end("server", "two"),
        route: Route::Pod,
        policy: Policy::Allowed(None),
        now: NOW,
    };
    change(&mut facts);
    judge(&facts)
}

#[track_caller]
fn becomes(outcome: Outcome, part: &str, change: impl FnOnce(&mut Facts)) {
    let judged = judged(change);
    assert_eq!(judged.outcome, outcome, "{}", judged.would);
    let said = format!("{}; {}", judged.would, judged.what_to_do.unwrap_or_default());
    assert!(said.contains(part), "{said}");
}

fn not_enrolled(end: &mut End) {
    (end.mode, end.is_workload, end.state) = (None, false, None);
}

#[test]
fn a_good_pair_speaks_mtls_and_nothing_is_wrong_with_it() {
    let judged = judged(|_| {});
    assert_eq!(judged.outcome, Outcome::MutualTls);
    assert!(judged.steps.iter().all(|step| step.is_good == Some(true)), "{:?}", judged.steps);
    assert_eq!(judged.what_to_do, None);
    becomes(Outcome::MutualTls, "allowed by shop/web: carts", |facts| {
        facts.policy = Policy::Allowed(Some("shop/web: carts".to_owned()));
    });
}

#[test]
fn it_is_said_by_what_a_pod_is_enrolled() {
    let said = |is_default| {
        let judged = judged(|facts| facts.caller.is_default = is_default);
        judged.steps[0].text.contains("strict by the MeshConfig, and steered")
    };
    assert!(said(true) && !said(false));
}

#[test]
fn a_denied_pair_is_told_by_which_rule() {
    becomes(Outcome::Refused, "denied by shop/web: no rule allows", |facts| {
        facts.policy = Policy::Denied("shop/web: no rule allows".to_owned());
    });
}

#[test]
fn an_unenrolled_caller_gets_in_only_where_that_is_permitted() {
    becomes(Outcome::Refused, "shop/server is strict", |facts| not_enrolled(&mut facts.caller));
    becomes(Outcome::Plaintext, "label namespace shop", |facts| {
        not_enrolled(&mut facts.caller);
        facts.called.mode = Some(Mode::Permissive);
    });
    // Wanted inside, and not a workload: it is not decided, and gets in nowhere.
    becomes(Outcome::Refused, "is another's address", |facts| {
        facts.caller.is_workload = false;
        facts.caller.problems = vec!["10.0.0.1 is another's address".to_owned()];
        facts.called.mode = Some(Mode::Permissive);
    });
}

#[test]
fn an_unenrolled_callee_is_reached_in_plaintext() {
    becomes(Outcome::Plaintext, "shop/server is not in the mesh", |facts| {
        not_enrolled(&mut facts.called);
    });
    becomes(Outcome::Plaintext, "stays outside", |facts| {
        facts.called.is_workload = false;
        facts.called.is_on_host = true;
    });
}

#[test]
fn what_is_not_known_is_not_made_up() {
    becomes(Outcome::Unknown, "agent of two cannot be asked (no pod)", |facts| {
        facts.called.silent = Some("no pod".to_owned());
        (facts.called.status, facts.called.state, facts.called.leaf) = (None, None, None);
    });
}

#[test]
fn who_is_not_steered_or_has_no_certificate_is_refused() {
    becomes(Outcome::Refused, "shop/client is to be in the mesh and is not yet", |facts| {
        facts.caller.state.as_mut().unwrap().state = "seen".to_owned();
    });
    becomes(Outcome::Refused, "shop/server has none", |facts| facts.called.leaf = None);
    becomes(Outcome::Refused, "that of shop/client has expired", |facts| {
        facts.caller.leaf.as_mut().unwrap().chain[0].not_after = NOW;
    });
}

#[test]
fn a_service_without_endpoints_leads_nowhere_and_a_pod_may_talk_to_itself() {
    becomes(Outcome::Refused, "no endpoint that is ready", |facts| {
        facts.route = Route::Service { address: None, ready: 0, all: 1, endpoint: None };
    });
    becomes(Outcome::Internal, "talks to itself", |facts| {
        facts.called = end("client", "one");
    });
}
