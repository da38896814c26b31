//! Node ports, called from pods of the same cluster: kube-proxy connects them, behind all that Martlet
//! sees of the call.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use martlet_lab::{evidence, wait_for};
use martlet_tests_kubernetes::{Mesh, PATIENCE};
use serde_json::Value;

const TEST: &str = "a_node_port_from_inside_is_plain_to_permissive_pods_and_refused_by_strict_ones";

/// By who calls, of which service, at which node: whether the call was answered.
type Calls = BTreeMap<String, bool>;

/// `moved` puts a node's address in place of the caller's, `kept` leaves the caller's.
fn services() -> String {
    let service = |name: &str, policy: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
             spec: {{type: NodePort, externalTrafficPolicy: {policy}, selector: {{app: server}}, \
             ports: [{{port: 80, targetPort: web}}]}}\n"
        )
    };
    service("moved", "Cluster") + &service("kept", "Local")
}

/// All ways from each of the two callers.
fn calls(mesh: &Mesh) -> Result<Calls> {
    let nodes = mesh.kubectl.get(&["nodes"])?;
    let nodes = nodes["items"].as_array().context("a list has items")?;
    let shop = mesh.kubectl.within("shop");
    let mut calls = Calls::new();
    for name in ["moved", "kept"] {
        let service = shop.get(&["service", name])?;
        let port =
            service["spec"]["ports"][0]["nodePort"].as_u64().context("it has a node port")?;
        for node in nodes {
            let addresses = node["status"]["addresses"].as_array().context("a node has some")?;
            let is_own = |address: &&Value| address["type"] == "InternalIP";
            let own = addresses.iter().find(is_own).context("one is its own")?;
            let url = format!("http://{}:{port}/", own["address"].as_str().context("a text")?);
            let node = node["metadata"]["name"].as_str().context("a node has a name")?;
            for (by, kubectl) in [("client", &shop), ("outsider", &mesh.kubectl)] {
                let call = ["timeout", "3", "wget", "-q", "-O", "-", &url];
                let answer = kubectl.exec(by, &call);
                let is_answered = answer.is_ok_and(|answer| answer.contains(mesh.secret()));
                calls.insert(format!("{by} {name} {node}"), is_answered);
            }
        }
    }
    Ok(calls)
}

fn until(mesh: &Mesh, what: &str, is_so: impl Fn(&str, bool) -> bool) -> Result<()> {
    let mut last = Calls::new();
    let waited = wait_for(what, PATIENCE, || {
        last = calls(mesh)?;
        Ok(last.iter().all(|(call, answered)| is_so(call, *answered)).then_some(()))
    });
    println!("{what}: {last:?}");
    waited.with_context(|| format!("{last:?}"))
}

#[test]
fn a_node_port_from_inside_is_plain_to_permissive_pods_and_refused_by_strict_ones() -> Result<()> {
    let mesh = Mesh::up()?;
    mesh.kubectl.within("shop").apply(&services())?;
    until(&mesh, "without Martlet all are answered", |_, answered| answered)?;
    mesh.install()?;
    mesh.label("=permissive")?;
    mesh.until_steered()?;
    let is_seen = mesh.is_seen(|| {
        // Who is known to be enrolled has to prove it, and nobody does for it here.
        until(&mesh, "of permissive pods", |call, answered| {
            answered != call.starts_with("client kept")
        })
    })?;
    assert!(is_seen, "it is as plain as a call from outside");
    assert!(!mesh.is_seen(|| mesh.until_answered("client"))?, "by the service it is not");

    mesh.label("=strict")?;
    mesh.until_refused("outsider")?;
    let is_seen = mesh.is_seen(|| until(&mesh, "of strict pods", |_, answered| !answered))?;
    assert!(!is_seen, "the secret was on the wire");
    mesh.until_answered("client")?;
    evidence(TEST, &[("ways to call a node port", &8)])
}
