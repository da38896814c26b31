//! Whatever one side has, the other has after it was told, all at once or change by change; and what
//! cannot be is not taken.

use std::{sync::Arc, time::Duration};

use martlet_model::{
    Choice, Label, LocalWorkload, Mode, Near, NetnsSource, Part, Service, SpiffeId, Trust,
    TrustDomain, Udp, Workload, WorkloadName,
};
use martlet_policy::{Action, IdentityMatch, Policy, PortRange, Rule, Selector, Source};
use proptest::prelude::*;

use super::*;
use crate::{limits, message, proto};

mod changes;
mod settings;

fn label(text: &str) -> Label {
    text.parse().unwrap()
}

fn domain() -> TrustDomain {
    "a.org".parse().unwrap()
}

/// A root that a bundle takes.
fn root() -> Vec<u8> {
    use std::sync::OnceLock;
    static ROOT: OnceLock<Vec<u8>> = OnceLock::new();
    let make = || martlet_authority::Authority::ephemeral(&domain()).unwrap().roots()[0].clone();
    ROOT.get_or_init(make).clone()
}

fn trust(version: u64) -> Arc<Trust> {
    let roots = [(domain(), vec![root()])].into();
    Arc::new(Trust { version, roots, ..Trust::default() })
}

fn workload(name: &str, node: &str, address: &str) -> Arc<Workload> {
    Arc::new(Workload {
        name: WorkloadName { namespace: label("shop"), name: label(name) },
        service_account: label(name),
        identity: SpiffeId::for_workload(&domain(), "shop", name).unwrap(),
        addresses: vec![address.parse().unwrap()],
        node: label(node),
        mode: Mode::Strict,
        policies: vec![],
    })
}

fn local(workload: &Arc<Workload>) -> LocalWorkload {
    LocalWorkload {
        workload: workload.clone(),
        netns: NetnsSource::Path("/run/netns/web".into()),
        udp: Udp::Refuse,
        probes: vec![8080],
        workload_api: true,
    }
}

fn service(address: &str) -> Arc<Service> {
    let endpoints = vec!["10.0.0.1:8080".parse().unwrap()];
    let (namespace, name) = (label("shop"), label("web"));
    let (address, choice) = (address.parse().unwrap(), Choice::default());
    Arc::new(Service { namespace, name, address, endpoints, choice })
}

fn policy(name: &str) -> Arc<Policy> {
    let rules = vec![Rule { name: None, from: None, ports: None }];
    let (namespace, selector) = (label("shop"), Selector::All);
    Arc::new(Policy { namespace, name: label(name), selector, action: Action::Deny, rules })
}

fn declaration() -> Declaration {
    let (web, cart) = (workload("web", "one", "10.0.0.1"), workload("cart", "two", "10.0.0.2"));
    Declaration {
        local: vec![local(&web), local(&cart)],
        workloads: vec![web, cart],
        services: vec![service("10.9.0.1:80")],
        policies: vec![policy("closed")],
        outside: vec![outsider("shop/off", "one"), outsider("shop/job", "two")],
        trust: trust(1),
        ..Declaration::default()
    }
}

fn outsider(text: &str, node: &str) -> Outsider {
    let (namespace, name) = text.split_once('/').unwrap();
    let name = WorkloadName { namespace: label(namespace), name: label(name) };
    let netns = NetnsSource::Pod(format!("uid-{node}").into());
    Outsider { name, node: label(node), netns }
}

fn table() -> Table {
    Table::of(declaration()).unwrap()
}

fn agent(node: &str) -> Receiving {
    Receiving::new(domain(), label(node))
}

/// All messages, of which the last one gives the whole.
fn tell(agent: &mut Receiving, said: Vec<proto::ToAgent>) -> Result<Declared, Refused> {
    let mut whole = None;
    for message in said {
        if let Received::Whole(declared) = agent.receive(message)? {
            whole = Some(*declared);
        }
    }
    Ok(whole.expect("the last message is complete"))
}

fn full(table: &Table, version: u64) -> Vec<proto::ToAgent> {
    messages(table, &label("one"), 7, version, Scope::Full).unwrap()
}

fn told_full() -> Receiving {
    let mut agent = agent("one");
    tell(&mut agent, full(&table(), 5)).unwrap();
    agent
}

