//! The life of a cluster: agents, controller, API server and nodes come and go while enrolled pods
//! talk, and so do the pods. Nothing is ever plain between nodes.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use martlet_lab::{evidence, is_long, wait_for};
use martlet_tests_kubernetes::{
    Kubectl, Mesh, PATIENCE,
    load::{self, Calls, Load},
    pods,
};

const TEST: &str =
    "while_parts_of_the_cluster_come_and_go_nothing_is_plain_and_all_else_is_carried";
const NODES: [&str; 2] = ["node1", "node2"];
/// As whoever adds a node gives it.
const TAINT: &str = "martlet.dev/not-ready=:NoSchedule";
/// Both agents wait for what is open, and kubelets take their time to forget a pod.
const ROLLOUT: Duration = Duration::from_secs(300);
/// An agent that is told to stop waits this long for what is open, less what it takes to tell it.
const SERVED_FOR: f64 = 15.0;

/// One cluster for all of it: to make one takes longer than much that is shown on it.
#[test]
fn while_parts_of_the_cluster_come_and_go_nothing_is_plain_and_all_else_is_carried() -> Result<()> {
    let mesh = Mesh::up()?;
    let is_seen = mesh.is_seen(|| mesh.until_answered("client"))?;
    assert!(is_seen, "without Martlet the secret is on the wire");
    for node in NODES {
        mesh.kubectl.run(&["taint", "node", node, TAINT])?;
    }
    mesh.install_with(&["--set", "agent.startupTaint=true"])?;
    mesh.label("=strict")?;
    mesh.until_steered()?;
    let life = Life { shop: mesh.kubectl.within("shop"), mesh };
    load::echo(&life.shop, "server")?;
    life.until_served()?;
    for node in NODES {
        life.until_untainted(node)?;
    }

    agents_that_are_replaced_serve_until_what_is_open_has_ended(&life)?;
    agents_that_are_deleted_by_force_leave_nothing_plain(&life)?;
    without_the_api_server_all_goes_on(&life)?;
    without_a_controller_all_goes_on_and_new_pods_are_refused(&life)?;
    an_agent_that_begins_before_the_roots_has_them_when_they_are_there(&life)?;
    a_node_that_begins_anew_with_its_pods_first_sends_nothing_plain(&life)
}

struct Life {
    mesh: Mesh,
    shop: Kubectl,
}

impl Life {
    fn system(&self) -> Kubectl {
        self.mesh.system()
    }

