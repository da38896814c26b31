//! `martlet` on somebody's machine, who has nothing but a kubeconfig of the cluster.

use std::{
    path::PathBuf,
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use martlet_lab::wait_for;
use martlet_tests_kubernetes::{Kubectl, Own, pods};
use serde_json::Value;

/// For what takes seconds on a machine that has nothing else to do.
const PATIENCE: Duration = Duration::from_secs(180);
const SYSTEM: &str = "martlet-system";
const AGENTS: &str = "app.kubernetes.io/name=martlet-agent";

/// A cluster with Martlet in it: `client` and `server` strict in `shop`, `outsider` outside.
struct Mesh {
    own: Own,
    kubectl: Kubectl,
    martlet: PathBuf,
}

impl Mesh {
    fn up() -> Result<Self> {
        let own = Own::up(&["--nodes", "2"])?;
        let kubectl = own.kubectl();
        own.load_martlet()?;
        let martlet = program()?;
        let mesh = Self { own, kubectl, martlet };
        mesh.kubectl.apply("---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n")?;
        let shop = mesh.kubectl.within("shop");
        let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\n\
            spec: {selector: {app: server}, ports: [{port: 80, targetPort: web}]}\n";
        let inside = pods::idle("client", "node1") + &pods::web("server", "node2", "hello");
        shop.apply(&(inside + service))?;
        mesh.kubectl.apply(&pods::idle("outsider", "node1"))?;
        Ok(mesh)
    }

    fn install(&self) -> Result<()> {
        for path in ["deploy/kubernetes/crds.yaml", "deploy/kubernetes/martlet.yaml"] {
            let path = format!("{}/../../{path}", env!("CARGO_MANIFEST_DIR"));
            let all = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
            // As docs/install.md says of servers that are too old for either.
            let surge = "Kubernetes 1.23 and later.\n      maxSurge: 1\n      maxUnavailable: 0\n";
            let all = all.replace(surge, "\n      maxUnavailable: 1\n");
            let known = all.split("\n---\n").filter(|one| !one.contains("PodDisruptionBudget"));
            self.kubectl.apply(&known.collect::<Vec<_>>().join("\n---\n"))?;
        }
        let patience = format!("--timeout={}s", PATIENCE.as_secs());
        for what in ["deployment/martlet-controller", "daemonset/martlet-agent"] {
            self.system().run(&["rollout", "status", what, &patience])?;
        }
        self.kubectl.run(&["label", "namespace", "shop", "martlet.dev/mode=strict"])?;
        let shop = self.kubectl.within("shop");
        for pod in ["client", "server"] {
            shop.ready_pod(pod)?;
        }
        self.kubectl.ready_pod("outsider").map(drop)
    }

    fn system(&self) -> Kubectl {
        self.kubectl.within(SYSTEM)
    }

    /// `martlet ARGUMENTS`, with nothing here but the kubeconfig.
    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(&self.martlet);
        command.args(arguments.split(' '));
        command.arg("--kubeconfig").arg(self.own.directory().join("kubeconfig"));
        for name in ["KUBECONFIG", "MARTLET_SOCKET", "MARTLET_CONTROLLER_SOCKET"] {
            command.env_remove(name);
        }
        command
    }

    fn run(&self, arguments: &str) -> Result<(Option<i32>, String)> {
        let Output { status, stdout, stderr } =
            self.command(arguments).stdin(Stdio::null()).output().context("starting martlet")?;
        let said = String::from_utf8_lossy(&stdout) + String::from_utf8_lossy(&stderr);
        Ok((status.code(), said.into_owned()))
    }

    /// What it says if nothing is wrong.
    fn good(&self, arguments: &str) -> Result<String> {
        let (code, said) = self.run(arguments)?;
        ensure!(code == Some(0), "martlet {arguments} ended with {code:?}:\n{said}");
        Ok(said)
    }

    fn bad(&self, arguments: &str) -> Result<String> {
        let (code, said) = self.run(arguments)?;
        ensure!(code == Some(1), "martlet {arguments} ended with {code:?}:\n{said}");
        Ok(said)
    }

    fn call(&self, service: &str) -> bool {
        let command = ["timeout", "3", "wget", "-q", "-O", "-", service];
        self.kubectl.within("shop").exec("client", &command).is_ok()
    }

    fn until_steered(&self) -> Result<()> {
        wait_for("both pods to be steered", PATIENCE, || {
            let (_, said) = self.run("workloads")?;
            let steered = said.lines().filter(|line| line.contains(" steered "));
            Ok((steered.count() == 2).then_some(()))
        })
    }

    fn agent_of(&self, node: &str) -> Result<String> {
        let field = format!("spec.nodeName={node}");
        let chosen = ["pods", "--selector", AGENTS, "--field-selector", &field];
        let found = self.system().get(&chosen)?;
        let name = found["items"][0]["metadata"]["name"].as_str();
        Ok(name.context("the node has an agent's pod")?.to_owned())
    }

    /// Relays that still run in the agents' pods.
    fn relays(&self) -> Result<usize> {
        let mut count = 0;
        for node in ["node1", "node2"] {
            let ps = self.own.task(&[
                "exec",
                node,
                "sh",
                "-c",
                "cat /proc/[0-9]*/cmdline | tr '\\0' ' '",
            ])?;
            count += ps.matches("/usr/bin/martlet relay").count();
        }
        Ok(count)
    }
}

