//! `martlet` and a cluster of three nodes, one of which has no agent that runs, behind a played API
//! server.

use std::{io::BufRead as _, process::Stdio, time::Duration};

use martlet_model::report::CheckReport;
use serde_json::{Value, json};

use crate::{
    api::{Api, Objects, list, pod, pod_in},
    fake::FakeAgent,
    fixtures::{record, reports},
    martlet, run, stderr, stdout,
    transcript::Transcript,
};

const PODS: &str = "/api/v1/namespaces/martlet-system/pods";

/// Two agents that answer, and the cluster that they are in.
struct Played {
    agents: [FakeAgent; 2],
    api: Api,
}

fn objects(agents: &[FakeAgent; 2]) -> Objects {
    let mut objects = Objects::default();
    let waiting = json!({"waiting": {"reason": "ErrImagePull", "message": "no such image"}});
    let pods = vec![
        pod("martlet-agent-b", "two"),
        pod("martlet-agent-a", "one"),
        pod_in("martlet-agent-c", "three", &waiting),
    ];
    objects.answers.insert(format!("{PODS}?martlet-agent"), list("PodList", "v1", pods));
    for (pod, agent) in ["martlet-agent-a", "martlet-agent-b"].into_iter().zip(agents) {
        objects.sockets.insert(pod.to_owned(), agent.socket());
    }
    objects
}

fn start() -> Played {
    let mut second = reports();
    second.status.node = "two".parse().unwrap();
    second.coverage.node = "two".parse().unwrap();
    let agents = [FakeAgent::start(reports()), FakeAgent::start(second)];
    let api = Api::start(objects(&agents));
    Played { agents, api }
}

impl Played {
    fn run(&self, arguments: &[&str]) -> std::process::Output {
        let kubeconfig = self.api.directory().join("kubeconfig");
        let kubeconfig = kubeconfig.to_str().unwrap();
        // The socket is none: a cluster that is named goes before it.
        run("/nowhere/agent.sock".as_ref(), &[arguments, &["--kubeconfig", kubeconfig]].concat())
    }
}

fn json(output: &std::process::Output) -> Value {
    serde_json::from_str(stdout(output)).unwrap_or_else(|_| panic!("{output:?}"))
}

#[test]
fn all_nodes_are_shown_together_and_one_that_does_not_answer_is_named() {
    let played = start();
    let mut told = Transcript::new("cluster", played.api.directory());
    let nowhere = "/nowhere/agent.sock".as_ref();
    for command in ["status", "workloads", "connections", "certificates", "coverage", "records"] {
        told.run(nowhere, &format!("martlet {command} --kubeconfig kubeconfig"));
    }
    told.says("One node is shown as on the node itself.");
    told.run(nowhere, "martlet status --kubeconfig kubeconfig --node one");
    told.run(nowhere, "martlet status --kubeconfig kubeconfig --node three");
    told.run(nowhere, "martlet status --kubeconfig kubeconfig --node four");
    told.says("There is no controller here.");
    told.run(nowhere, "martlet nodes --kubeconfig kubeconfig");
    told.run(nowhere, "martlet status --kubeconfig kubeconfig --context other");
    told.run(nowhere, "martlet status --kubeconfig kubeconfig --namespace-system elsewhere");
    told.finish();
}

#[test]
fn programs_get_one_object_for_each_node() {
    let played = start();
    let output = played.run(&["coverage", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1), "a node did not answer");
    let said = json(&output);
    let nodes = said["nodes"].as_array().unwrap();
    let names: Vec<_> = nodes.iter().map(|node| node["node"].as_str().unwrap()).collect();
    assert_eq!(names, ["one", "three", "two"]);
    assert_eq!(nodes[0]["answer"], serde_json::to_value(reports().coverage).unwrap());
    assert_eq!(nodes[0]["version"], env!("CARGO_PKG_VERSION"));
    assert!(nodes[1]["error"].as_str().unwrap().contains("ErrImagePull"), "{said}");
    // Of one node, too.
    let output = played.run(&["status", "-o", "json", "--node", "two"]);
    assert!(output.status.success());
    assert_eq!(json(&output)["nodes"][0]["answer"]["node"], "two");
}

