//! Files that are accepted, and what they say.

#![allow(clippy::unwrap_used)]

use std::{net::SocketAddr, path::PathBuf};

use martlet_model::{Failure, Mode, NetnsSource, Place, Ratio, SpiffeId, Udp};
use martlet_policy::Request;
use martlet_standalone::{
    AccessLog, Controller, Joins, NodeFile, Outside, ProberIs, Source, Traces, parse, parse_of,
};

const HEAD: &str =
    "trustDomain: demo.martlet.dev\nauthority: { directory: /etc/martlet/authority }\n";

fn accept(text: &str) -> NodeFile {
    parse(text, "node.yaml").unwrap_or_else(|error| panic!("{error}"))
}

fn with_node(rest: &str) -> NodeFile {
    accept(&format!("{HEAD}{rest}"))
}

fn full() -> NodeFile {
    accept(include_str!("good/full.yaml"))
}

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn what_is_left_out_gets_its_default() {
    let file = with_node("node: { name: one }\n");
    assert_eq!(file.trust_domain.as_str(), "demo.martlet.dev");
    assert_eq!(file.source, Source::Authority("/etc/martlet/authority".into()));
    let settings = &file.settings;
    assert_eq!(settings.name.as_str(), "one");
    assert_eq!(settings.cgroup, None);
    assert_eq!(settings.prober, None);
    assert_eq!(settings.pin, PathBuf::from("/sys/fs/bpf/martlet"));
    assert_eq!(settings.state, PathBuf::from("/var/lib/martlet"));
    assert_eq!(settings.socket, PathBuf::from("/run/martlet/agent.sock"));
    assert_eq!(settings.metrics, Some(socket("127.0.0.1:15020")));
    assert_eq!(settings.access_log, AccessLog::Stdout);
    assert_eq!(settings.traces, None);
    assert_eq!(settings.failure, Failure::Closed);
    assert!(file.local.is_empty());
    assert_eq!(file.directory.workload_addresses().count(), 0);
}

#[test]
fn every_setting_can_be_given() {
    let settings = full().settings;
    assert_eq!(settings.cgroup, Some(PathBuf::from("/sys/fs/cgroup/machine.slice")));
    let kubelet = PathBuf::from("/sys/fs/cgroup/system.slice/kubelet.service");
    assert_eq!(settings.prober, Some(ProberIs::Cgroup(kubelet)));
    assert_eq!(full().local[0].probes, [8080, 9090]);
    assert_eq!(settings.pin, PathBuf::from("/sys/fs/bpf/martlet-one"));
    assert_eq!(settings.state, PathBuf::from("/var/lib/martlet-one"));
    assert_eq!(settings.socket, PathBuf::from("/run/martlet-one/agent.sock"));
    assert_eq!(settings.metrics, Some(socket("[::1]:9100")));
    assert_eq!(settings.access_log, AccessLog::File(PathBuf::from("/var/log/martlet/access.log")));
    let traces = Traces {
        collector: "https://collector.example.org:4317".parse().unwrap(),
        authorities: Some(PathBuf::from("/etc/ssl/certs/ca-certificates.crt")),
        ratio: "0.25".parse().unwrap(),
    };
    assert_eq!(settings.traces, Some(traces));
    assert_eq!(settings.failure, Failure::Open);
    let closed = with_node("node: { name: one, failure: closed }\n");
    assert_eq!(closed.settings.failure, Failure::Closed);
}

#[test]
fn metrics_and_access_log_can_be_off() {
    for off in ["off", "\"off\""] {
        let file = with_node(&format!("node: {{ name: one, metrics: {off}, accessLog: {off} }}\n"));
        assert_eq!(file.settings.metrics, None);
        assert_eq!(file.settings.access_log, AccessLog::Off);
    }
}

#[test]
fn all_connections_are_traced_unless_a_ratio_is_given() {
    let traced = |more: &str| {
        let node = format!("node: {{ name: one, traces: {{ endpoint: http://a:4317{more} }} }}\n");
        with_node(&node).settings.traces.unwrap()
    };
    assert_eq!((traced("").ratio, traced("").authorities), (Ratio::ALL, None));
    assert_eq!(traced(", ratio: 1").ratio, Ratio::ALL);
    for half in ["0.5", "\"0.5\"", "5e-1"] {
        assert_eq!(traced(&format!(", ratio: {half}")).ratio, "0.5".parse().unwrap());
    }
}

