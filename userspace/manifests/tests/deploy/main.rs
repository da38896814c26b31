//! What stands in `deploy/` is what the code makes; the chart makes the same objects.

#![allow(clippy::unwrap_used)]

mod go;

use std::{collections::BTreeSet, env, fs, path::PathBuf};

use martlet_manifests::{
    BUDGET, DEFINITIONS, NAMESPACE, Overrides, SURGE, VERSION, Values, chart, manifests, objects,
};
use serde_json::{Value, json};

fn path(below: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(below)
}

fn read(below: &str) -> String {
    fs::read_to_string(path(below)).unwrap_or_default()
}

/// `MARTLET_BLESS=1` writes it.
fn same(below: &str, wanted: &str) {
    if env::var_os("MARTLET_BLESS").is_some() {
        fs::write(path(below), wanted).unwrap();
    }
    assert!(read(below) == wanted, "deploy/{below} is old; MARTLET_BLESS=1 makes it anew");
}

fn values(yaml: &str) -> Values {
    Values::with(&Overrides::read("test", yaml).unwrap()).unwrap()
}

fn installed(yaml: &str, namespace: &str) -> Vec<Value> {
    installed_at(&[BUDGET, SURGE], yaml, namespace)
}

fn installed_at(served: &[&str], yaml: &str, namespace: &str) -> Vec<Value> {
    objects(&manifests(&values(yaml), &namespace.parse().unwrap(), served)).unwrap()
}

#[test]
fn the_plain_manifests_are_the_template_with_the_defaults() {
    let head = "# Martlet in a cluster: kubectl apply -k deploy/kubernetes (docs/install.md). Made from\n\
                # userspace/manifests/src/template by `MARTLET_BLESS=1 cargo test -p martlet-manifests`.\n";
    let text = manifests(&values(""), &NAMESPACE.parse().unwrap(), &[BUDGET, SURGE]);
    same("kubernetes/martlet.yaml", &format!("{head}{text}"));
}

#[test]
fn the_chart_is_the_template_in_helms_language() {
    same("helm/martlet/templates/martlet.yaml", &chart::template());
    same("helm/martlet/crds/crds.yaml", DEFINITIONS);
    let schema = serde_json::to_string_pretty(&Values::schema()).unwrap();
    same("helm/martlet/values.schema.json", &format!("{schema}\n"));
}

#[test]
fn the_alerts_as_an_object_are_the_alerts() {
    let rules = read("prometheus-rules.yaml");
    let (head, groups) = rules.split_once("groups:\n").unwrap();
    assert!(head.lines().all(|line| line.starts_with('#')));
    let object = "# The alerts of deploy/prometheus-rules.yaml, for the Prometheus operator. Made from there by\n\
                  # `MARTLET_BLESS=1 cargo test -p martlet-manifests`.\n\
                  apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  \
                  name: martlet\n  namespace: martlet-system\n  labels:\n    \
                  app.kubernetes.io/part-of: martlet\nspec:\n  groups:\n";
    let groups: String = groups.lines().map(|line| format!("  {line}\n")).collect();
    same("kubernetes/prometheus-rule.yaml", &format!("{object}{groups}"));
    let made: Value = serde_saphyr::from_str(&read("kubernetes/prometheus-rule.yaml")).unwrap();
    let rules: Value = serde_saphyr::from_str(&rules).unwrap();
    assert_eq!(made["spec"], rules);
}

#[test]
fn the_chart_is_of_the_version_of_the_programs() {
    let chart: Value = serde_saphyr::from_str(&read("helm/martlet/Chart.yaml")).unwrap();
    assert_eq!(
        (chart["version"].as_str(), chart["appVersion"].as_str()),
        (Some(VERSION), Some(VERSION))
    );
}

#[test]
fn kustomize_takes_the_plain_manifests() {
    let kustomization: Value =
        serde_saphyr::from_str(&read("kubernetes/kustomization.yaml")).unwrap();
    assert_eq!(kustomization["resources"], json!(["crds.yaml", "martlet.yaml"]));
}