#[test]
fn records_of_all_nodes_are_followed_through_the_api_server() {
    let played = start();
    let kubeconfig = played.api.directory().join("kubeconfig");
    let mut follow = martlet("/nowhere/agent.sock".as_ref())
        .args(["records", "--follow", "-o", "json", "--node", "one", "--node", "two"])
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(follow.stdout.take().unwrap()).lines();
    for (agent, node) in played.agents.iter().zip(["one", "two"]) {
        // Sent again until it is heard: nothing says when both are followed.
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let line = std::thread::scope(|scope| {
            scope.spawn(move || {
                while stopped.recv_timeout(Duration::from_millis(50)).is_err() {
                    agent.ended(record());
                }
            });
            let line = lines.find_map(|line| {
                let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
                (line["node"] == node).then_some(line)
            });
            stop.send(()).unwrap();
            line
        });
        assert_eq!(line.unwrap()["reporter"], "source");
    }
    follow.kill().unwrap();
    follow.wait().unwrap();
}

#[test]
fn a_martlet_of_another_version_in_the_pod_is_told() {
    let agents = [FakeAgent::start(reports()), FakeAgent::start(reports())];
    let mut objects = objects(&agents);
    let pods = vec![pod("old", "one"), pod("oldest", "two"), pod("mute", "three")];
    objects.answers.insert(format!("{PODS}?martlet-agent"), list("PodList", "v1", pods));
    objects.sockets.insert("mute".to_owned(), "/nowhere/agent.sock".into());
    let relay = format!(
        "echo martlet 0.0.1 >&2; exec env MARTLET_SOCKET={} {} relay agent 2>/dev/null",
        agents[0].socket().display(),
        env!("CARGO_BIN_EXE_martlet")
    );
    objects.programs.insert("old".to_owned(), relay);
    let unknown = "echo \"error: unrecognized subcommand 'relay'\" >&2; exit 2";
    objects.programs.insert("oldest".to_owned(), unknown.to_owned());
    let [first, second] = agents;
    let played = Played { agents: [first, second], api: Api::start(objects) };
    let output = played.run(&["status"]);
    assert_eq!(output.status.code(), Some(1));
    let said = stdout(&output);
    let ours = env!("CARGO_PKG_VERSION");
    assert!(said.contains(&format!("‼ one has martlet 0.0.1, and this is {ours}")), "{said}");
    let oldest = "× two did not answer: nothing is relayed by the pod oldest: error: unrecognized";
    assert!(said.contains(oldest), "{said}");
    assert!(said.contains("connecting to /nowhere/agent.sock"), "{said}");
}

#[test]
fn a_connection_to_a_pod_that_breaks_is_told() {
    let agents = [FakeAgent::start(reports()), FakeAgent::start(reports())];
    let mut objects = objects(&agents);
    let pods = vec![pod("cut", "one"), pod("late", "two"), pod("silent", "three")];
    objects.answers.insert(format!("{PODS}?martlet-agent"), list("PodList", "v1", pods));
    let programs = [("cut", "exit 1"), ("late", "echo martlet 1 >&2; read x"), ("silent", "true")];
    for (pod, program) in programs {
        objects.programs.insert(pod.to_owned(), program.to_owned());
    }
    objects.cut.extend(["cut", "late"].map(str::to_owned));
    let [first, second] = agents;
    let played = Played { agents: [first, second], api: Api::start(objects) };
    let said = played.run(&["status"]);
    let said = stdout(&said);
    for (node, pod) in [("one", "cut"), ("two", "late")] {
        let broke = format!(
            "× {node} did not answer: nothing is relayed by the pod {pod}: the connection to the program broke: "
        );
        assert!(said.contains(&broke), "{said}");
    }
    assert!(said.contains("relayed by the pod silent: it ended without a word"), "{said}");
}

#[test]
fn a_check_finds_what_is_missing_in_a_cluster() {
    let played = start();
    let output = played.run(&["check", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let report: CheckReport = serde_json::from_str(stdout(&output)).unwrap();
    assert!(!report.success);
    let checks = || report.categories.iter().flat_map(|category| &category.checks);
    let hint = |anchor: &str| {
        let anchor = format!("docs/checks.md#{anchor}");
        checks().any(|check| check.hint.as_ref().is_some_and(|hint| hint.ends_with(&anchor)))
    };
    for anchor in ["api-server", "namespace", "control-plane", "node-answers"] {
        assert!(hint(anchor), "{anchor}: {report:#?}");
    }
    let names: Vec<_> = report.categories.iter().map(|one| one.category_name.as_str()).collect();
    assert!(names.contains(&"node one: kernel") && names.contains(&"node two: kernel"));
    let shown = played.run(&["check"]);
    assert!(stdout(&shown).contains("one: 1 checks of its agent found nothing wrong"));
}
