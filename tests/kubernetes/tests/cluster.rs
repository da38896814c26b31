//! The cluster that tests run on is a real one, and leaves the machine as it was.

use std::time::Duration;

use anyhow::{Context as _, Result};
use martlet_lab::{Canaries, Sniffer, wait_for};
use martlet_tests_kubernetes::{Cluster, Kubectl, Own, Traces, has_condition, pods};
use serde_json::Value;

/// A name server asks the API server once a second; a busy machine takes longer.
const NAME_KNOWN: Duration = Duration::from_secs(30);

fn ready_nodes(kubectl: &Kubectl) -> Result<Vec<String>> {
    let nodes = kubectl.get(&["nodes"])?;
    let nodes = nodes["items"].as_array().context("a list has items")?;
    let ready = nodes.iter().filter(|node| has_condition(node, "Ready"));
    let name = |node: &Value| Some(node["metadata"]["name"].as_str()?.to_owned());
    Ok(ready.filter_map(name).collect())
}

fn address(pod: &Value) -> Result<String> {
    Ok(pod["status"]["podIP"].as_str().context("a ready pod has an address")?.to_owned())
}

/// Not with wget's own deadline, with which this busybox crashes.
fn fetch(kubectl: &Kubectl, pod: &str, host: &str, port: u16) -> Result<String> {
    kubectl.exec(pod, &["timeout", "5", "wget", "-q", "-O", "-", &format!("http://{host}:{port}/")])
}

#[test]
fn two_nodes_are_ready_and_what_pods_say_to_each_other_is_seen_on_the_wire_between_them()
-> Result<()> {
    let own = Own::up(&["--nodes", "2"])?;
    let kubectl = own.kubectl();
    assert_eq!(ready_nodes(&kubectl)?, ["node1", "node2"]);
    let canaries = Canaries::printable(1);
    let text = String::from_utf8(canaries.iter().next().context("a canary")?.to_vec())?;
    kubectl.apply(&(pods::idle("client", "node1") + &pods::web("server", "node2", &text)))?;
    let (client, server) = (kubectl.ready_pod("client")?, kubectl.ready_pod("server")?);
    let (from, to) = (address(&client)?, address(&server)?);
    let sniffer = Sniffer::start([&own.wire()?], &canaries)?;
    let answer = fetch(&kubectl, "client", &to, 8080)?;
    assert!(answer.contains(&text), "{answer}");
    let capture = sniffer.stop()?;
    assert_eq!(capture.found().len(), 1, "the text was not on the wire");
    let between = |flow: &&martlet_lab::Flow| {
        flow.source.ip().to_string() == from && flow.destination.to_string() == format!("{to}:8080")
    };
    assert_eq!(capture.flows().filter(between).count(), 1, "pods have other addresses on the wire");
    Ok(())
}

#[test]
fn services_are_found_by_name_and_reached_and_names_that_nobody_has_are_not() -> Result<()> {
    let cluster = Cluster::obtain()?;
    let kubectl = cluster.kubectl();
    let nodes = ready_nodes(&kubectl)?;
    let node = nodes.last().context("no node is ready")?;
    let image = pods::image();
    let services = format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: each}}
spec: {{clusterIP: None, selector: {{app: each}}, ports: [{{port: 8080}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: alias}}
spec: {{type: ExternalName, externalName: web.default.svc.cluster.local}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: each}}
spec:
  serviceName: each
  selector: {{matchLabels: {{app: each}}}}
  template:
    metadata: {{labels: {{app: each}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: {image}
        command: [/bin/sh, -c, \"mkdir /www && hostname > /www/index.html && exec httpd -f -p 8080 -h /www\"]
"
    );
    kubectl
        .apply(&(services + &pods::idle("client", &nodes[0]) + &pods::web("web", node, "hello")))?;
    let _ = (kubectl.ready_pod("client")?, kubectl.ready_pod("web")?);
    kubectl.ready_pod("each-0")?;
    for (host, port, wanted) in [
        ("web.default.svc.cluster.local", 80, "hello"),
        ("web.default", 80, "hello"),
        ("web", 80, "hello"),
        ("alias", 80, "hello"),
        ("each", 8080, "each-0"),
        ("each-0.each", 8080, "each-0"),
    ] {
        wait_for(&format!("{host} to answer {wanted}"), NAME_KNOWN, || {
            let found = fetch(&kubectl, "client", host, port).unwrap_or_default();
            Ok((found.trim() == wanted).then_some(()))
        })?;
    }
    for host in ["nobody", "web.nowhere", "each-1.each"] {
        let refused = fetch(&kubectl, "client", host, 80).unwrap_err().to_string();
        assert!(refused.contains("bad address"), "{host}: {refused}");
    }
    Ok(())
}

#[test]
fn a_cluster_that_is_down_has_left_nothing_and_its_neighbor_is_still_up() -> Result<()> {
    let neighbor = Own::up(&["--nodes", "1"])?;
    let own = Own::up(&["--nodes", "3", "--cni", "ptp"])?;
    let kubectl = own.kubectl();
    assert_eq!(ready_nodes(&kubectl)?, ["node1", "node2", "node3"]);
    kubectl.apply(&pods::web("pod", "node3", "hello"))?;
    kubectl.ready_pod("pod")?;
    let traces = Traces::of(&own)?;
    // Every node has at least containerd, kubelet, kube-proxy and a first process.
    assert!(traces.processes.len() > 12, "{traces:?}");
    assert!(traces.namespaces.len() > 12, "{traces:?}");
    assert!(!traces.groups.is_empty() && !traces.mounts.is_empty(), "{traces:?}");
    own.task(&["down"])?;
    let left = traces.left(&own)?;
    assert!(left.is_empty(), "{left:#?}");
    assert!(kubectl.run(&["get", "nodes", "--request-timeout=5s"]).is_err());
    assert_eq!(ready_nodes(&neighbor.kubectl())?, ["node1"]);
    // What was in it comes back with it, under its old shape's name only if that is asked for.
    own.task(&["up", "--nodes", "3", "--cni", "ptp"])?;
    own.kubectl().ready_pod("pod").map(drop)
}

#[test]
fn a_cluster_that_is_up_says_so_and_does_not_become_another() -> Result<()> {
    let own = Own::up(&["--nodes", "1"])?;
    let again = own.task(&["up"])?;
    assert!(again.contains("is up with 1 node"), "{again}");
    let other = own.try_task(&["up", "--nodes", "2"])?;
    let complaint = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(!other.status.success() && complaint.contains("take it down first"), "{complaint}");
    let nobody = own.try_task(&["exec", "node2", "true"])?;
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("the cluster's nodes are node1"));
    assert_eq!(own.task(&["exec", "node1", "hostname"])?.trim(), "node1");
    own.task(&["down"])?;
    let down = own.try_task(&["kubectl", "get", "nodes"])?;
    assert!(String::from_utf8_lossy(&down.stderr).contains("is not up"));
    Ok(())
}