    fn load(&self) -> Result<Load<'_>> {
        let address = self.server_url()?;
        let address = address.trim_start_matches("http://").trim_end_matches('/');
        Load::start(&self.shop, "client", address, &self.address("server")?)
    }

    fn until_served(&self) -> Result<()> {
        self.mesh.until_answered("client")
    }

    /// What becomes of a load while this happens; the wire is watched.
    fn under_load(&self, act: impl FnOnce() -> Result<()>) -> Result<Calls> {
        let load = self.load()?;
        let is_seen = self.mesh.is_seen(act)?;
        let calls = load.stop()?;
        assert!(!is_seen, "the secret was on the wire");
        assert!(calls.answered() > 0, "{calls}");
        Ok(calls)
    }

    fn address(&self, pod: &str) -> Result<String> {
        let pod = self.shop.get(&["pod", pod])?;
        Ok(pod["status"]["podIP"].as_str().unwrap_or_default().to_owned())
    }

    fn server_url(&self) -> Result<String> {
        let service = self.shop.get(&["service", "server"])?;
        let address = service["spec"]["clusterIP"].as_str().context("a service has an address")?;
        Ok(format!("http://{address}/"))
    }

    /// What runs of a pod on node1, as the runtime knows it. No API server is needed for that, nor for
    /// what follows.
    fn tasks(&self, pod: &str, kind: &str) -> Result<Vec<String>> {
        let list = format!(
            r#"ctr -n k8s.io containers ls -q 'labels."io.kubernetes.pod.name"=={pod},labels."io.cri-containerd.kind"=={kind}'"#
        );
        let node = |script: &str| self.mesh.own.task(&["exec", "node1", "sh", "-c", script]);
        let running = node("ctr -n k8s.io tasks ls | grep RUNNING | cut -d ' ' -f 1")?;
        let is_running = |name: &&str| running.lines().any(|one| one == *name);
        Ok(node(&list)?.lines().filter(is_running).map(str::to_owned).collect())
    }

    /// Ends a pod with its network, and waits until kubelet has made it anew: its container.
    fn begins_anew(&self, pod: &str) -> Result<String> {
        let before = self.tasks(pod, "container")?;
        for task in self.tasks(pod, "sandbox")? {
            let kill = format!("ctr -n k8s.io tasks kill --all --signal SIGKILL {task}");
            self.mesh.own.task(&["exec", "node1", "sh", "-c", &kill])?;
        }
        wait_for("the pod to have begun anew", PATIENCE, || {
            let now = self.tasks(pod, "container")?;
            Ok(now.into_iter().find(|task| !before.contains(task)))
        })
    }

    /// Whether a container is answered that the API server cannot be asked about.
    fn is_answered_within(&self, node: &str, container: &str, url: &str) -> Result<bool> {
        let call = format!(
            "ctr -n k8s.io tasks exec --exec-id x$$ {container} \
             sh -c 'timeout 3 wget -q -O - {url}; echo asked' 2> /dev/null"
        );
        let said = self.mesh.own.task(&["exec", node, "sh", "-c", &call])?;
        ensure!(said.contains("asked"), "nothing was run in {container}: {said}");
        Ok(said.contains(self.mesh.secret()))
    }

    fn restarts(&self, pod: &str) -> Result<i64> {
        let pod = self.shop.get(&["pod", pod])?;
        Ok(pod["status"]["containerStatuses"][0]["restartCount"].as_i64().unwrap_or_default())
    }

    fn is_tainted(&self, node: &str) -> Result<bool> {
        let node = self.mesh.kubectl.get(&["node", node])?;
        let taints = node["spec"]["taints"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(taints.iter().any(|taint| taint["key"] == "martlet.dev/not-ready"))
    }

    fn until_untainted(&self, node: &str) -> Result<()> {
        let what = format!("{node} to lose its taint");
        wait_for(&what, PATIENCE, || Ok((!self.is_tainted(node)?).then_some(())))
    }

    fn scale(&self, replicas: usize) -> Result<()> {
        let replicas = format!("--replicas={replicas}");
        self.system().run(&["scale", "deployment/martlet-controller", &replicas]).map(drop)
    }

    fn count(&self, selector: &str) -> Result<usize> {
        let pods = self.system().get(&["pods", "--selector", selector])?;
        Ok(pods["items"].as_array().context("a list has items")?.len())
    }
}

fn said(what: &str, calls: &Calls) -> Result<()> {
    println!("{what}: {calls}");
    evidence(TEST, &[(what, calls)])
}

fn agents_that_are_replaced_serve_until_what_is_open_has_ended(life: &Life) -> Result<()> {
    let mut began = 0.0;
    let calls = life.under_load(|| {
        // The held connection is open before anybody is told to stop.
        life.until_served()?;
        life.system().run(&["rollout", "restart", "daemonset/martlet-agent"])?;
        began = load::now()?;
        let patience = format!("--timeout={}s", ROLLOUT.as_secs());
        life.system().run(&["rollout", "status", "daemonset/martlet-agent", &patience])?;
        life.until_served()
    })?;
    said("rolling restart", &calls)?;
    assert_eq!(calls.failed_before(began + SERVED_FOR), 0, "an agent served: {calls}");
    // What comes after it is served.
    let calls = life.under_load(|| life.until_served())?;
    assert_eq!((calls.failed(), calls.was_ended), (0, false), "{calls}");
    Ok(())
}

fn agents_that_are_deleted_by_force_leave_nothing_plain(life: &Life) -> Result<()> {
    let calls = life.under_load(|| {
        for pod in life.mesh.agents()? {
            life.system().run(&["delete", "pod", &pod, "--force", "--grace-period=0"])?;
            life.mesh.wait_for_rollout("daemonset/martlet-agent")?;
        }
        life.until_served()
    })?;
    said("deleted by force", &calls)?;
    assert!(!life.mesh.is_answered("outsider"), "strict stays strict");
    Ok(())
}