/// Everything that can be said, so that every branch is taken.
const FULL: &str = "
trustDomain: prod.example.org
image: {repository: registry.example.org/martlet, digest: 'sha256:00', pullPolicy: Always, pullSecrets: [{name: r}]}
log: {level: 'info,martlet_dataplane=debug', format: text}
metrics: {annotations: false, podMonitor: true}
traces: {endpoint: 'https://otel.example.org:4317', ratio: 0.25, authorities: web-roots}
controller:
  metricsPort: 9001
  resources: {limits: {memory: 1Gi}}
  nodeSelector: {kubernetes.io/os: linux}
  tolerations: [{key: a, operator: Equal, value: 'yes', effect: NoSchedule}]
  podAnnotations: {note: 'a: \"b\" #c', number: '1'}
agent:
  metricsPort: 9002
  resources: {requests: {cpu: 1, memory: 1Gi}}
  nodeSelector: {mesh: 'true'}
  tolerations: []
  podAnnotations: {note: x}
  startupTaint: true
  privileged: true
  prober: k3s-server
  cni: {enabled: true, programs: /usr/lib/cni, exempt: [dns, storage]}
";

#[test]
fn the_chart_makes_the_objects_that_martlet_applies() {
    let defaults = Overrides::read("values.yaml", &read("helm/martlet/values.yaml")).unwrap();
    let tagged = "image: {tag: '1.0'}\nagent: {podAnnotations: {a: b}}";
    let leaving = "agent: {cni: {enabled: true, remove: true, exempt: []}}";
    let traced = "traces: {endpoint: 'http://collector.monitoring.svc:4317'}";
    let cases: [(&[&str], &str, &str); 7] = [
        (&[BUDGET], "", NAMESPACE),
        (&[], "", NAMESPACE),
        (&[BUDGET, SURGE], FULL, "mesh"),
        (&[], tagged, "mesh"),
        (&[], "agent: {cni: {enabled: true, exempt: []}}", "mesh"),
        (&[], leaving, "mesh"),
        (&[], traced, "mesh"),
    ];
    for (served, yaml, namespace) in cases {
        let given = defaults.clone().and(Overrides::read("test", yaml).unwrap()).value();
        let data = json!({
            "Values": given,
            "Release": { "Namespace": namespace, "Service": "martlet" },
            "Chart": { "AppVersion": VERSION },
            "Capabilities": { "APIVersions": served },
        });
        let theirs = objects(&go::render(&chart::template(), &data)).unwrap();
        let ours = installed_at(served, yaml, namespace);
        assert_eq!(ours[0]["kind"], "Namespace");
        assert_eq!(ours[1..].len(), theirs.len());
        for (ours, theirs) in ours[1..].iter().zip(&theirs) {
            assert_eq!(ours, theirs);
        }
        let notes = go::render(&read("helm/martlet/templates/NOTES.txt"), &data);
        assert!(notes.contains(namespace) && !notes.contains("{{"), "{notes}");
    }
}