#[test]
fn workloads_of_this_node_come_with_their_namespaces_and_others_without() {
    let file = full();
    let names: Vec<_> = file.local.iter().map(|local| local.workload.name.to_string()).collect();
    assert_eq!(names, ["shop/web-0", "shop/cart-0", "pay/till-0"]);
    let sources: Vec<_> = file.local.into_iter().map(|local| local.netns).collect();
    assert_eq!(
        sources,
        [
            NetnsSource::Path("/run/netns/web".into()),
            NetnsSource::Pid(4242),
            NetnsSource::Cgroup("/sys/fs/cgroup/machine.slice/till".into()),
        ]
    );
    let remote = file.directory.workload_at("10.2.0.2".parse().unwrap()).unwrap();
    assert_eq!((remote.name.to_string(), remote.node.as_str()), ("shop/web-1".into(), "two"));
}

#[test]
fn namespaces_are_outside_by_decision_or_all_that_are_no_workloads() {
    let these = Outside::These(vec![
        NetnsSource::Path("/run/netns/printer".into()),
        NetnsSource::Cgroup("/sys/fs/cgroup/docker.slice".into()),
    ]);
    assert_eq!(full().outside, these);
    assert_eq!(with_node("node: { name: one }\n").outside, Outside::These(vec![]));
    let all = with_node("node: { name: one }\nundecided: pass\n");
    assert_eq!(all.outside, Outside::AllOthers);
}

#[test]
fn a_workload_has_its_identity_and_mode() {
    let file = full();
    let [web, cart, till] = &file.local[..] else { panic!("three local workloads") };
    let identity = "spiffe://demo.martlet.dev/ns/shop/sa/web";
    assert_eq!(web.workload.identity.as_str(), identity);
    let modes = [web, cart, till].map(|local| local.workload.mode);
    assert_eq!(modes, [Mode::Strict, Mode::Permissive, Mode::Permissive]);
    let addresses: Vec<_> = web.workload.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.1.0.2", "fd00:1::2"]);
}

#[test]
fn only_who_asks_is_offered_the_workload_api_at_a_socket_of_its_own() {
    let file = full();
    let asks: Vec<_> = file.local.iter().map(|local| local.workload_api).collect();
    assert_eq!(asks, [true, false, false]);
    let socket = file.settings.workload_socket(&file.local[0].workload.name).unwrap();
    assert_eq!(socket, PathBuf::from("/run/martlet-one/workloads/shop/web-0.sock"));
}

#[test]
fn a_service_leads_to_its_endpoints_on_each_port_and_family() {
    let file = full();
    for (address, endpoints) in [
        ("10.96.0.10:80", vec!["10.1.0.2:8080", "10.2.0.2:8080"]),
        ("10.96.0.10:443", vec!["192.0.2.7:443"]),
        ("[fd00:96::10]:80", vec!["[fd00:1::2]:8080"]),
        ("10.96.0.11:6379", vec![]),
    ] {
        let Place::Service(service) = file.directory.place(socket(address)) else {
            panic!("{address} is no service");
        };
        let expected: Vec<_> = endpoints.into_iter().map(socket).collect();
        assert_eq!(service.endpoints, expected, "{address}");
    }
    assert!(matches!(file.directory.place(socket("10.96.0.10:81")), Place::UnknownPort));
}

/// Who may call `web` of the full file on which port.
#[test]
fn policies_decide_as_they_are_written() {
    let file = full();
    let web = &file.local[0].workload;
    let decide = |caller: &str, address: &str, port| {
        let caller: SpiffeId = caller.parse().unwrap();
        let caller_address = address.parse().unwrap();
        let request = Request { caller: &caller, caller_address, callee: web, port };
        match file.policies.authorize(&request) {
            Ok(permit) => permit.policy().unwrap_or("none").to_owned(),
            Err(denied) => format!("denied by {}", denied.policy),
        }
    };
    let cart = "spiffe://demo.martlet.dev/ns/shop/sa/cart";
    let till = "spiffe://demo.martlet.dev/ns/pay/sa/till";
    assert_eq!(decide(cart, "10.1.0.3", 8080), "shop/callers: cart");
    assert_eq!(decide(till, "10.1.0.4", 9050), "shop/callers: rule 2");
    assert_eq!(decide(till, "10.1.0.4", 8080), "denied by shop/callers: no rule allows");
    assert_eq!(decide(cart, "192.0.2.1", 8080), "denied by shop/outside: rule 1");
    assert_eq!(
        decide("spiffe://other.example/ns/shop/sa/cart", "10.1.0.3", 8080),
        "denied by shop/callers: no rule allows"
    );
}

#[test]
fn json_is_yaml() {
    let file = accept(
        r#"{"trustDomain":"a.b","authority":{"directory":"/a"},"node":{"name":"one"},
            "workloads":[{"namespace":"n","name":"w","serviceAccount":"s","addresses":["fd00::1"],
            "netns":{"pid":7}}],"services":[],"policies":[]}"#,
    );
    assert_eq!(file.local[0].netns, NetnsSource::Pid(7));
}

