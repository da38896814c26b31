//! The controller's two files: what is accepted, what is refused and where, and that the published
//! schemas and references are about them.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use martlet_model::Udp;
use martlet_standalone::{ControllerFile, DirectoryFile, Knows, Proof, Shows};
use serde_json::Value;

const DIRECTORY: &str = "trustDomain: a.org
workloads:
- namespace: shop
  name: web-0
  serviceAccount: web
  node: one
  addresses: [10.1.0.2]
  mode: strict
  netns: { path: /run/netns/web }
- namespace: shop
  name: cart-0
  serviceAccount: cart
  node: two
  addresses: [10.1.1.2]
  netns: { path: /run/netns/web }
- namespace: shop
  name: far-0
  serviceAccount: far
  trustDomain: b.org
  node: elsewhere
  addresses: [10.2.0.2]
services:
- namespace: shop
  name: web
  address: 10.96.0.10
  ports: [{ port: 80, endpoints: [\"10.1.0.2:8080\"] }]
policies:
- namespace: shop
  name: web
  action: allow
  rules: [{ ports: [8080] }]
";

fn directory(text: &str) -> String {
    DirectoryFile::parse(text, "d.yaml").expect_err("it is refused").to_string()
}

fn controller(text: &str) -> String {
    ControllerFile::parse(text, "c.yaml").expect_err("it is refused").to_string()
}

#[test]
fn a_directory_file_says_what_there_is_on_all_nodes() {
    let file = DirectoryFile::parse(DIRECTORY, "d.yaml").unwrap();
    assert_eq!((file.workloads.len(), file.services.len(), file.policies.len()), (3, 1, 1));
    let local: Vec<_> = file
        .local
        .iter()
        .map(|local| format!("{} on {}", local.workload.name, local.workload.node))
        .collect();
    assert_eq!(local, ["shop/web-0 on one", "shop/cart-0 on two"], "and none of another cluster");
    let far = file.workloads.iter().find(|one| one.name.name.as_str() == "far-0").unwrap();
    assert_eq!(far.identity.as_str(), "spiffe://b.org/ns/shop/sa/far");
}

#[test]
fn what_a_directory_file_lacks_is_named_with_its_place() {
    assert_eq!(
        directory(&DIRECTORY.replace("  node: two\n", "")),
        "d.yaml:10:3: shop/cart-0 needs `node`: the name of the node that it runs on"
    );
    let no_netns = DIRECTORY.replacen("  netns: { path: /run/netns/web }\n", "", 1);
    assert!(directory(&no_netns).contains("shop/web-0 needs `netns`"));
    let twice = DIRECTORY.replace("node: two", "node: one");
    assert!(directory(&twice).contains("this network namespace of node one"));
    let foreign = format!("{DIRECTORY}\n")
        .replace("  addresses: [10.2.0.2]\n", "  addresses: [10.2.0.2]\n  netns: { pid: 1 }\n");
    assert!(directory(&foreign).contains("no node of this controller"));
    assert!(directory("trustDomain: a.org\nnode: { name: one }\n").contains("unknown key `node`"));
    assert!(directory("workloads: []\n").contains("`trustDomain` is missing"));
    let address = DIRECTORY.replace("10.1.1.2", "10.1.0.2");
    assert!(directory(&address).contains("already the address of workload"));
    assert!(
        directory(&DIRECTORY.replace("rules: [{ ports: [8080] }]", "rules: []")).contains("empty")
    );
}

#[test]
fn a_controller_file_has_defaults_for_all_but_two_keys() {
    let file = ControllerFile::parse("trustDomain: a.org\ndirectory: /etc/d.yaml\n", "c").unwrap();
    assert_eq!(file.listen, ["0.0.0.0:15012".parse().unwrap()]);
    assert_eq!(file.state, Path::new("/var/lib/martlet-controller"));
    assert_eq!(file.socket, Path::new("/run/martlet/controller.sock"));
    assert_eq!(file.metrics, Some("127.0.0.1:15021".parse().unwrap()));
    assert_eq!(file.leaf_lifetime, Duration::from_secs(86_400));
    assert_eq!(file.reached_at(), None, "nobody can connect to 0.0.0.0");
    let text = "trustDomain: a.org\ndirectory: /etc/d.yaml\nlisten: [\"10.0.0.1:1\", \"[::1]:2\"]\n\
                metrics: off\nleafLifetime: 90m\n";
    let file = ControllerFile::parse(text, "c").unwrap();
    assert_eq!((file.listen.len(), file.metrics), (2, None));
    assert_eq!(file.leaf_lifetime, Duration::from_secs(5400));
    assert_eq!(file.reached_at().as_deref(), Some("10.0.0.1:1"));
    let file = ControllerFile::parse(&format!("{text}address: c.example:15012\n"), "c").unwrap();
    assert_eq!(file.reached_at().as_deref(), Some("c.example:15012"));
}

#[test]
fn what_a_controller_file_has_wrong_is_named_with_its_place() {
    let with = |more: &str| controller(&format!("trustDomain: a.org\ndirectory: /d\n{more}\n"));
    assert!(with("listen: []").starts_with("c.yaml:3:9: `listen` is empty"));
    assert!(with("listen: [here]").contains("\"here\" is not an address and port"));
    assert!(with("listen: [\"1.2.3.4:0\"]").contains("port 0"));
    assert!(with("listen: [\"1.2.3.4:5\", \"1.2.3.4:5\"]").contains("already listed"));
    for bad in ["5m", "25h", "24", "h", "1d", "-1h", "1.5h"] {
        assert!(with(&format!("leafLifetime: {bad}")).contains("lifetime from 10m"), "{bad}");
    }
    assert!(with("address: nobody").contains("not a host and port"));
    assert!(with("metrics: here").contains("neither `off`"));
    assert!(with("state: here").contains("absolute path"));
    assert!(with("node: one").contains("unknown key `node`"));
    assert!(controller("trustDomain: a.org\n").contains("either by `directory`"));
}

#[test]
fn hosts_join_by_certificates_where_there_is_no_cluster() {
    let parse = |more: &str| {
        ControllerFile::parse(&format!("trustDomain: a.org\n{more}\n"), "controller.yaml")
    };
    let hosts = parse("directory: /d\nhosts: { authorities: /a.pem, domain: nodes.example.org }");
    let hosts = hosts.unwrap().hosts.unwrap();
    assert_eq!(hosts.authorities, PathBuf::from("/a.pem"));
    assert_eq!(hosts.domain.unwrap().as_str(), "nodes.example.org");
    assert_eq!(parse("directory: /d").unwrap().hosts, None);
    for (text, why) in [
        ("kubernetes: {}\nhosts: { authorities: /a.pem }", "leave `hosts` out"),
        ("directory: /d\nhosts: { authorities: a.pem }", "absolute"),
        ("directory: /d\nhosts: { authorities: /a.pem, domain: '*.example.org' }", "*.example.org"),
        ("directory: /d\nhosts: {}", "authorities"),
    ] {
        let refused = parse(text).unwrap_err().to_string();
        assert!(refused.contains(why), "{text}: {refused}");
    }
}

#[test]
fn a_controller_of_a_cluster_has_defaults_for_all_of_it() {
    let parse = |text: &str| ControllerFile::parse(&format!("trustDomain: a.org\n{text}\n"), "c");
    let Knows::Cluster(cluster) = parse("kubernetes: {}").unwrap().knows else {
        panic!("a cluster is named")
    };
    assert_eq!(cluster.namespace.as_str(), "martlet-system");
    assert_eq!(cluster.agent_service_account.as_str(), "martlet-agent");
    assert_eq!((cluster.audience.as_str(), cluster.udp), ("martlet-controller", Udp::Pass));
    assert!(!cluster.startup_taint);
    let all = "kubernetes: { namespace: mesh, agentServiceAccount: node, audience: us, udp: refuse, \
               startupTaint: true }";
    let Knows::Cluster(cluster) = parse(all).unwrap().knows else { panic!("a cluster is named") };
    assert_eq!((cluster.namespace.as_str(), cluster.udp), ("mesh", Udp::Refuse));
    assert_eq!((cluster.agent_service_account.as_str(), cluster.audience.as_str()), ("node", "us"));
    assert!(cluster.startup_taint);
    let refused = |text: &str| parse(text).unwrap_err().to_string();
    assert!(refused("kubernetes: {}\ndirectory: /d").contains("give one of them"));
    assert!(refused("kubernetes: { namespace: A }").contains("is not a name"));
    assert!(refused("kubernetes: { audience: '' }").contains("`audience` is empty"));
    assert!(refused("kubernetes: { cluster: us }").contains("unknown key"));
}

const FEDERATED: &str = "trustDomain: a.org
directory: /d
federation:
- trustDomain: b.org
  url: https://b.example:15013/bundle
  profile: https_spiffe
  spiffeId: spiffe://b.org/martlet/controller
- trustDomain: c.org
  url: https://c.example/roots?of=c
  profile: https_web
  authorities: /etc/ssl/certs/ca-certificates.crt
bundleEndpoint:
  listen: 0.0.0.0:15013
";

#[test]
fn endpoints_are_followed_and_served_as_a_controller_file_says() {
    let file = ControllerFile::parse(FEDERATED, "c").unwrap();
    let [b, c] = &file.federated[..] else { panic!("{:?}", file.federated) };
    let identity = "spiffe://b.org/martlet/controller".parse().unwrap();
    assert_eq!((b.trust_domain.as_str(), &b.proof), ("b.org", &Proof::Spiffe(identity)));
    assert_eq!(c.url, "https://c.example/roots?of=c");
    let authorities = "/etc/ssl/certs/ca-certificates.crt".into();
    assert_eq!(c.proof, Proof::Web { authorities });
    let own = file.bundle_endpoint.unwrap();
    assert_eq!((own.path.as_str(), own.shows), ("/bundle", Shows::Identity));
    let web = "  path: /a/b\n  profile: https_web\n  certificate: /c\n  key: /k\n";
    let file = ControllerFile::parse(&format!("{FEDERATED}{web}"), "c").unwrap();
    let own = file.bundle_endpoint.unwrap();
    let shows = Shows::Web { certificate: "/c".into(), key: "/k".into() };
    assert_eq!((own.path.as_str(), own.shows), ("/a/b", shows));
    let none = ControllerFile::parse("trustDomain: a.org\ndirectory: /d\n", "c").unwrap();
    assert!(none.federated.is_empty() && none.bundle_endpoint.is_none());
}

#[test]
fn what_is_wrong_about_an_endpoint_is_named_with_its_place() {
    let with = |from: &str, to: &str| controller(&FEDERATED.replacen(from, to, 1));
    let own = with("- trustDomain: b.org", "- trustDomain: a.org");
    assert!(own.starts_with("c.yaml:4:16: a.org is the controller's own trust domain"), "{own}");
    let twice = with("- trustDomain: c.org", "- trustDomain: b.org");
    assert!(twice.contains("an endpoint of b.org is already listed at 4:16"), "{twice}");
    for bad in [
        "http://b.example/",
        "b.example/bundle",
        "https://",
        "https:///bundle",
        "https://user@b.example/",
        "https://b.example:0/",
        "https://b.example/a#b",
        "https://b.example/a b",
        "https://1.2.3/",
        "https://[fd00::1/",
    ] {
        let said = with("https://b.example:15013/bundle", &format!("{bad:?}"));
        assert!(said.contains("not the URL of a bundle endpoint"), "{bad}: {said}");
    }
    for good in
        ["https://[fd00::1]:8443/b", "https://[fd00::1]/b", "https://10.0.0.1/", "https://b"]
    {
        let text = FEDERATED.replacen("https://b.example:15013/bundle", &format!("{good:?}"), 1);
        assert_eq!(ControllerFile::parse(&text, "c").unwrap().federated[0].url, good);
    }
    let missing = with("  spiffeId: spiffe://b.org/martlet/controller\n", "");
    assert!(missing.contains("https_spiffe needs `spiffeId`"), "{missing}");
    let missing = with("  authorities: /etc/ssl/certs/ca-certificates.crt\n", "");
    assert!(missing.contains("https_web needs `authorities`"), "{missing}");
    let other = with("  spiffeId: ", "  authorities: /a\n  spiffeId: ");
    assert!(other.contains("`authorities` belongs to the profile https_web"), "{other}");
    assert!(with("spiffe://b.org/m", "spiffe://B.org/m").contains("is not an identity"));
    assert!(with("profile: https_web", "profile: web").contains("unknown value"));
    assert!(with("listen: 0.0.0.0:15013", "listen: here").contains("not an address and port"));
    let end = |more: &str| controller(&format!("{FEDERATED}{more}\n"));
    assert!(end("  path: bundle").contains("not the path of a URL"));
    assert!(end("  path: /a?b").contains("not the path of a URL"));
    assert!(end("  key: /k").contains("`key` belongs to the profile https_web"));
    assert!(end("  profile: https_web\n  key: /k").contains("https_web needs `certificate`"));
    assert!(controller("trustDomain: a.org\ndirectory: /d\nfederation: []\n").contains("empty"));
}

fn project(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// `MARTLET_BLESS=1` rewrites the schemas.
#[test]
fn the_published_schemas_are_those_of_the_code() {
    for (path, schema) in [
        ("docs/controller-file.schema.json", ControllerFile::schema()),
        ("docs/directory-file.schema.json", DirectoryFile::schema()),
    ] {
        if std::env::var_os("MARTLET_BLESS").is_some() {
            let text = serde_json::to_string_pretty(&schema).unwrap();
            fs::write(project(path), format!("{text}\n")).unwrap();
        }
        let published = fs::read_to_string(project(path)).unwrap_or_default();
        let published: Value = serde_json::from_str(&published).unwrap_or_default();
        assert!(published == schema, "{path} is old: run this test with MARTLET_BLESS=1");
    }
}

#[test]
fn the_reference_describes_every_key_and_its_examples_are_accepted() {
    let reference = fs::read_to_string(project("docs/controller-file.md")).unwrap();
    let mut keys = BTreeSet::new();
    for schema in [ControllerFile::schema(), DirectoryFile::schema()] {
        let Value::Object(properties) = &schema["properties"] else { panic!("no properties") };
        keys.extend(properties.keys().cloned());
    }
    let missing: Vec<_> =
        keys.iter().filter(|key| !reference.contains(&format!("`{key}`"))).collect();
    assert!(missing.is_empty(), "docs/controller-file.md says nothing about {missing:?}");
    let blocks = reference.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let (mut controllers, mut directories) = (0, 0);
    for text in blocks {
        match text.contains("workloads:") {
            true => {
                directories += 1;
                DirectoryFile::parse(text, "docs").unwrap_or_else(|error| panic!("{error}"));
            }
            false => {
                controllers += 1;
                ControllerFile::parse(text, "docs").unwrap_or_else(|error| panic!("{error}"));
            }
        }
    }
    assert!(controllers > 0 && directories > 0);
    for (path, is_directory) in [("deploy/controller.yaml", false), ("deploy/directory.yaml", true)]
    {
        let text = fs::read_to_string(project(path)).unwrap();
        let outcome = match is_directory {
            true => DirectoryFile::parse(&text, path).map(drop),
            false => ControllerFile::parse(&text, path).map(drop),
        };
        outcome.unwrap_or_else(|error| panic!("{error}"));
    }
}
