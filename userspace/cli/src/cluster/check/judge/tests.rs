//! One cluster that is as it should be, and everything that can be wrong with it, one by one.

use martlet_model::coverage::{Datagrams, PairReport, Stream};

use super::*;

fn node(name: &str, kernel: &str) -> NodeFacts {
    let text = str::to_owned;
    NodeFacts { name: text(name), kernel: text(kernel), system: text("linux"), is_ready: true }
}

fn rollout_of(wanted: i32) -> Rollout {
    Rollout { image: "martlet:1".to_owned(), wanted, ready: wanted, updated: wanted }
}

fn right() -> Right {
    Right { verb: "list", group: "", resource: "pods", subresource: "", is_of_system: true }
}

fn status() -> Status {
    Status {
        version: OURS.to_owned(),
        node: "one".parse().unwrap(),
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
        hooks: vec![],
        counters: vec![],
        repairs: vec![],
        predecessor: None,
    }
}

fn good() -> Facts {
    let security = [("pod-security.kubernetes.io/enforce".to_owned(), "privileged".to_owned())];
    let definition = |name| Definition { name, served: vec![VERSION.to_owned()] };
    let check = Topic::NodeKernel.good("the kernel has BTF");
    let said = NodeSaid {
        check: whole(vec![category("kernel", vec![check])]),
        status: status(),
        coverage: Coverage { node: "one".parse().unwrap(), pairs: vec![] },
    };
    Facts {
        system: "martlet-system".to_owned(),
        server: "https://api:6443/".to_owned(),
        version: Ok("v1.20.0".to_owned()),
        rights: vec![(right(), Ok(true))],
        nodes: Ok(vec![node("one", "5.15.0-91-generic")]),
        definitions: Ok(definition_names().into_iter().map(definition).collect()),
        labels: Ok(Some(security.into())),
        agents: Ok(Some(rollout_of(1))),
        controllers: Ok(Some(rollout_of(1))),
        unknown_modes: Ok(vec![]),
        settings: Ok(vec![Setting { name: DEFAULT.to_owned(), refused: None }]),
        policies: Ok(vec![Policy { name: "shop/web".to_owned(), refused: None }]),
        members: Ok(vec![("one".to_owned(), Ok(said))]),
        control: Ok(Nodes {
            trust_domain: "a.org".parse().unwrap(),
            version: 1,
            trust_version: 1,
            nodes: vec![],
        }),
        trust: Ok(TrustReport {
            trust_domain: "a.org".parse().unwrap(),
            version: 1,
            rotation: None,
            roots: vec![],
            issuers: vec![],
            leaves_of_unknown_issuers: 0,
            renewal_error: None,
            nodes: vec![],
            foreign: vec![],
            endpoints: vec![],
            quarantines: vec![],
        }),
    }
}

/// Anchor and result of everything that is not in order.
fn found(change: impl FnOnce(&mut Facts)) -> Vec<(String, CheckResult)> {
    let mut facts = good();
    change(&mut facts);
    let report = report(&facts, 0);
    let checks = report.categories.iter().flat_map(|category| &category.checks);
    let wrong = checks.filter(|check| check.result != CheckResult::Success);
    let wrong: Vec<_> = wrong
        .map(|check| {
            let hint = check.hint.as_deref().expect("what is wrong has a hint");
            assert!(check.error.is_some(), "{check:?}");
            (hint.rsplit_once('#').expect("a hint has an anchor").1.to_owned(), check.result)
        })
        .collect();
    assert_eq!(report.success, wrong.iter().all(|(_, result)| *result == CheckResult::Warning));
    wrong
}

fn is_error(topic: Topic, change: impl FnOnce(&mut Facts)) {
    assert_eq!(found(change), [(topic.anchor().to_owned(), CheckResult::Error)]);
}

fn is_warning(topic: Topic, change: impl FnOnce(&mut Facts)) {
    assert_eq!(found(change), [(topic.anchor().to_owned(), CheckResult::Warning)]);
}

fn no<T>() -> Told<T> {
    Err("no answer".to_owned())
}

#[test]
fn a_cluster_that_is_as_it_should_be_has_no_errors_and_nothing_to_look_at() {
    assert_eq!(found(|_| {}), []);
}