/// The form that the lab's fixture for agents writes.
#[test]
fn what_the_lab_writes_is_accepted() {
    let file = accept(include_str!("good/lab.json"));
    assert_eq!(file.settings.metrics, Some(socket("127.0.0.1:15020")));
    assert_eq!(file.local.len(), 1);
    assert_eq!(file.directory.services().count(), 1);
}

#[test]
fn what_looks_like_a_number_stays_the_text_that_it_is() {
    let file = with_node("node: { name: 007 }\n");
    assert_eq!(file.settings.name.as_str(), "007");
}

#[test]
fn aliases_and_merges_stand_for_what_they_name() {
    let file = accept(include_str!("good/aliases.yaml"));
    assert_eq!(file.local.len(), 2);
    assert_eq!(file.local[1].workload.service_account.as_str(), "web");
}

#[test]
fn a_file_with_many_workloads_is_accepted() {
    let workload = |number: u32| {
        let address = std::net::Ipv4Addr::from(0x0a00_0000 + number);
        format!(
            "  - namespace: shop\n    name: web-{number}\n    serviceAccount: web\n    \
             node: two\n    addresses: [{address}]\n"
        )
    };
    let workloads: String = (1..=20_000).map(workload).collect();
    let file = with_node(&format!("node: {{ name: one }}\nworkloads:\n{workloads}"));
    assert_eq!(file.directory.workload_addresses().count(), 20_000);
}

#[test]
fn a_reload_may_change_workloads_services_policies_and_how_the_node_fails() {
    let old = with_node("node: { name: one }\n");
    let new = with_node(
        "node: { name: one }\nworkloads: [{ namespace: a, name: b, serviceAccount: c, \
         addresses: [10.0.0.1], netns: { pid: 7 } }]\n",
    );
    assert_eq!(old.needs_restart(&new), None);
    let failing_open = with_node("node: { name: one, failure: open }\n");
    assert_eq!(old.needs_restart(&failing_open), None);
}

#[test]
fn a_reload_that_changes_what_the_agent_stands_on_needs_a_restart() {
    let old = with_node("node: { name: one }\n");
    for (key, new) in [
        ("node.name", "node: { name: two }"),
        ("node.cgroup", "node: { name: one, cgroup: /sys/fs/cgroup/a }"),
        ("node.pin", "node: { name: one, pin: /sys/fs/bpf/a }"),
        ("node.state", "node: { name: one, state: /a }"),
        ("node.socket", "node: { name: one, socket: /a.sock }"),
        ("node.metrics", "node: { name: one, metrics: off }"),
        ("node.accessLog", "node: { name: one, accessLog: off }"),
        ("node.traces", "node: { name: one, traces: { endpoint: http://a:4317 } }"),
    ] {
        assert_eq!(old.needs_restart(&with_node(new)), Some(key));
    }
    let node = "node: { name: one }\n";
    let domain = accept(&format!("{}{node}", HEAD.replace("demo", "other")));
    assert_eq!(old.needs_restart(&domain), Some("trustDomain"));
    let authority = accept(&format!("{}{node}", HEAD.replace("/etc", "/opt")));
    assert_eq!(old.needs_restart(&authority), Some("authority"));
}

#[test]
fn udp_passes_unless_it_is_refused() {
    let with = |udp: &str| {
        let workload = format!(
            "workloads:\n  - {{ namespace: shop, name: web, serviceAccount: web, \
             addresses: [10.1.0.2], netns: {{ pid: 1 }}{udp} }}\n"
        );
        let text = format!(
            "trustDomain: a.example\nauthority: {{ directory: /a }}\nnode: {{ name: one }}\n{workload}"
        );
        martlet_standalone::parse(&text, "node.yaml")
    };
    for (text, wanted) in
        [("", Udp::Pass), (", udp: pass", Udp::Pass), (", udp: refuse", Udp::Refuse)]
    {
        assert_eq!(with(text).unwrap().local[0].udp, wanted, "{text}");
    }
    for text in [", udp: allow", ", udp:", ", udp: 1", ", udp: Refuse"] {
        assert!(with(text).is_err(), "{text}");
    }
}

