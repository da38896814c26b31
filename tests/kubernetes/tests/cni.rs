//! The plugin of the container network on a real cluster: no pod has a network before its node's agent
//! is ready.

use std::time::Duration;

use anyhow::{Context as _, Result};
use martlet_lab::{evidence, wait_for};
use martlet_tests_kubernetes::{Kubectl, Mesh, PATIENCE, pods};
use serde_json::Value;

const TEST: &str = "no_pod_has_a_network_before_its_nodes_agent_is_ready";
const NODES: [&str; 2] = ["node1", "node2"];
/// An agent waits for what is open, and kubelets take their time to forget a pod.
const ROLLOUT: Duration = Duration::from_secs(300);
/// Where the nodes of these clusters have their plugins.
const PLUGIN: [&str; 4] =
    ["--set", "agent.cni.enabled=true", "--set", "agent.cni.programs=/usr/lib/cni"];

/// One cluster for all of it: to make one takes longer than what is shown on it.
#[test]
fn no_pod_has_a_network_before_its_nodes_agent_is_ready() -> Result<()> {
    let mesh = Mesh::up()?;
    let before = networks(&mesh)?;
    mesh.install()?;
    mesh.label("=strict")?;
    mesh.until_steered()?;
    let near = Near { shop: mesh.kubectl.within("shop"), mesh };
    near.begin()?;

    let is_seen = near.is_seen_when_node1_begins_anew(|near| near.until_called())?;
    assert!(is_seen, "without the plugin, pods of a node talk in plaintext before their agent");
    near.mesh.install_with(&PLUGIN)?;
    assert_ne!(networks(&near.mesh)?, before);
    let is_seen = near.is_seen_when_node1_begins_anew(|near| {
        without_its_agent_a_node_starts_exempt_pods_only_and_says_why(near)
    })?;
    assert!(!is_seen, "the secret was plain on the node");
    what_others_do_to_the_network_is_followed(&near.mesh)?;
    turned_off_the_plugin_leaves_the_networks_as_they_were(&near, &before)?;
    near.mesh.install_with(&PLUGIN)?;
    assert_ne!(networks(&near.mesh)?, before);
    an_uninstall_leaves_the_networks_as_they_were(&near.mesh, &before)
}

/// Two pods on one node, one of which calls the other all the time.
struct Near {
    mesh: Mesh,
    shop: Kubectl,
}

impl Near {
    fn begin(&self) -> Result<()> {
        let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: near}\n\
            spec: {selector: {app: near}, ports: [{port: 80, targetPort: web}]}\n";
        let near = pods::quiet_web("near", "node1", self.mesh.secret());
        let caller = pods::caller("caller", "node1", "http://near/");
        self.shop.apply(&(near + &caller + service))?;
        self.until_called()
    }

    fn until_called(&self) -> Result<()> {
        self.shop.ready_pod("caller").map(drop)
    }

    fn restarts(&self, pod: &str) -> Result<i64> {
        let pod = self.shop.get(&["pod", pod])?;
        Ok(pod["status"]["containerStatuses"][0]["restartCount"].as_i64().unwrap_or_default())
    }

    fn only_on(&self, node: &str, strategy: &str) -> Result<()> {
        let patch = format!(
            r#"{{"spec":{{"updateStrategy":{{"type":"{strategy}"}},"template":{{"spec":{{"nodeSelector":{node}}}}}}}}}"#
        );
        let set = ["patch", "daemonset", "martlet-agent", "--type", "merge", "--patch", &patch];
        self.mesh.system().run(&set).map(drop)
    }

    /// Its agent is kept away, all that it left in the kernel is removed, and the pods begin anew, as
    /// they do when the machine has. Its agent is back at the end. Whether anything was plain on the
    /// node from then on.
    fn is_seen_when_node1_begins_anew(
        &self,
        act: impl FnOnce(&Self) -> Result<()>,
    ) -> Result<bool> {
        self.only_on(r#"{"kubernetes.io/hostname":"node2"}"#, "OnDelete")?;
        wait_for("node1 to be without an agent", ROLLOUT, || {
            Ok((self.mesh.agents()?.len() == 1).then_some(()))
        })?;
        let before = self.restarts("caller")? + self.restarts("near")?;
        // Pods first: they must not run any more when what keeps them closed goes.
        let anew = "for task in $(ctr -n k8s.io tasks ls -q 2> /dev/null); do \
                    ctr -n k8s.io tasks kill --all --signal SIGKILL $task 2> /dev/null; done; \
                    rm -rf /sys/fs/bpf/martlet";
        self.mesh.own.task(&["exec", "node1", "sh", "-c", anew])?;
        let is_seen = self.mesh.is_seen_on("node1", || {
            act(self)?;
            self.only_on("null", "RollingUpdate")?;
            wait_for("both agents", PATIENCE, || {
                Ok((self.mesh.agents()?.len() == 2).then_some(()))
            })?;
            for agent in self.mesh.agents()? {
                self.mesh.system().ready_pod(&agent)?;
            }
            wait_for("the pods to have begun anew", PATIENCE, || {
                let now = self.restarts("caller")? + self.restarts("near")?;
                Ok((now >= before + 2).then_some(()))
            })?;
            self.until_called()
        })?;
        Ok(is_seen)
    }
}