/// The program that belongs to these tests, built as they are.
fn program() -> Result<PathBuf> {
    let tests = std::env::current_exe().context("finding this program")?;
    let directory = tests.ancestors().nth(2).context("tests are in a directory of deps")?;
    let program = directory.join("martlet");
    ensure!(program.exists(), "build it first: cargo build --package martlet-cli");
    Ok(program)
}

fn policy(action: &str, rule: &str) -> String {
    format!(
        "---\napiVersion: martlet.dev/v1alpha1\nkind: AuthorizationPolicy\n\
         metadata: {{name: callers}}\n\
         spec: {{selector: {{matchLabels: {{app: server}}}}, action: {action}, rules: [{rule}]}}\n"
    )
}

/// One cluster for all of it: to make one takes longer than all that is shown on it.
#[test]
fn a_cluster_is_seen_checked_and_explained_from_outside_of_it() -> Result<()> {
    let mesh = Mesh::up()?;
    a_check_before_says_that_it_can_be_installed(&mesh)?;
    mesh.install()?;
    mesh.until_steered()?;
    wait_for("the server to answer", PATIENCE, || Ok(mesh.call("http://web.shop/").then_some(())))?;
    every_command_shows_both_nodes(&mesh)?;
    the_controller_is_asked_and_told(&mesh)?;
    a_check_finds_nothing_wrong_and_then_what_is(&mesh)?;
    good_denied_and_unenrolled_pairs_are_told_apart(&mesh)?;
    records_are_followed_and_nothing_stays_behind(&mesh)?;
    a_node_whose_agent_is_gone_is_named(&mesh)
}

fn a_check_before_says_that_it_can_be_installed(mesh: &Mesh) -> Result<()> {
    let said = mesh.good("check --pre")?;
    assert!(
        said.contains("node1 has Linux") && said.contains("you may create daemonsets"),
        "{said}"
    );
    let said = mesh.bad("check")?;
    assert!(said.contains("docs/checks.md#namespace"), "{said}");
    Ok(())
}

fn every_command_shows_both_nodes(mesh: &Mesh) -> Result<()> {
    for command in ["status", "workloads", "certificates", "coverage", "records"] {
        let said = mesh.good(command)?;
        assert!(said.contains("node1") && said.contains("node2"), "{command}:\n{said}");
        assert!(said.lines().next().is_some_and(|head| head.contains("NODE")), "{said}");
        let json: Value = serde_json::from_str(&mesh.good(&format!("{command} -o json"))?)?;
        let names = [&json["nodes"][0]["node"], &json["nodes"][1]["node"]];
        assert_eq!(names, ["node1", "node2"], "{command}");
    }
    mesh.good("connections")?;
    // Of one node, as on the node itself.
    let said = mesh.good("status --node node2")?;
    assert!(said.starts_with("√ node2 is ready"), "{said}");
    let said = mesh.good("certificates shop/server")?;
    assert!(said.starts_with("leaf\n") && said.contains("ns/shop/sa/default"), "{said}");
    Ok(())
}

fn the_controller_is_asked_and_told(mesh: &Mesh) -> Result<()> {
    let said = mesh.good("nodes")?;
    assert!(said.contains("node1") && said.contains("connected"), "{said}");
    mesh.good("trust status")?;
    mesh.good("trust quarantine workload shop/nobody --reason tried")?;
    assert!(mesh.good("trust status")?.contains("shop/nobody"));
    mesh.good("trust release workload shop/nobody")?;
    assert!(mesh.good("trust export")?.contains("\"keys\""));
    Ok(())
}