/// Goes on when it is dropped.
struct Frozen(u32);

impl Frozen {
    fn freeze(process: u32) -> Result<Self> {
        let frozen = Self(process);
        frozen.signal("-STOP")?;
        Ok(frozen)
    }

    fn signal(&self, signal: &str) -> Result<()> {
        let status = Command::new("kill").args([signal, &self.0.to_string()]).status();
        ensure!(status.context("starting kill")?.success(), "kill {signal} failed");
        Ok(())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Err(error) = self.signal("-CONT") {
            eprintln!("{error:#}");
        }
    }
}

fn without_the_api_server_all_goes_on(life: &Life) -> Result<()> {
    // Longer than a controller keeps its lease.
    let away = Duration::from_secs(if is_long() { 600 } else { 20 });
    let server = life.mesh.own.control_process("kube-apiserver")?;
    life.shop.apply(&pods::idle("again", "node1"))?;
    life.shop.ready_pod("again")?;
    life.mesh.until_answered("again")?;
    let to = life.server_url()?;
    let before = life.tasks("again", "container")?.pop().context("it runs")?;
    assert!(life.is_answered_within("node1", &before, &to)?);
    let mut refused = 0;
    let calls = life.under_load(|| {
        let frozen = Frozen::freeze(server)?;
        let until = Instant::now() + away;
        // Its address is a new one, and nobody can say so.
        let container = life.begins_anew("again")?;
        wait_for("the time to be over", away * 2, || {
            assert!(
                !life.is_answered_within("node1", &container, &to)?,
                "nobody can say who it is"
            );
            refused += 1;
            Ok((Instant::now() >= until).then_some(()))
        })?;
        drop(frozen);
        wait_for("the API server to answer", PATIENCE, || Ok(life.shop.get(&["pods"]).ok()))?;
        life.mesh.until_answered("again").context("who it is can be said again")
    })?;
    said("API server away", &calls)?;
    let what = "calls of a pod that began anew without an API server, all refused";
    println!("{what}: {refused}");
    evidence(TEST, &[(what, &refused)])?;
    assert!(refused > 1, "it was tried again and again");
    life.shop.run(&["delete", "pod", "again"])?;
    assert!(calls.lasted() >= away.as_secs_f64(), "{}", calls.lasted());
    assert_eq!((calls.failed(), calls.was_ended), (0, false), "{calls}");
    assert!(calls.echoed as f64 > away.as_secs_f64(), "{}", calls.echoed);
    life.mesh.wait_for_rollout("deployment/martlet-controller")
}

fn without_a_controller_all_goes_on_and_new_pods_are_refused(life: &Life) -> Result<()> {
    let calls = life.under_load(|| {
        life.scale(0)?;
        let controllers = "app.kubernetes.io/name=martlet-controller";
        wait_for("the controller to be gone", PATIENCE, || {
            Ok((life.count(controllers)? == 0).then_some(()))
        })?;
        life.shop.apply(&pods::idle("late", "node1"))?;
        life.shop.ready_pod("late")?;
        for _ in 0..5 {
            assert!(!life.mesh.is_answered("late"), "nobody has said who it is");
        }
        life.scale(2)?;
        life.mesh.until_answered("late").context("who it is can be said again")
    })?;
    said("controller away", &calls)?;
    assert_eq!((calls.failed(), calls.was_ended), (0, false), "{calls}");
    life.mesh.wait_for_rollout("deployment/martlet-controller")
}