#[test]
fn each_thing_that_is_wrong_is_found_under_its_own_heading() {
    is_error(Topic::ApiServer, |facts| facts.version = no());
    is_error(Topic::ApiVersion, |facts| facts.version = Ok("v1.19.3".to_owned()));
    is_error(Topic::Rights, |facts| facts.rights[0].1 = Ok(false));
    is_error(Topic::Kernel, |facts| facts.nodes = Ok(vec![node("one", "4.18.0-553.el8")]));
    is_warning(Topic::Kernel, |facts| facts.nodes = no());
    is_error(Topic::System, |facts| facts.labels = Ok(None));
    is_warning(Topic::PodSecurity, |facts| facts.labels = Ok(Some(BTreeMap::new())));
    is_error(Topic::Definitions, |facts| facts.definitions = Ok(vec![]));
    is_error(Topic::Agents, |facts| facts.agents = Ok(None));
    is_error(Topic::Agents, |facts| {
        facts.agents = Ok(Some(Rollout { ready: 1, ..rollout_of(2) }));
    });
    is_warning(Topic::Controller, |facts| {
        facts.controllers = Ok(Some(Rollout { updated: 0, ..rollout_of(1) }));
    });
    is_warning(Topic::Versions, |facts| {
        let said = facts.members.as_mut().unwrap()[0].1.as_mut().unwrap();
        said.status.version = "0.0.1".to_owned();
    });
    is_warning(Topic::Coverage, |facts| {
        let said = facts.members.as_mut().unwrap()[0].1.as_mut().unwrap();
        let end = |name: &str| {
            let (namespace, name) = ("shop".parse().unwrap(), name.parse().unwrap());
            Counterpart::Workload(martlet_model::WorkloadName { namespace, name })
        };
        said.coverage.pairs = vec![PairReport {
            from: end("cart"),
            to: end("web"),
            mtls: Stream::default(),
            plaintext: Stream { bytes: 1, connections: 1 },
            refused: Stream::default(),
            unseen: Stream::default(),
            other: Datagrams::default(),
            other_refused: Datagrams::default(),
        }];
    });
    is_warning(Topic::Versions, |facts| {
        let image = "martlet:2".to_owned();
        facts.controllers = Ok(Some(Rollout { image, ..rollout_of(1) }));
    });
    is_error(Topic::ControlPlane, |facts| facts.control = no());
    is_error(Topic::Authority, |facts| facts.trust = no());
    is_error(Topic::Authority, |facts| {
        let trust = facts.trust.as_mut().unwrap();
        trust.renewal_error = Some("no key".to_owned());
    });
    is_error(Topic::Labels, |facts| {
        facts.unknown_modes = Ok(vec!["namespace shop (\"Strict\")".to_owned()]);
    });
    is_error(Topic::Policies, |facts| {
        facts.policies.as_mut().unwrap()[0].refused = Some("rules is empty".to_owned());
    });
    is_error(Topic::Settings, |facts| {
        facts.settings.as_mut().unwrap()[0].refused = Some("failure: opne".to_owned());
    });
    is_warning(Topic::Settings, |facts| {
        let refused = Some("only the MeshConfig named default is used".to_owned());
        let other = Setting { name: "other".to_owned(), refused };
        facts.settings.as_mut().unwrap().push(other);
    });
    is_error(Topic::NodeAnswers, |facts| facts.members = Ok(vec![("one".to_owned(), no())]));
}

#[test]
fn what_an_agent_has_found_keeps_its_hint_and_gets_an_anchor() {
    let mut facts = good();
    let members = facts.members.as_mut().unwrap();
    let said = members[0].1.as_mut().unwrap();
    said.check.categories[0].checks[0] = Check {
        description: "the kernel has BTF".to_owned(),
        result: CheckResult::Error,
        error: Some("no /sys/kernel/btf/vmlinux".to_owned()),
        hint: Some("use another".to_owned()),
    };
    let report = report(&facts, 0);
    let category = report.categories.last().unwrap();
    assert_eq!(node_of(&category.category_name), Some("one"));
    let hint = category.checks[0].hint.as_deref();
    assert_eq!(hint, Some("use another; docs/checks.md#node-kernel"));
    assert!(!report.success);
}

#[test]
fn before_it_is_installed_only_what_can_be_known_is_said() {
    let before = |nodes, labels| {
        let rights = vec![(right(), Ok(true))];
        let facts = Before { version: Ok("v1.33.1".to_owned()), rights, nodes, labels };
        super::before(&facts, "https://api:6443/")
    };
    assert!(before(Ok(vec![node("one", "6.1.0-18-amd64")]), Ok(None)).success);
    assert!(!before(Ok(vec![node("one", "5.10.0")]), Ok(None)).success);
    assert!(!before(Ok(vec![]), no()).success);
}
