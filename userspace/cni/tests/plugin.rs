//! The program as runtimes start it: what it says, and what the agent hears. `MARTLET_BLESS=1` writes
//! the transcript anew.

#![allow(clippy::unwrap_used)]

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::{self, JoinHandle},
};

use martlet_cni::message::{Arrival, Ask, PodName};
use serde_json::{Value, json};
use tempfile::TempDir;

const BRIDGE: &str = r#"{"cniVersion":"1.0.0","dns":{"unknown":[null,0.1]},"interfaces":[{"name":"eth0","sandbox":"/run/netns/x"}],"ips":[{"address":"10.244.1.5/24","gateway":"10.244.1.1","interface":0}]}"#;

fn network(more: &str) -> String {
    format!(
        r#"{{"cniVersion": "1.0.0", "name": "n", "type": "martlet-cni", "exempt": ["kube-system"], {more}}}"#
    )
}

fn good(socket: &Path) -> String {
    network(&format!(r#""socket": "{}", "prevResult": {BRIDGE}"#, socket.display()))
}

const POD: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-0;K8S_POD_UID=u1";

/// What a runtime says of an ADD.
fn variables(command: &str, arguments: &str) -> Vec<(&'static str, String)> {
    vec![
        ("CNI_COMMAND", command.to_owned()),
        ("CNI_CONTAINERID", "c1".to_owned()),
        ("CNI_NETNS", "/proc/self/ns/net".to_owned()),
        ("CNI_IFNAME", "eth0".to_owned()),
        ("CNI_ARGS", arguments.to_owned()),
    ]
}

/// Standard output, and whether it ended well.
fn run(variables: &[(&str, String)], stdin: &str) -> (String, bool) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_martlet-cni"))
        .env_clear()
        .envs(variables.iter().map(|(key, value)| (key, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Who has heard enough does not read the rest.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.success())
}

/// An agent that answers once.
struct Agent {
    directory: TempDir,
    heard: JoinHandle<Ask>,
}

impl Agent {
    fn answering(answer: &'static str) -> Self {
        let directory = TempDir::new().unwrap();
        let listener = UnixListener::bind(directory.path().join("cni.sock")).unwrap();
        let heard = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            (&stream).write_all(answer.as_bytes()).unwrap();
            serde_json::from_str(&line).unwrap()
        });
        Self { directory, heard }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("cni.sock")
    }
}

const GO: &str = "{\"answer\":\"go\"}\n";
const NO: &str = "{\"answer\":\"no\",\"why\":\"the kernel programs are not attached yet\"}\n";

#[test]
fn what_the_plugins_before_have_made_is_handed_on_unchanged_when_the_agent_says_go() {
    let agent = Agent::answering(GO);
    let said = run(&variables("ADD", POD), &good(&agent.socket()));
    assert_eq!(said, (format!("{BRIDGE}\n"), true));
    let pod = PodName {
        namespace: "shop".to_owned(),
        name: "cart-0".to_owned(),
        uid: Some("u1".to_owned()),
    };
    let arrival = Arrival {
        sandbox: "c1".to_owned(),
        netns: "/proc/self/ns/net".into(),
        pod: Some(pod),
        addresses: vec!["10.244.1.5".parse().unwrap()],
        is_exempt: false,
    };
    assert_eq!(agent.heard.join().unwrap(), Ask::Arrives(arrival));
}

#[test]
fn an_agent_that_is_not_ready_or_not_there_means_no_network_and_says_why() {
    let agent = Agent::answering(NO);
    let (said, is_well) = run(&variables("ADD", POD), &good(&agent.socket()));
    let said: Value = serde_json::from_str(&said).unwrap();
    let wanted = json!({ "cniVersion": "1.0.0", "code": 11,
        "msg": "martlet: the kernel programs are not attached yet" });
    assert_eq!((said, is_well), (wanted, false));

    let directory = TempDir::new().unwrap();
    let nobody = directory.path().join("cni.sock");
    let (said, is_well) = run(&variables("ADD", POD), &good(&nobody));
    assert!(!is_well && said.contains("the node's agent is not there"), "{said}");
    // It has been there.
    drop(UnixListener::bind(&nobody).unwrap());
    let (said, is_well) = run(&variables("ADD", POD), &good(&nobody));
    assert!(!is_well && said.contains("the node's agent is not there"), "{said}");
}

#[test]
fn an_answer_that_is_none_means_no_network() {
    for answer in ["", "{\"answer\":\"go\"}", "yes\n", "{}\n", "{\"answer\":\"perhaps\"}\n"] {
        let agent = Agent::answering(answer);
        let (said, is_well) = run(&variables("ADD", POD), &good(&agent.socket()));
        assert!(!is_well && said.contains("\"code\":11"), "{answer:?}: {said}");
    }
}

#[test]
fn pods_of_an_exempt_namespace_have_a_network_also_without_the_agent_and_it_is_told() {
    let system = POD.replace("shop", "kube-system");
    let nobody = TempDir::new().unwrap().path().join("cni.sock");
    assert_eq!(run(&variables("ADD", &system), &good(&nobody)), (format!("{BRIDGE}\n"), true));
    let agent = Agent::answering(NO);
    let socket = agent.socket();
    assert_eq!(run(&variables("ADD", &system), &good(&socket)), (format!("{BRIDGE}\n"), true));
    assert!(matches!(agent.heard.join().unwrap(), Ask::Arrives(arrival) if arrival.is_exempt));
    // Another's name is no exemption, nor is none.
    for other in ["K8S_POD_NAMESPACE=shop;K8S_POD_NAME=kube-system", "NAME=kube-system", ""] {
        let (said, is_well) = run(&variables("ADD", other), &good(&nobody));
        assert!(!is_well, "{other}: {said}");
    }
}

#[test]
fn a_pod_that_goes_is_told_of_and_goes_also_without_the_agent() {
    let agent = Agent::answering(GO);
    let socket = agent.socket();
    assert_eq!(run(&variables("DEL", POD), &good(&socket)), (String::new(), true));
    assert_eq!(agent.heard.join().unwrap(), Ask::Leaves { sandbox: "c1".to_owned() });
    let less = variables("DEL", "").into_iter().filter(|(key, _)| *key != "CNI_NETNS");
    let less: Vec<_> = less.collect();
    let nobody = TempDir::new().unwrap().path().join("cni.sock");
    let bare = network(&format!(r#""socket": "{}""#, nobody.display()));
    assert_eq!(run(&less, &bare), (String::new(), true));
    assert_eq!(run(&less, &network(r#""a": 1"#)), (String::new(), true));
}

/// Said in full in `golden/transcript.txt`: nothing of it reaches an agent.
#[test]
fn every_command_and_every_mistake_is_answered_in_cnis_form() {
    let socket = "/nonexistent/martlet/cni.sock";
    let good = good(Path::new(socket));
    let with = |result: &str| network(&format!(r#""socket": "{socket}", "prevResult": {result}"#));
    let without = |name: &str| {
        let all = variables("ADD", POD).into_iter();
        all.filter(|(key, _)| *key != name).collect::<Vec<_>>()
    };
    let mut netns = variables("ADD", POD);
    netns[2].1 = "/nonexistent/netns".to_owned();
    let add = || variables("ADD", POD);
    let cases = [
        (
            "VERSION",
            vec![("CNI_COMMAND", "VERSION".to_owned())],
            r#"{"cniVersion": "0.4.0"}"#.into(),
        ),
        ("VERSION, nothing said", vec![("CNI_COMMAND", "VERSION".to_owned())], String::new()),
        ("STATUS", vec![("CNI_COMMAND", "STATUS".to_owned())], good.clone()),
        ("GC", vec![("CNI_COMMAND", "GC".to_owned())], good.clone()),
        ("CHECK", variables("CHECK", POD), good.clone()),
        ("CHECK of nothing", variables("CHECK", POD), network(r#""a": 1"#)),
        ("no agent", add(), good.clone()),
        ("an unknown command", variables("REMOVE", POD), good.clone()),
        ("no container", without("CNI_CONTAINERID"), good.clone()),
        ("no interface", without("CNI_IFNAME"), good.clone()),
        ("no network namespace", without("CNI_NETNS"), good.clone()),
        ("a network namespace that is not there", netns, good.clone()),
        ("arguments that are no pairs", variables("ADD", "a=b;c"), good.clone()),
        ("half a pod", variables("ADD", "K8S_POD_NAMESPACE=shop"), good.clone()),
        (
            "two namespaces",
            variables("ADD", "K8S_POD_NAMESPACE=a;K8S_POD_NAMESPACE=b"),
            good.clone(),
        ),
        ("nothing on standard input", add(), String::new()),
        ("no JSON", add(), "{\"cniVersion\": 1.0.0}".to_owned()),
        ("a list", add(), "[]".to_owned()),
        ("an old version", add(), good.replacen("1.0.0", "0.2.0", 1)),
        ("a version to come", add(), good.replacen("1.0.0", "2.0.0", 1)),
        ("not chained", add(), network(&format!(r#""socket": "{socket}""#))),
        ("no socket", add(), network(&format!(r#""prevResult": {BRIDGE}"#))),
        ("a result that is none", add(), with(r#"{"ips": [{"address": 7}]}"#)),
        ("an address that is none", add(), with(r#"{"ips": [{"address": "10.0.0.300/24"}]}"#)),
        ("an address that is no pod's", add(), with(r#"{"ips": [{"address": "127.0.0.1/8"}]}"#)),
        (
            "too many addresses",
            add(),
            with(&format!(
                r#"{{"ips": [{}]}}"#,
                vec![r#"{"address": "10.0.0.1/24"}"#; 17].join(", ")
            )),
        ),
    ];
    let mut transcript = String::new();
    for (what, variables, stdin) in cases {
        let (said, is_well) = run(&variables, &stdin);
        let ended = if is_well { "well" } else { "error" };
        transcript += &format!("{what}: {ended}\n{said}");
        if !is_well {
            let error: Value = serde_json::from_str(&said).unwrap();
            assert!(error["code"].is_u64() && error["msg"].is_string(), "{what}: {said}");
        }
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/transcript.txt");
    if env::var_os("MARTLET_BLESS").is_some() {
        fs::write(&golden, &transcript).unwrap();
    }
    assert_eq!(transcript, fs::read_to_string(&golden).unwrap());
}

#[test]
fn a_person_is_told_how_it_is_used() {
    let output = Command::new(env!("CARGO_BIN_EXE_martlet-cni")).env_clear().output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("martlet-cni keep"));
}