fn without_its_agent_a_node_starts_exempt_pods_only_and_says_why(near: &Near) -> Result<()> {
    let system = near.mesh.kubectl.within("kube-system");
    near.shop.apply(&pods::idle("late", "node1"))?;
    system.apply(&pods::idle("exempt", "node1"))?;
    system.ready_pod("exempt")?;
    let why = wait_for("an Event that says why", PATIENCE, || {
        let events = near.shop.get(&["events", "--field-selector", "involvedObject.name=late"])?;
        let events = events["items"].as_array().context("a list has items")?;
        let message = |event: &Value| Some(event["message"].as_str()?.to_owned());
        let mut messages = events.iter().filter_map(message);
        Ok(messages.find(|message| message.contains("martlet: the node's agent is not there")))
    })?;
    evidence(TEST, &[("an Event of a pod without its agent", &why)])?;
    for pod in ["late", "caller", "near"] {
        let status = near.shop.get(&["pod", pod])?["status"].clone();
        let running = &status["containerStatuses"][0]["state"]["running"];
        assert!(running.is_null(), "{pod} runs: {status}");
    }
    Ok(())
}

/// Files of networks and plugins, with modes, owners and contents.
fn networks(mesh: &Mesh) -> Result<Vec<String>> {
    let all = "find -L /etc/cni/net.d /usr/lib/cni -printf '%m %U:%G %y %p\\n' | sort; \
               find -L /etc/cni/net.d /usr/lib/cni -type f | sort | xargs sha256sum";
    NODES.iter().map(|node| mesh.own.task(&["exec", node, "bash", "-c", all])).collect()
}

fn what_others_do_to_the_network_is_followed(mesh: &Mesh) -> Result<()> {
    let ours = "/etc/cni/net.d/00-martlet.conflist";
    let says = |text: &str| {
        let script = format!("grep -q {text} {ours} && grep -q martlet-cni {ours}");
        mesh.own.task(&["exec", "node2", "bash", "-c", &script]).is_ok()
    };
    assert!(!says("1234"));
    mesh.own.task(&["exec", "node2", "rm", ours])?;
    wait_for("the network to be back", PATIENCE, || Ok(says("bridge").then_some(())))?;
    let set = |from: &str, to: &str| {
        let script = format!("sed -i '0,/{from}/s//{to}/' /etc/cni/net.d/10-cluster.conflist");
        mesh.own.task(&["exec", "node2", "bash", "-c", &script])
    };
    set("\"bridge\":", "\"mtu\": 1234, \"bridge\":")?;
    wait_for("the network to follow", PATIENCE, || Ok(says("1234").then_some(())))?;
    set("\"mtu\": 1234, ", "")?;
    wait_for("the network to follow", PATIENCE, || Ok((!says("1234")).then_some(())))
}

/// First the files are removed, and then who would keep them; whoever was enrolled stays so.
fn turned_off_the_plugin_leaves_the_networks_as_they_were(
    near: &Near,
    before: &[String],
) -> Result<()> {
    let mesh = &near.mesh;
    for (name, settings) in [
        ("removed", ["--set", "agent.cni.remove=true"].as_slice()),
        ("off", &["--set", "agent.cni.enabled=false", "--set", "agent.cni.remove=false"]),
    ] {
        mesh.install_with(settings)?;
        wait_for("the networks to be as they were", PATIENCE, || {
            Ok((networks(mesh)? == before).then_some(()))
        })?;
        for node in NODES {
            let pod = format!("{name}-{node}");
            near.shop.apply(&pods::idle(&pod, node))?;
            near.shop.ready_pod(&pod)?;
        }
        near.until_called()?;
    }
    // Nobody asks any more whether a pod may have a network.
    near.only_on(r#"{"kubernetes.io/hostname":"node2"}"#, "OnDelete")?;
    wait_for("node1 to be without an agent", ROLLOUT, || {
        Ok((mesh.agents()?.len() == 1).then_some(()))
    })?;
    near.shop.apply(&pods::idle("unasked", "node1"))?;
    near.shop.ready_pod("unasked")?;
    assert!(!mesh.is_answered("unasked"), "nobody has said who it is");
    near.only_on("null", "RollingUpdate")?;
    wait_for("both agents", PATIENCE, || Ok((mesh.agents()?.len() == 2).then_some(())))?;
    mesh.wait_for_rollout("daemonset/martlet-agent")?;
    near.until_called()
}

fn an_uninstall_leaves_the_networks_as_they_were(mesh: &Mesh, before: &[String]) -> Result<()> {
    let output = mesh.own.martlet(&["uninstall"])?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(networks(mesh)?, before, "{said}");
    mesh.kubectl.within("shop").apply(&pods::idle("after", "node1"))?;
    mesh.kubectl.within("shop").ready_pod("after")?;
    Ok(())
}