#[test]
fn an_agent_is_told_everything_and_only_its_own_nodes_workloads_are_local() {
    let mut agent = agent("one");
    let declared = tell(&mut agent, full(&table(), 5)).unwrap();
    assert_eq!(declared.version, 5);
    let local: Vec<_> = declared.local.iter().map(|l| l.workload.name.to_string()).collect();
    assert_eq!(local, ["shop/web"]);
    assert_eq!(declared.directory.workload_addresses().count(), 2);
    assert_eq!(*declared.trust, *trust(1));
}

#[test]
fn a_change_is_told_as_what_has_changed() {
    let (old, mut new) = (table(), declaration());
    let moved = workload("cart", "one", "10.0.0.3");
    new.workloads[1] = moved.clone();
    new.local[1] = local(&moved);
    new.services.clear();
    new.policies.push(policy("open"));
    let new = Table::of(new).unwrap();
    let changed = old.changed(&new);
    assert_eq!(changed.len(), 1 + 1 + 1 + 2, "the moved one is told to both of its nodes");
    let mut agent = told_full();
    let said = messages(&new, &label("one"), 7, 6, Scope::Since(5, &changed)).unwrap();
    assert_eq!(said.len(), 1);
    let (one, counts) = (&said[0], |m: &proto::ToAgent| (m.workloads.len(), m.policies.len()));
    assert_eq!((counts(one), one.services_removed.len(), one.locals.len()), ((1, 1), 1, 1));
    assert!(one.trust.is_none());
    let declared = tell(&mut agent, said).unwrap();
    assert_eq!(declared.local.len(), 2);
    let said = messages(&new, &label("two"), 7, 6, Scope::Since(5, &changed)).unwrap();
    assert_eq!((said[0].locals.len(), said[0].locals_removed.len()), (0, 1));
}

#[test]
fn what_is_large_comes_in_several_messages_and_takes_effect_with_the_last() {
    let mut large = declaration();
    for number in 0..20_000_u32 {
        let address = std::net::Ipv4Addr::from(0x0a10_0000 + number).to_string();
        large.workloads.push(workload(&format!("pod-{number}"), "two", &address));
    }
    let said = full(&Table::of(large).unwrap(), 5);
    assert!(said.len() > 1, "{}", said.len());
    let longest = said.iter().map(prost::Message::encoded_len).max().unwrap();
    assert!(longest < limits::CONTROLLER_MESSAGE_BYTES, "{longest}");
    let mut agent = agent("one");
    let last = said.len() - 1;
    for (number, message) in said.into_iter().enumerate() {
        let received = agent.receive(message).unwrap();
        assert_eq!(matches!(received, Received::Whole(_)), number == last);
        assert_eq!(agent.version(), if number == last { 5 } else { 0 });
    }
}

/// What a liar says, and what is said of it.
fn refused(change: impl FnOnce(&mut proto::ToAgent)) -> String {
    let mut agent = told_full();
    let before = agent.table().clone();
    let mut said = full(&table(), 6);
    change(&mut said[0]);
    let error = tell(&mut agent, said).expect_err("a lie is refused").to_string();
    assert_eq!(agent.version(), 5, "what was in effect stays");
    assert!(Arc::ptr_eq(agent.table(), &before));
    // And the truth is taken afterwards.
    tell(&mut agent, full(&table(), 7)).unwrap();
    error
}