#[test]
fn a_kind_that_the_server_does_not_know_is_left_out_and_nothing_else() {
    let kinds = |served: &[&str]| {
        let all = installed_at(served, "", NAMESPACE);
        all.iter().map(|one| one["kind"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let (mut with, without) = (kinds(&[BUDGET]), kinds(&[]));
    assert!(!without.contains(&"PodDisruptionBudget".to_owned()));
    with.retain(|kind| kind != "PodDisruptionBudget");
    assert_eq!(with, without);
}

#[test]
fn the_next_agent_comes_before_the_last_has_gone_where_the_server_can() {
    let rolling = |served: &[&str]| {
        let all = installed_at(served, "", NAMESPACE);
        let agents = all.into_iter().find(|one| one["kind"] == "DaemonSet").unwrap();
        agents["spec"]["updateStrategy"]["rollingUpdate"].clone()
    };
    assert_eq!(rolling(&[SURGE]), json!({ "maxSurge": 1, "maxUnavailable": 0 }));
    assert_eq!(rolling(&[BUDGET]), json!({ "maxUnavailable": 1 }));
}

#[test]
fn what_is_scraped_is_said_by_annotations_by_a_monitor_or_not_at_all() {
    let with = |annotations: bool, monitor: bool| {
        let yaml = format!("metrics: {{annotations: {annotations}, podMonitor: {monitor}}}");
        let all = installed(&yaml, NAMESPACE);
        let annotation = "/spec/template/metadata/annotations/prometheus.io~1scrape";
        let annotated = all.iter().filter(|one| one.pointer(annotation).is_some()).count();
        let monitors: Vec<_> = all.into_iter().filter(|one| one["kind"] == "PodMonitor").collect();
        (annotated, monitors)
    };
    assert_eq!(with(true, false), (2, vec![]));
    assert_eq!(with(false, false), (0, vec![]));
    let (annotated, monitors) = with(false, true);
    assert_eq!((annotated, monitors.len()), (0, 1));
    // Both kinds of pods have the label and the port that it asks for.
    let spec = &monitors[0]["spec"];
    let wanted = spec["selector"]["matchExpressions"][0]["values"].as_array().unwrap();
    let port = &spec["podMetricsEndpoints"][0]["port"];
    let all = installed("", NAMESPACE);
    let found: Vec<_> = all
        .iter()
        .map(|one| &one["spec"]["template"])
        .filter(|template| {
            wanted.contains(&template["metadata"]["labels"]["app.kubernetes.io/name"])
        })
        .filter(|template| {
            let ports = template["spec"]["containers"][0]["ports"].as_array().unwrap();
            ports.iter().any(|one| one["name"] == *port)
        })
        .collect();
    assert_eq!(found.len(), wanted.len());
}

#[test]
fn nodes_are_written_only_where_they_have_the_startup_taint() {
    let may = |yaml: &str| {
        let all = installed(yaml, NAMESPACE);
        let rights = all.iter().filter(|object| object["rules"].is_array());
        let rules = rights.flat_map(|object| object["rules"].as_array().unwrap());
        rules.filter(|rule| rule["resources"] == json!(["nodes"])).cloned().collect::<Vec<_>>()
    };
    let verbs = |verbs| json!({ "apiGroups": [""], "resources": ["nodes"], "verbs": verbs });
    let reads = verbs(json!(["get", "list", "watch"]));
    let writes = verbs(json!(["patch"]));
    assert_eq!(may(""), std::slice::from_ref(&reads));
    assert_eq!(may("agent: {startupTaint: true}"), [reads, writes]);
}

#[test]
fn the_plugin_of_the_network_has_the_nodes_directories_and_the_agent_does_not() {
    let pod = |yaml: &str| {
        let all = installed(yaml, NAMESPACE);
        let agents = all.into_iter().find(|object| object["kind"] == "DaemonSet").unwrap();
        agents["spec"]["template"]["spec"].clone()
    };
    let volumes = |pod: &Value| pod["volumes"].as_array().unwrap().len();
    let (without, with) = (pod(""), pod("agent: {cni: {enabled: true, programs: /usr/lib/cni}}"));
    assert_eq!(without["containers"].as_array().unwrap().len(), 1);
    assert_eq!(volumes(&with), volumes(&without) + 2);
    let [agent, keeper] = with["containers"].as_array().unwrap().as_slice() else {
        panic!("{with:#}")
    };
    assert_eq!(*agent, without["containers"][0], "nothing of the agent's is other than before");
    let said = ["/host/cni/programs", "/host/cni/networks", "/run/martlet/cni.sock"];
    let named = [&said[..], &[NAMESPACE, "kube-system"]].concat();
    assert_eq!(keeper["args"], json!([&["keep"][..], &named].concat()));
    let look = [&["/usr/bin/martlet-cni", "look"][..], &named].concat();
    assert_eq!(keeper["readinessProbe"]["exec"]["command"], json!(look));
    assert_eq!(keeper["securityContext"]["capabilities"], json!({ "drop": ["ALL"] }));
    let leaving = pod("agent: {cni: {enabled: true, remove: true}}");
    let keeper = &leaving["containers"][1];
    assert_eq!(keeper["args"], json!(["remove", said[0], said[1], "--stay"]));
    let mut probe = keeper["readinessProbe"].clone();
    assert_eq!(probe["exec"]["command"], json!(["/usr/bin/martlet-cni", "gone", said[0], said[1]]));
    // What is left of a probe that is not there any more is refused by the server.
    probe["exec"]["command"] = with["containers"][1]["readinessProbe"]["exec"]["command"].clone();
    assert_eq!(probe, with["containers"][1]["readinessProbe"]);
}

#[test]
fn connections_are_traced_only_where_a_collector_is_named() {
    let agents = |yaml: &str| {
        let all = installed(yaml, NAMESPACE);
        let find = |kind: &str| all.iter().find(|one| one["kind"] == kind).unwrap().clone();
        let config = all
            .iter()
            .find(|one| one["metadata"]["name"] == "martlet" && one["kind"] == "ConfigMap");
        let file = config.unwrap()["data"]["node.yaml"].as_str().unwrap().to_owned();
        let file: Value = serde_saphyr::from_str(&file).unwrap();
        (file["node"]["traces"].clone(), find("DaemonSet")["spec"]["template"].clone())
    };
    let (traces, pod) = agents("");
    assert_eq!(traces, Value::Null);
    let annotation = "/metadata/annotations/martlet.dev~1traces";
    assert_eq!(pod.pointer(annotation), None);
    let (traces, other) = agents("traces: {endpoint: 'http://a:4317', ratio: 0.5}");
    assert_eq!(traces, json!({ "endpoint": "http://a:4317", "ratio": 0.5 }));
    // Another collector makes new pods.
    assert_eq!(other.pointer(annotation), Some(&json!("0.5 to http://a:4317")));
    assert_eq!(other["spec"], pod["spec"]);
    let (traces, over_tls) = agents("traces: {endpoint: 'https://a:4317', authorities: web}");
    assert_eq!(traces["authorities"], "/etc/martlet-traces/ca.crt");
    let volumes = over_tls["spec"]["volumes"].as_array().unwrap();
    let volume = volumes.iter().find(|volume| volume["name"] == "traces").unwrap();
    assert_eq!(volume["configMap"], json!({ "name": "web" }));
}

/// What kubelet mounts without it is looked at again after more than a minute.
#[test]
fn no_agent_begins_before_the_roots_are_there() {
    let all = installed("", NAMESPACE);
    let agents = all.iter().find(|object| object["kind"] == "DaemonSet").unwrap();
    let volumes = agents["spec"]["template"]["spec"]["volumes"].as_array().unwrap();
    let roots = volumes.iter().find(|volume| volume["name"] == "roots").unwrap();
    assert_eq!(roots["configMap"], json!({ "name": "martlet-roots" }));
}

#[test]
fn every_object_says_whose_it_is_and_in_which_version() {
    for object in installed("", NAMESPACE) {
        let labels = &object["metadata"]["labels"];
        assert_eq!(labels["app.kubernetes.io/part-of"], "martlet", "{object}");
        assert_eq!(labels["app.kubernetes.io/managed-by"], "martlet", "{object}");
        assert_eq!(labels["app.kubernetes.io/version"], VERSION, "{object}");
    }
    for definition in objects(DEFINITIONS).unwrap() {
        let labels = &definition["metadata"]["labels"];
        assert_eq!(labels["app.kubernetes.io/part-of"], "martlet");
        assert_eq!(labels["app.kubernetes.io/version"], VERSION);
    }
}

#[test]
fn everything_of_a_namespace_is_in_that_which_is_said() {
    for object in installed(FULL, "mesh") {
        let kind = object["kind"].as_str().unwrap();
        let wanted = match kind {
            "Namespace" | "ClusterRole" | "ClusterRoleBinding" => Value::Null,
            _ => json!("mesh"),
        };
        assert_eq!(object["metadata"]["namespace"], wanted, "{kind}");
        assert!(!object.to_string().contains("martlet-system"), "{object:#}");
    }
}

#[test]
fn every_value_is_in_the_schema_and_has_a_comment_or_a_speaking_name() {
    fn keys(value: &Value, schema: &Value, at: &str) {
        let known: BTreeSet<_> = schema["properties"].as_object().unwrap().keys().collect();
        let known: BTreeSet<_> = known.into_iter().filter(|key| *key != "global").collect();
        let there: BTreeSet<_> = value.as_object().unwrap().keys().collect();
        assert_eq!(there, known, "{at}");
        for (key, value) in value.as_object().unwrap() {
            let schema = &schema["properties"][key];
            if schema["properties"].is_object() {
                keys(value, schema, &format!("{at}.{key}"));
            }
        }
    }
    let defaults = Overrides::read("values.yaml", &read("helm/martlet/values.yaml")).unwrap();
    keys(&defaults.value(), &Values::schema(), "values");
}

#[test]
fn what_makes_no_sense_is_refused_with_its_place() {
    for (yaml, wanted) in [
        (
            "imgae: {}",
            "imgae: no such value; there are agent, controller, image, log, metrics, traces, trustDomain",
        ),
        ("image: {tags: a}", "image.tags: no such value; there are digest, pullPolicy,"),
        ("image: {tag: 1.2}", "image.tag: a text (put it in quotes"),
        ("image: {tag: 'a b'}", "image.tag: \"a b\" is not a tag"),
        ("image: {repository: 'a\"b'}", "image.repository: \"a\\\"b\" is not a repository"),
        ("image: {pullPolicy: Sometimes}", "Sometimes"),
        ("agent: {metricsPort: many}", "agent.metricsPort: a number is wanted, not a text"),
        ("agent: {metricsPort: 0}", "agent.metricsPort: 0 cannot be used"),
        ("controller: {metricsPort: 15012}", "controller.metricsPort: 15012 cannot be used"),
        ("agent: {privileged: 'yes'}", "agent.privileged: true or false is wanted"),
        ("agent: {prober: a-name-of-16-byte}", "agent.prober: the kernel keeps"),
        ("agent: {tolerations: {}}", "agent.tolerations: a list is wanted, not a map"),
        ("agent: {cni: true}", "agent.cni: a map is wanted, not true or false"),
        (
            "agent: {cni: {exempt: [Kube System]}}",
            "agent.cni.exempt: \"Kube System\" is no namespace",
        ),
        ("agent: {cni: {programs: opt/cni}}", "agent.cni.programs: \"opt/cni\" is no directory"),
        ("agent: {cni: {networks: '/a b'}}", "agent.cni.networks: \"/a b\" is no directory"),
        ("trustDomain: Not A Domain", "trustDomain: \"Not A Domain\" is not one"),
        ("log: {level: 'a b'}", "log.level:"),
        ("traces: {endpoint: collector}", "traces.endpoint: \"collector\" is not the URL of"),
        ("traces: {endpoint: 'http://a:1/\"}'}", "traces.endpoint: "),
        ("traces: {endpoint: 'http://a:1', ratio: 0}", "traces.ratio: 0 is not a part"),
        ("traces: {endpoint: 'http://a:1', ratio: '1'}", "traces.ratio: a number is wanted"),
        ("traces: {endpoint: 'https://a:1'}", "traces.authorities: \"\" is no ConfigMap"),
        ("traces: {endpoint: 'http://a:1', authorities: a}", "traces.authorities: they belong to"),
        ("log: {format: xml}", "xml"),
        ("agent: {nodeSelector: {a: 1}}", "string"),
    ] {
        let refused =
            Values::with(&Overrides::read("test", yaml).unwrap()).unwrap_err().to_string();
        assert!(refused.contains(wanted), "{yaml}: {refused}");
    }
    assert!(
        Overrides::read("v.yaml", "a: [").unwrap_err().to_string().contains("v.yaml is not YAML")
    );
    assert!(Overrides::read("v.yaml", "[a]").unwrap_err().to_string().contains("a map of keys"));
}

#[test]
fn a_pair_says_one_value_and_later_ones_win() {
    let pair = |text| Overrides::pair(text).unwrap();
    let all =
        pair("image.tag=1.10").and(pair("agent.privileged=true")).and(pair("agent.metricsPort=1"));
    let values = Values::with(&all.and(pair("agent.metricsPort=2"))).unwrap();
    assert_eq!(values.image.tag, "1.10");
    assert!(values.agent.privileged);
    assert_eq!(values.agent.metrics_port, 2);
    for wrong in ["image.tag", "=a", "image..tag=a", "agent.tolerations=["] {
        assert!(Overrides::pair(wrong).is_err(), "{wrong}");
    }
}
