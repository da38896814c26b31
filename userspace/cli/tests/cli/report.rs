//! `martlet bugreport` of a played cluster: what is in the archive, and what never is.

use std::{collections::BTreeMap, fs::File, io::Read as _};

use flate2::read::GzDecoder;
use serde_json::{Value, json};

use crate::{
    api::{Api, Objects, list, pod},
    run,
};

const PODS: &str = "/api/v1/namespaces/martlet-system/pods";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQ\n-----END PRIVATE KEY-----";

/// An agent's pod with the container that keeps the plugin of the network, which was restarted.
fn with_plugin() -> Value {
    let mut agent = pod("martlet-agent-a", "one");
    let mut of = |list: &str, part: &str, one: Value| {
        agent[list][part].as_array_mut().unwrap().push(one);
    };
    of("spec", "containers", json!({"name": "cni", "image": "martlet:1"}));
    let status =
        json!({"name": "cni", "image": "", "imageID": "", "restartCount": 1, "ready": true});
    of("status", "containerStatuses", status);
    agent
}

/// The files of an archive that `martlet bugreport` has written, by their names.
fn report(api: &Api) -> BTreeMap<String, String> {
    let at = |name: &str| api.directory().join(name).to_str().unwrap().to_owned();
    let (archive, kubeconfig) = (at("report.tar.gz"), at("kubeconfig"));
    let arguments = ["bugreport", "--file", &archive, "--kubeconfig", &kubeconfig];
    let output = run("/nowhere/agent.sock".as_ref(), &arguments);
    assert!(output.status.success(), "{output:?}");
    let mut files = BTreeMap::new();
    let mut archive = tar::Archive::new(GzDecoder::new(File::open(archive).unwrap()));
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        files.insert(path.split_once('/').unwrap().1.to_owned(), text);
    }
    files
}

#[test]
fn logs_of_all_containers_of_a_pod_are_in_it_without_keys() {
    let mut objects = Objects::default();
    let pods = list("PodList", "v1", vec![with_plugin()]);
    objects.answers.insert(format!("{PODS}?martlet-agent"), pods);
    let log = format!("{PODS}/martlet-agent-a/log");
    objects.answers.insert(format!("{log}?main"), json!("the agent is ready"));
    let said = format!("the network was followed, {KEY}");
    objects.answers.insert(format!("{log}?cni"), json!(said));
    let files = report(&Api::start(objects));
    assert!(files["nodes/one/log.txt"].contains("the agent is ready"));
    assert!(!files.contains_key("nodes/one/log-before-restart.txt"), "it was not restarted");
    for name in ["log-of-cni", "log-of-cni-before-restart"] {
        let text = &files[&format!("nodes/one/{name}.txt")];
        assert!(text.contains("the network was followed, [redacted]"), "{text}");
    }
    assert!(files.values().all(|text| !text.contains("PRIVATE KEY")));
}

#[test]
fn a_log_that_cannot_be_had_is_named() {
    let mut objects = Objects::default();
    let pods = list("PodList", "v1", vec![with_plugin()]);
    objects.answers.insert(format!("{PODS}?martlet-agent"), pods);
    let files = report(&Api::start(objects));
    let missing = &files["missing.txt"];
    for name in ["nodes/one/log.txt", "nodes/one/log-of-cni.txt"] {
        assert!(missing.contains(name), "{missing}");
    }
}