#[test]
fn a_controller_that_lies_changes_nothing_and_is_told_why() {
    let twice = |said: &mut proto::ToAgent| {
        said.workloads[0].addresses = said.workloads[1].addresses.clone();
    };
    assert!(refused(twice).contains("belongs to both"));
    assert!(refused(|said| said.version = 5).contains("in effect already"));
    assert!(refused(|said| said.version = 4).contains("in effect already"));
    assert!(
        refused(|said| said.workloads[0].identity = "spiffe://a.org/martlet/controller".into())
            .contains("part of Martlet")
    );
    assert!(refused(|said| said.workloads[0].name = None).contains("missing"));
    assert!(refused(|said| said.workloads[0].mode = 9).contains("mode"));
    assert!(refused(|said| said.trust = None).contains("nothing is said about trust"));
    let homeless = |said: &mut proto::ToAgent| {
        let trust = said.trust.as_mut().unwrap();
        trust.version = 2;
        trust.domains.clear();
    };
    assert!(refused(homeless).contains("no root of"));
    assert!(refused(|said| said.trust.as_mut().unwrap().version = 0).contains("of trust"));
    assert!(
        refused(|said| said.trust.as_mut().unwrap().quarantines.push("cluster/b.org".into()))
            .contains("said before")
    );
    let rootless = |said: &mut proto::ToAgent| {
        let trust = said.trust.as_mut().unwrap();
        (trust.version, trust.domains[0].roots) = (2, vec![vec![1, 2, 3]]);
    };
    assert!(refused(rootless).contains("roots cannot be used"));
    assert!(
        refused(|said| said.locals[0].name.as_mut().unwrap().name = "cart".into())
            .contains("belongs to node two")
    );
    assert!(
        refused(|said| said.locals[0].name.as_mut().unwrap().name = "db".into())
            .contains("no such workload")
    );
    assert!(refused(|said| said.policies[0].rules.clear()).contains("`rules` is empty"));
    assert!(refused(|said| said.policies[0].action = 0).contains("action"));
    assert!(refused(|said| said.services[0].address = "10.0.0.1:80".into()).contains("workload"));
    let path = |text: &str| {
        let by = Some(proto::netns::By::Path(text.to_owned()));
        let netns = Some(proto::Netns { by });
        refused(move |said| said.locals[0].netns = netns)
    };
    let pod = |uid: &str| {
        let by = Some(proto::netns::By::Pod(uid.to_owned()));
        let netns = Some(proto::Netns { by });
        refused(move |said| said.outside[0].netns = netns)
    };
    assert!(pod("../x").contains("no UID") && pod("").contains("no UID"));
    assert!(refused(|said| said.outside[0].netns = None).contains("netns"));
    assert!(path("run/netns/web").contains("absolute"));
    assert!(path("/run/../etc").contains("`..`"));
    assert!(path(&format!("/{}", "a".repeat(5000))).contains("too long"));
    assert!(refused(|said| said.locals[0].probes = vec![70_000]).contains("no port"));
}

#[test]
fn each_node_is_told_who_of_its_own_is_outside() {
    let mut agents = ["one", "two"].map(agent);
    let outside = |agent: &mut Receiving, table: &Table, version, scope: Scope<'_>| {
        let node = agent.node().clone();
        let mut whole = None;
        for said in messages(table, &node, 7, version, scope).unwrap() {
            if let Received::Whole(declared) = agent.receive(said).unwrap() {
                whole = Some(declared.outside);
            }
        }
        whole.unwrap()
    };
    let pod = |uid: &str| NetnsSource::Pod(uid.into());
    let before = table();
    let told = agents.each_mut().map(|agent| outside(agent, &before, 1, Scope::Full));
    assert_eq!(told, [vec![pod("uid-one")], vec![pod("uid-two")]]);
    // One moves to the other node, and is told to both.
    let mut declaration = declaration();
    declaration.outside[0] = outsider("shop/off", "two");
    let after = Table::of(declaration).unwrap();
    let changed = before.changed(&after);
    assert_eq!(changed.len(), 2);
    let scope = Scope::Since(1, &changed);
    let told = agents.each_mut().map(|agent| outside(agent, &after, 2, scope));
    assert_eq!(told, [vec![], vec![pod("uid-two"), pod("uid-two")]]);
}

#[test]
fn nobody_is_both_inside_and_outside() {
    let mut declaration = declaration();
    declaration.outside.push(outsider("shop/web", "one"));
    let refused = Table::of(declaration).unwrap_err();
    assert!(matches!(refused, Inconsistent::InsideAndOutside(name) if name.name.as_str() == "web"));
}

#[test]
fn changes_that_do_not_fit_are_refused() {
    let table = table();
    let changed = Changed { trust: true, ..Changed::default() };
    let say = |instance, version, base| {
        messages(&table, &label("one"), instance, version, Scope::Since(base, &changed)).unwrap()
    };
    let refused = |said| tell(&mut told_full(), said).unwrap_err();
    assert_eq!(refused(say(7, 8, 6)), Refused::Base { base: 6, known: 5 });
    assert_eq!(refused(say(8, 8, 5)), Refused::Base { base: 5, known: 5 }, "another instance");
    assert!(tell(&mut told_full(), say(7, 8, 5)).is_ok());
    let mut mixed = say(7, 8, 5);
    mixed[0].complete = false;
    mixed.extend(say(7, 9, 5));
    assert_eq!(refused(mixed), Refused::Mixed { first: 8, second: 9 });
}