fn a_check_finds_nothing_wrong_and_then_what_is(mesh: &Mesh) -> Result<()> {
    wait_for("a check without errors", PATIENCE, || {
        let (code, said) = mesh.run("check")?;
        if code != Some(0) {
            eprintln!("{said}");
        }
        Ok((code == Some(0)).then_some(()))
    })?;
    let json: Value = serde_json::from_str(&mesh.good("check -o json")?)?;
    assert_eq!(json["success"], true);
    mesh.kubectl.run(&["label", "pod", "outsider", "martlet.dev/mode=Strict"])?;
    let said = mesh.bad("check")?;
    assert!(said.contains("pod default/outsider (\"Strict\")"), "{said}");
    assert!(said.contains("docs/checks.md#labels"), "{said}");
    mesh.kubectl.run(&["label", "pod", "outsider", "martlet.dev/mode-"])?;
    Ok(())
}

fn good_denied_and_unenrolled_pairs_are_told_apart(mesh: &Mesh) -> Result<()> {
    let shop = mesh.kubectl.within("shop");
    for to in ["shop/server:8080", "shop/web:80"] {
        let said = mesh.good(&format!("explain shop/client {to}"))?;
        assert!(said.contains("would be made over mTLS, no policy restricts it."), "{said}");
    }
    let said = mesh.bad("explain default/outsider shop/web:80")?;
    let why = "refused: default/outsider is not in the mesh and shop/server is strict";
    assert!(said.contains(why), "{said}");
    let said = mesh.good("explain shop/client default/outsider:80")?;
    assert!(said.contains("in plaintext, since default/outsider is not in the mesh"), "{said}");

    shop.apply(&policy("Deny", "{name: nobody, from: [{namespaces: [shop]}]}"))?;
    wait_for("the client to be refused", PATIENCE, || {
        Ok((!mesh.call("http://web.shop/")).then_some(()))
    })?;
    let said = mesh.bad("explain shop/client shop/web:80")?;
    assert!(said.contains("refused: it is denied by shop/callers: nobody"), "{said}");
    assert!(said.contains("last refusal"), "{said}");
    let said = mesh.good("policy")?;
    assert!(said.contains("shop/callers") && said.contains(" server"), "{said}");
    // What cannot be enforced refuses, and both say so.
    shop.apply(&policy("Allow", "{name: get, to: [{ports: ['8080'], methods: [GET]}]}"))?;
    let said = mesh.good("policy")?;
    assert!(said.contains("× shop/callers refuses every connection"), "{said}");
    let said = mesh.bad("explain shop/client shop/web:80")?;
    assert!(said.contains("shop/callers: cannot be enforced"), "{said}");
    shop.run(&["delete", "authorizationpolicy", "callers"])?;
    Ok(())
}

fn records_are_followed_and_nothing_stays_behind(mesh: &Mesh) -> Result<()> {
    let mut follow = mesh.command("records --follow -o json");
    let mut follow = follow.stdout(Stdio::piped()).spawn().context("starting martlet")?;
    let lines = follow.stdout.take().context("its output is piped")?;
    let (send, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::BufRead::lines(std::io::BufReader::new(lines)).map_while(Result::ok) {
            let _ = send.send(line);
        }
    });
    let mut nodes = std::collections::BTreeSet::new();
    let followed = wait_for("a record of both nodes", PATIENCE, || {
        mesh.call("http://web.shop/");
        for line in heard.try_iter() {
            let record: Value = serde_json::from_str(&line)?;
            nodes.insert(record["node"].as_str().unwrap_or_default().to_owned());
        }
        Ok((nodes.len() == 2).then_some(()))
    });
    follow.kill().context("ending martlet")?;
    follow.wait().context("ending martlet")?;
    followed?;
    wait_for("no relay to be left in any pod", PATIENCE, || Ok((mesh.relays()? == 0).then_some(())))
}

fn a_node_whose_agent_is_gone_is_named(mesh: &Mesh) -> Result<()> {
    let pod = mesh.agent_of("node2")?;
    mesh.system().run(&["set", "image", &format!("pod/{pod}"), "agent=localhost/nothing:0"])?;
    wait_for("the agent to be gone", PATIENCE, || {
        let (code, said) = mesh.run("status")?;
        let is_named = code == Some(1) && said.contains("× node2 did not answer");
        Ok((is_named && said.contains("node1")).then_some(()))
    })?;
    let json: Value = serde_json::from_str(&mesh.bad("workloads -o json")?)?;
    assert_eq!(json["nodes"][0]["node"], "node1");
    assert!(json["nodes"][1]["error"].is_string(), "{json}");
    let said = mesh.bad("check")?;
    assert!(said.contains("docs/checks.md#node-answers"), "{said}");
    let said = mesh.bad("explain shop/client shop/web:80")?;
    assert!(said.contains("cannot be told, since the agent of node2 cannot be asked"), "{said}");
    mesh.system().run(&["delete", "pod", &pod, "--force", "--grace-period=0"])?;
    wait_for("the agent to be back", PATIENCE, || {
        Ok((mesh.run("status")?.0 == Some(0)).then_some(()))
    })
}