fn an_agent_that_begins_before_the_roots_has_them_when_they_are_there(life: &Life) -> Result<()> {
    let system = life.system();
    life.scale(0)?;
    wait_for("the controller to be gone", PATIENCE, || {
        Ok((life.count("app.kubernetes.io/name=martlet-controller")? == 0).then_some(()))
    })?;
    system.run(&["delete", "configmap", "martlet-roots"])?;
    let before = life.mesh.agents()?;
    let gone = before.first().context("there are agents")?;
    system.run(&["delete", "pod", gone, "--force", "--grace-period=0"])?;
    let anew = wait_for("another agent's pod", PATIENCE, || {
        let now = life.mesh.agents()?;
        Ok(now.into_iter().find(|pod| !before.contains(pod)))
    })?;
    life.scale(2)?;
    wait_for("the roots to be there", PATIENCE, || {
        Ok(system.get(&["configmap", "martlet-roots"]).ok())
    })?;
    let began = Instant::now();
    system.ready_pod(&anew)?;
    let waited = format!("{:.1} s", began.elapsed().as_secs_f64());
    println!("roots: an agent that waited for them was ready after {waited}");
    evidence(TEST, &[("an agent that waited for its roots was ready after", &waited)])?;
    life.mesh.wait_for_rollout("deployment/martlet-controller")?;
    life.until_served()
}

/// A node's agent is kept away, all that it left in the kernel is removed, and the pods begin anew,
/// as they do when the machine has.
fn a_node_that_begins_anew_with_its_pods_first_sends_nothing_plain(life: &Life) -> Result<()> {
    life.shop.apply(&pods::web("near", "node1", "nothing"))?;
    life.shop.ready_pod("near")?;
    let only = |strategy: &str, node: &str| {
        let patch = format!(
            r#"{{"spec":{{"updateStrategy":{{"type":"{strategy}"}},"template":{{"spec":{{"nodeSelector":{node}}}}}}}}}"#
        );
        let system = life.system();
        system.run(&["patch", "daemonset", "martlet-agent", "--type", "merge", "--patch", &patch])
    };
    only("OnDelete", r#"{"kubernetes.io/hostname":"node2"}"#)?;
    wait_for("node1 to be without an agent", ROLLOUT, || {
        Ok((life.mesh.agents()?.len() == 1).then_some(()))
    })?;
    life.mesh.kubectl.run(&["taint", "node", "node1", TAINT])?;
    let before = (life.address("client")?, life.address("near")?);
    let anew = "rm -rf /sys/fs/bpf/martlet; for task in $(ctr -n k8s.io tasks ls -q 2> /dev/null); do \
                ctr -n k8s.io tasks kill --all --signal SIGKILL $task 2> /dev/null; done; \
                ls /sys/fs/bpf | grep -c martlet; true";
    let left = life.mesh.own.task(&["exec", "node1", "sh", "-c", anew])?;
    assert_eq!(left.trim(), "0", "programs are left");
    let is_seen = life.mesh.is_seen(|| {
        wait_for("the pods to begin anew", PATIENCE, || {
            let now = (life.address("client")?, life.address("near")?);
            let has_begun = now != before && life.restarts("client")? * life.restarts("near")? > 0;
            Ok(has_begun.then_some(()))
        })?;
        life.shop.ready_pod("client")?;
        // By name and by address, before its agent is back.
        let near = life.address("near")?;
        // The API server's word takes its time, too; before it is heard, who calls there calls a stranger.
        wait_for("the other agent to know where it is now", PATIENCE, || {
            let said = life.mesh.agents_say(&["workloads"])?;
            Ok(said.split_whitespace().any(|word| word == near).then_some(()))
        })?;
        for _ in 0..5 {
            assert!(!life.mesh.is_answered("client"), "it is not proven who it is");
            let url = format!("http://{near}:8080/");
            let asked = ["timeout", "3", "wget", "-q", "-O", "-", &url];
            assert!(life.shop.exec("server", &asked).is_err(), "nobody there can prove who it is");
        }
        assert!(life.is_tainted("node1")?, "its agent is not ready");
        only("RollingUpdate", "null")?;
        wait_for("both agents", PATIENCE, || Ok((life.mesh.agents()?.len() == 2).then_some(())))?;
        life.mesh.wait_for_rollout("daemonset/martlet-agent")?;
        life.until_served()
    })?;
    assert!(!is_seen, "the secret was on the wire");
    life.until_untainted("node1")?;
    let begun = life.restarts("client")?;
    evidence(TEST, &[("node begun anew, pods that began before its agent", &begun)])
}