#[test]
fn what_was_not_said_to_the_end_is_forgotten_with_the_connection() {
    let mut agent = told_full();
    let mut said = full(&table(), 6);
    said[0].complete = false;
    agent.receive(said.remove(0)).unwrap();
    agent.begin_again();
    assert_eq!(tell(&mut agent, full(&table(), 9)).unwrap().version, 9);
}

#[test]
fn a_sign_of_life_changes_nothing() {
    let mut agent = told_full();
    assert!(matches!(agent.receive(proto::ToAgent::default()), Ok(Received::Nothing)));
    assert_eq!(agent.version(), 5);
}

#[test]
fn what_no_agent_would_take_is_not_declared() {
    let bad = |change: fn(&mut Declaration)| {
        let mut declaration = declaration();
        change(&mut declaration);
        Table::of(declaration).unwrap_err().to_string()
    };
    assert!(bad(|d| d.policies.push(policy("closed"))).contains("twice"));
    assert!(bad(|d| d.local.push(d.local[0].clone())).contains("twice"));
    assert!(bad(|d| drop(d.workloads.remove(1))).contains("no such workload"));
    assert!(bad(|d| d.workloads.push(workload("db", "one", "10.0.0.1"))).contains("both"));
    assert!(
        bad(|d| {
            let identity = Part::Controller.identity(&domain());
            d.workloads[0] = Arc::new(Workload { identity, ..(*d.workloads[0]).clone() });
        })
        .contains("part of Martlet")
    );
    assert!(
        bad(|d| {
            let endpoints = vec!["10.0.0.1:1".parse().unwrap(); limits::ENDPOINTS + 1];
            d.services[0] = Arc::new(Service { endpoints, ..(*d.services[0]).clone() });
        })
        .contains("endpoints")
    );
}

fn names() -> impl Strategy<Value = Label> {
    "[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?".prop_map(|text| text.parse().unwrap())
}

fn identities() -> impl Strategy<Value = SpiffeId> {
    (names(), names())
        .prop_map(|(ns, sa)| SpiffeId::for_workload(&domain(), ns.as_str(), sa.as_str()).unwrap())
}

fn workloads() -> impl Strategy<Value = Workload> {
    let modes = prop_oneof![Just(Mode::Strict), Just(Mode::Permissive)];
    let addresses = prop::collection::vec(any::<std::net::IpAddr>(), 0..4);
    let policies = prop::collection::vec(names(), 0..3);
    (names(), names(), names(), names(), identities(), addresses, modes, policies).prop_map(
        |(namespace, name, service_account, node, identity, addresses, mode, policies)| Workload {
            name: WorkloadName { namespace, name },
            service_account,
            identity,
            addresses,
            node,
            mode,
            policies,
        },
    )
}

fn locals() -> impl Strategy<Value = Local> {
    let paths = "/[a-z/]{0,20}".prop_map(std::path::PathBuf::from);
    let netns = prop_oneof![
        paths.clone().prop_map(NetnsSource::Path),
        paths.prop_map(NetnsSource::Cgroup),
        "[a-f0-9-]{1,36}".prop_map(|uid| NetnsSource::Pod(uid.into())),
        (1..=2_147_483_647_u32).prop_map(NetnsSource::Pid),
    ];
    let udp = prop_oneof![Just(Udp::Pass), Just(Udp::Refuse)];
    let probes = prop::collection::vec(1..=u16::MAX, 0..4);
    (names(), names(), netns, udp, probes, any::<bool>()).prop_map(
        |(namespace, name, netns, udp, probes, workload_api)| Local {
            name: WorkloadName { namespace, name },
            netns,
            udp,
            probes,
            workload_api,
        },
    )
}