#[test]
fn a_controller_says_what_an_authority_and_the_rest_of_the_file_would() {
    for address in ["controller.example.org:15012", "10.0.0.1:15012", "[fd00::1]:15012", "c:1"] {
        let text = format!(
            "trustDomain: demo.martlet.dev\n\
             controller: {{ address: '{address}', token: /etc/martlet/token }}\n\
             node: {{ name: one }}\n\
             outside: [{{ path: /run/netns/dns }}]\n"
        );
        let file = parse(&text, "node.yaml").unwrap();
        let token = PathBuf::from("/etc/martlet/token");
        let controller = Controller { address: address.to_owned(), joins: Joins::Token(token) };
        assert_eq!(file.source, Source::Controller(controller));
        assert!(file.local.is_empty() && file.directory.workload_addresses().next().is_none());
        assert!(matches!(file.outside, Outside::These(these) if these.len() == 1));
    }
}

#[test]
fn an_agent_in_a_pod_is_told_its_node_and_joins_by_its_account() {
    let text = "trustDomain: demo.martlet.dev\n\
         controller:\n  address: c:1\n  serviceAccount: { token: /run/token, roots: /etc/roots }\n\
         node: { hostNetns: /proc/1/ns/net, prober: { process: kubelet } }\n";
    let one = "one".parse().unwrap();
    let file = parse_of(text, "node.yaml", Some(&one)).unwrap();
    assert_eq!(file.settings.name, one);
    assert_eq!(file.settings.host_netns, Some(PathBuf::from("/proc/1/ns/net")));
    assert_eq!(file.settings.prober, Some(ProberIs::Process("kubelet".to_owned())));
    let Source::Controller(controller) = file.source else { panic!("a controller is named") };
    let joins = Joins::ServiceAccount { token: "/run/token".into(), roots: "/etc/roots".into() };
    assert_eq!(controller.joins, joins);
    // What the agent is told wins.
    let named = text.replace("node: {", "node: { name: two,");
    assert_eq!(parse_of(&named, "node.yaml", Some(&one)).unwrap().settings.name, one);
    assert_eq!(parse(&named, "node.yaml").unwrap().settings.name.as_str(), "two");
    let nobody = parse(text, "node.yaml").unwrap_err().to_string();
    assert!(nobody.contains("--node-name"), "{nobody}");
}

#[test]
fn a_node_joins_in_one_way_and_has_one_prober() {
    let file = |controller: &str, prober: &str| {
        let text = format!(
            "trustDomain: a.org\ncontroller: {{ address: 'c:1'{controller} }}\n\
             node: {{ name: one{prober} }}\n"
        );
        parse(&text, "node.yaml").map(drop).map_err(|error| error.to_string())
    };
    let account = ", serviceAccount: { token: /t, roots: /r }";
    assert_eq!(file(account, ""), Ok(()));
    assert_eq!(file(", hostCertificate: { certificate: /c, key: /k, roots: /r }", ""), Ok(()));
    for (controller, prober, why) in [
        ("", "", "give just one"),
        (", token: /t, serviceAccount: { token: /t, roots: /r }", "", "give just one"),
        (", token: /t, hostCertificate: { certificate: /c, key: /k, roots: /r }", "", "just one"),
        (", hostCertificate: { certificate: /c, roots: /r }", "", "key"),
        (", hostCertificate: { certificate: /c, key: k, roots: /r }", "", "absolute"),
        (", serviceAccount: { token: t, roots: /r }", "", "absolute"),
        (", serviceAccount: { token: /t }", "", "roots"),
        (account, ", prober: { cgroup: /c, process: kubelet }", "give one of them"),
        (account, ", prober: {}", "give one of them"),
        (account, ", prober: { process: a-name-of-16-byte }", "at most 15 bytes"),
        (account, ", hostNetns: here", "absolute"),
    ] {
        let refused = file(controller, prober).unwrap_err();
        assert!(refused.contains(why), "{controller}{prober}: {refused}");
    }
}

#[test]
fn a_workload_of_another_cluster_has_that_clusters_identity() {
    let text = format!(
        "{HEAD}node: {{ name: one }}\n\
         workloads:\n  \
         - {{ namespace: shop, name: web, serviceAccount: web, node: far, trustDomain: b.org, \
         addresses: [10.1.0.2] }}\n  \
         - {{ namespace: shop, name: cart, serviceAccount: cart, node: two, \
         trustDomain: demo.martlet.dev, addresses: [10.1.0.3] }}\n"
    );
    let directory = parse(&text, "node.yaml").unwrap().directory;
    let identity = |address: &str| {
        directory.workload_at(address.parse().unwrap()).unwrap().identity.as_str().to_owned()
    };
    assert_eq!(identity("10.1.0.2"), "spiffe://b.org/ns/shop/sa/web");
    assert_eq!(identity("10.1.0.3"), "spiffe://demo.martlet.dev/ns/shop/sa/cart");
}