fn policies() -> impl Strategy<Value = Policy> {
    let some = |strategy| prop::option::of(strategy);
    let identity = prop_oneof![
        identities().prop_map(IdentityMatch::Exact),
        Just(IdentityMatch::Below("spiffe://a.org/ns/".to_owned())),
    ];
    let network = (any::<std::net::IpAddr>(), 0..=32_u8)
        .prop_map(|(address, length)| ipnet::IpNet::new(address, length).unwrap().trunc());
    let source = (
        some(prop::collection::vec(identity, 1..4)),
        prop::option::of(prop::collection::vec(names(), 1..4)),
        prop::option::of(Just(vec![domain()])),
        prop::option::of(prop::collection::vec(network, 1..4)),
    );
    let source = source.prop_map(|(identities, namespaces, trust_domains, addresses)| Source {
        identities,
        namespaces,
        trust_domains,
        addresses,
    });
    let ranges = (any::<u16>(), any::<u16>()).prop_map(|(first, last)| PortRange { first, last });
    let rule = (
        prop::option::of("[a-z ]{1,20}"),
        prop::option::of(source),
        prop::option::of(prop::collection::vec(ranges, 1..4)),
    )
        .prop_map(|(name, from, ports)| Rule { name, from, ports });
    let selector = prop_oneof![
        Just(Selector::All),
        Just(Selector::Listing),
        prop::collection::vec(names(), 1..4).prop_map(Selector::ServiceAccounts),
    ];
    let action = prop_oneof![Just(Action::Allow), Just(Action::Deny)];
    (names(), names(), selector, action, prop::collection::vec(rule, 1..4)).prop_map(
        |(namespace, name, selector, action, rules)| Policy {
            namespace,
            name,
            selector,
            action,
            rules,
        },
    )
}

fn quarantines() -> impl Strategy<Value = martlet_model::Quarantine> {
    use martlet_model::Quarantine;
    prop_oneof![
        Just(Quarantine::Cluster(domain())),
        names().prop_map(|node| Quarantine::Node(domain(), node)),
        identities().prop_map(Quarantine::Identity),
        (names(), names()).prop_map(|(namespace, name)| {
            Quarantine::Workload(domain(), WorkloadName { namespace, name })
        }),
    ]
}

proptest! {
    #[test]
    fn what_is_said_is_what_is_understood(
        workload in workloads(),
        local in locals(),
        policy in policies(),
        service in (names(), names(), any::<std::net::SocketAddr>(), prop::collection::vec(any::<std::net::SocketAddr>(), 0..4)),
        quarantines in prop::collection::vec(quarantines(), 0..4),
        version: u64,
        issuer in prop::option::of("[0-9a-f]{64}"),
        affinity in prop::option::of(1_u32..100_000),
        is_local: bool,
    ) {
        prop_assert_eq!(&message::workload_from(message::workload_to(&workload)).unwrap(), &workload);
        let said = message::local_to(&local).unwrap();
        prop_assert_eq!(&message::local_from(said).unwrap(), &local);
        prop_assert_eq!(&message::policy_from(message::policy_to(&policy)).unwrap(), &policy);
        let (namespace, name, address, endpoints) = service;
        // Text has no room for what is not part of an address and port.
        let plain = |at: std::net::SocketAddr| std::net::SocketAddr::new(at.ip(), at.port());
        let endpoints = endpoints.into_iter().map(plain).collect();
        let endpoints: Vec<_> = endpoints;
        let of_node = is_local.then(|| [(label("one"), endpoints.clone())].into());
        let near = Near {
            of_node: [(label("two"), endpoints.clone())].into(),
            of_zone: [("Zone_a".parse().unwrap(), endpoints.clone())].into(),
        };
        let near = if is_local { Near::default() } else { near };
        let affinity = affinity.map(|seconds| Duration::from_secs(seconds.into()));
        let choice = Choice { affinity, of_node, near };
        let service = Service { namespace, name, address: plain(address), endpoints, choice };
        prop_assert_eq!(&message::service_from(message::service_to(&service)).unwrap(), &service);
        let roots = [(domain(), vec![vec![1], vec![2, 3]])].into();
        let trust = Trust { version, roots, quarantines, issuer };
        prop_assert_eq!(&message::trust_from(message::trust_to(&trust)).unwrap(), &trust);
    }

    /// Whatever bytes come in: an error or a value, never a panic, and never a half of anything.
    #[test]
    fn no_bytes_harm_an_agent(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut agent = told_full();
        if let Ok(message) = <proto::ToAgent as prost::Message>::decode(bytes.as_slice()) {
            let _ = agent.receive(message);
        }
        prop_assert_eq!(agent.version(), 5);
        prop_assert!(tell(&mut agent, full(&table(), 6)).is_ok());
    }
}
