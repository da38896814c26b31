//! What a user of a cluster gets: from a label to mTLS, refusals and policies, on a real cluster.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, ensure};
use martlet_lab::{Canaries, Sniffer, wait_for};
use martlet_tests_kubernetes::{Kubectl, Own, has_condition, pods};
use serde_json::Value;

/// For what takes seconds on a machine that has nothing else to do.
const PATIENCE: Duration = Duration::from_secs(90);
const SYSTEM: &str = "martlet-system";

/// A cluster with Martlet in it, and pods that call each other across nodes: `client` and `server`
/// in one namespace, `outsider` in another.
struct Mesh {
    own: Own,
    kubectl: Kubectl,
    /// What the server answers.
    secret: String,
    canaries: Canaries,
}

impl Mesh {
    fn up() -> Result<Self> {
        let own = Own::up(&["--nodes", "2"])?;
        let kubectl = own.kubectl();
        own.load_martlet()?;
        let canaries = Canaries::printable(1);
        let secret = String::from_utf8(canaries.iter().next().context("a canary")?.to_vec())?;
        let shop = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
        kubectl.apply(shop)?;
        let shop = kubectl.within("shop");
        let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: server}\n\
            spec: {selector: {app: server}, ports: [{port: 80, targetPort: web}]}\n";
        let inside = pods::idle("client", "node1") + &pods::web("server", "node2", &secret);
        shop.apply(&(inside + service))?;
        kubectl.apply(&pods::idle("outsider", "node1"))?;
        for pod in ["client", "server"] {
            shop.ready_pod(pod)?;
        }
        kubectl.ready_pod("outsider")?;
        Ok(Self { own, kubectl, secret, canaries })
    }

    fn system(&self) -> Kubectl {
        self.kubectl.within(SYSTEM)
    }

    fn install(&self) -> Result<()> {
        let manifests = ["deploy/kubernetes/crds.yaml", "deploy/kubernetes/martlet.yaml"];
        for path in manifests {
            let path = format!("{}/../../{path}", env!("CARGO_MANIFEST_DIR"));
            self.kubectl.run(&["apply", "--filename", &path])?;
        }
        for what in ["deployment/martlet-controller", "daemonset/martlet-agent"] {
            self.wait_for_rollout(what)?;
        }
        Ok(())
    }

    fn wait_for_rollout(&self, what: &str) -> Result<()> {
        let patience = format!("--timeout={}s", PATIENCE.as_secs());
        self.system().run(&["rollout", "status", what, &patience]).map(drop)
    }

    fn label(&self, mode: &str) -> Result<()> {
        let label = format!("martlet.dev/mode{mode}");
        self.kubectl.run(&["label", "--overwrite", "namespace", "shop", &label]).map(drop)
    }

    /// Whether the server's answer comes back. Its own service name is asked for.
    fn is_answered(&self, by: &str) -> bool {
        let pod = match by {
            "outsider" => self.kubectl.clone(),
            _ => self.kubectl.within("shop"),
        };
        let command = ["timeout", "3", "wget", "-q", "-O", "-", "http://server.shop/"];
        pod.exec(by, &command).is_ok_and(|answer| answer.contains(&self.secret))
    }

    fn until_answered(&self, by: &str) -> Result<()> {
        let what = format!("{by} to be answered");
        wait_for(&what, PATIENCE, || Ok(self.is_answered(by).then_some(())))
    }

    fn until_refused(&self, by: &str) -> Result<()> {
        let what = format!("{by} to be refused");
        wait_for(&what, PATIENCE, || Ok((!self.is_answered(by)).then_some(())))
    }

    /// What `martlet ARGUMENTS` says, on all nodes.
    fn agents_say(&self, arguments: &[&str]) -> Result<String> {
        let mut said = String::new();
        for pod in self.agents()? {
            let exec = ["exec", pod.as_str(), "--", "/usr/bin/martlet"];
            said += &self.system().run(&[&exec[..], arguments].concat())?;
        }
        Ok(said)
    }

    fn agents(&self) -> Result<Vec<String>> {
        let selector = "app.kubernetes.io/name=martlet-agent";
        let pods = self.system().get(&["pods", "--selector", selector])?;
        let pods = pods["items"].as_array().context("a list has items")?;
        let name = |pod: &Value| Some(pod["metadata"]["name"].as_str()?.to_owned());
        Ok(pods.iter().filter_map(name).collect())
    }

    fn until_steered(&self) -> Result<()> {
        wait_for("both pods to be steered", PATIENCE, || {
            let said = self.agents_say(&["workloads"])?;
            let steered = said.lines().filter(|line| line.contains(" steered "));
            Ok((steered.count() == 2).then_some(()))
        })
    }

    /// Runs `act` while the wire between the nodes is watched: whether the secret was seen there.
    fn is_seen(&self, act: impl FnOnce() -> Result<()>) -> Result<bool> {
        let sniffer = Sniffer::start([&self.own.wire()?], &self.canaries)?;
        act()?;
        Ok(!sniffer.stop()?.found().is_empty())
    }

    fn restarts(&self) -> Result<i64> {
        let pods = self.kubectl.within("shop").get(&["pods"])?;
        let pods = pods["items"].as_array().context("a list has items")?;
        let of = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].as_i64();
        Ok(pods.iter().filter_map(of).sum())
    }

    fn roots(&self) -> Result<String> {
        let map = self.system().get(&["configmap", "martlet-roots"])?;
        let roots = map["data"]["roots.pem"].as_str().context("the roots are published")?;
        ensure!(roots.contains("BEGIN CERTIFICATE"), "{roots}");
        Ok(roots.to_owned())
    }
}

fn policy(rule: &str) -> String {
    format!(
        "---\napiVersion: martlet.dev/v1alpha1\nkind: AuthorizationPolicy\n\
         metadata: {{name: callers}}\n\
         spec: {{selector: {{matchLabels: {{app: server}}}}, action: Allow, rules: [{rule}]}}\n"
    )
}

/// One cluster for all of it: to make one takes longer than all that is shown on it.
#[test]
fn a_labelled_namespace_speaks_mtls_and_nobody_gets_around_it() -> Result<()> {
    let mesh = Mesh::up()?;

    // Without Martlet the secret crosses the wire for all to see.
    assert!(mesh.is_seen(|| mesh.until_answered("client"))?, "the wire shows what is plain");
    mesh.install()?;
    assert!(mesh.is_seen(|| mesh.until_answered("client"))?, "nobody asked for more yet");
    agents_may_do_nothing(&mesh)?;

    // The label is enough: pods that run speak mTLS from now on.
    mesh.label("=permissive")?;
    mesh.until_steered()?;
    assert!(!mesh.is_seen(|| mesh.until_answered("client"))?, "the secret was on the wire");
    let records = mesh.agents_say(&["records"])?;
    assert!(records.contains("mutual_tls"), "{records}");
    assert_eq!(mesh.restarts()?, 0);
    // Who is outside is still let in, and is as plain as before.
    assert!(mesh.is_seen(|| mesh.until_answered("outsider"))?);

    mesh.label("=strict")?;
    mesh.until_refused("outsider")?;
    assert!(!mesh.is_seen(|| mesh.until_answered("client"))?);
    probes_pass_and_what_looks_like_one_does_not(&mesh)?;
    policies_are_enforced(&mesh)?;
    nothing_is_plain_while_an_agent_is_away(&mesh)?;
    a_new_controller_is_the_same_authority(&mesh)?;

    // And back.
    mesh.label("-")?;
    mesh.until_answered("outsider")?;
    assert!(mesh.is_seen(|| mesh.until_answered("client"))?);
    assert_eq!(mesh.restarts()?, 0);
    Ok(())
}

/// An agent's token proves to the controller where it is, and opens nothing of the API.
fn agents_may_do_nothing(mesh: &Mesh) -> Result<()> {
    let rights = |account: &str| -> Result<BTreeSet<String>> {
        let of = format!("--as=system:serviceaccount:{account}");
        let groups = "--as-group=system:serviceaccounts";
        let listed = mesh.kubectl.run(&["auth", "can-i", "--list", &of, groups])?;
        Ok(listed.lines().map(|line| line.split_whitespace().collect()).collect())
    };
    let (agents, anybodys) = (rights("martlet-system:martlet-agent")?, rights("default:default")?);
    assert_eq!(agents, anybodys);
    assert_ne!(rights("martlet-system:martlet-controller")?, anybodys);
    Ok(())
}

/// Kubelet has no identity, and its probes of a strict pod pass all the same; what looks like one
/// does not.
fn probes_pass_and_what_looks_like_one_does_not(mesh: &Mesh) -> Result<()> {
    let passed = || -> Result<u64> {
        let said = mesh.agents_say(&["coverage", "--output", "json"])?;
        let mut passed = 0;
        // One document of each agent.
        for document in serde_json::Deserializer::from_str(&said).into_iter::<Value>() {
            let document = document?;
            let pairs = document["pairs"].as_array().context("coverage has pairs")?;
            let of_node = pairs.iter().filter(|pair| pair["from"] == "node");
            passed += of_node.filter_map(|p| p["plaintext"]["connections"].as_u64()).sum::<u64>();
        }
        Ok(passed)
    };
    let before = passed()?;
    wait_for("three probes to pass", PATIENCE, || Ok((passed()? >= before + 3).then_some(())))?;
    let server = mesh.kubectl.within("shop").get(&["pod", "server"])?;
    assert!(has_condition(&server, "Ready"), "{server:#}");
    let address = server["status"]["podIP"].as_str().context("a ready pod has an address")?;
    let look_alike = format!("exec 3<>/dev/tcp/{address}/8080");
    let tried = mesh.own.try_task(&["exec", "node2", "timeout", "5", "bash", "-c", &look_alike])?;
    assert!(!tried.status.success(), "the node's own shell was taken for kubelet");
    Ok(())
}

fn policies_are_enforced(mesh: &Mesh) -> Result<()> {
    let shop = mesh.kubectl.within("shop");
    shop.apply(&policy("{name: till, from: [{identities: ['spiffe://cluster.local/ns/till/']}]}"))?;
    mesh.until_refused("client")?;
    let records = mesh.agents_say(&["records"])?;
    assert!(records.contains("denied by shop/callers: no rule allows"), "{records}");
    shop.apply(&policy("{name: shop, from: [{namespaces: [shop]}], to: [{ports: ['8080']}]}"))?;
    mesh.until_answered("client")?;
    // What cannot be enforced is not left out.
    shop.apply(&policy("{name: get, to: [{ports: ['8080'], methods: [GET]}]}"))?;
    mesh.until_refused("client")?;
    let records = mesh.agents_say(&["records"])?;
    assert!(records.contains("shop/callers: cannot be enforced"), "{records}");
    shop.run(&["delete", "authorizationpolicy", "callers"])?;
    mesh.until_answered("client")
}

fn nothing_is_plain_while_an_agent_is_away(mesh: &Mesh) -> Result<()> {
    let is_seen = mesh.is_seen(|| {
        for pod in mesh.agents()? {
            mesh.system().run(&["delete", "pod", &pod, "--force", "--grace-period=0"])?;
            // Whatever becomes of it, plain it is not.
            for _ in 0..5 {
                mesh.is_answered("client");
            }
            mesh.wait_for_rollout("daemonset/martlet-agent")?;
        }
        mesh.until_answered("client")
    })?;
    assert!(!is_seen, "the secret was on the wire");
    assert!(!mesh.is_answered("outsider"), "strict stays strict");
    Ok(())
}

fn a_new_controller_is_the_same_authority(mesh: &Mesh) -> Result<()> {
    let before = mesh.roots()?;
    let selector = "app.kubernetes.io/name=martlet-controller";
    mesh.system().run(&["delete", "pod", "--selector", selector, "--wait=true"])?;
    mesh.until_answered("client").context("without a controller")?;
    mesh.wait_for_rollout("deployment/martlet-controller")?;
    assert_eq!(mesh.roots()?, before);
    // It certifies: a pod that comes now can call.
    let shop = mesh.kubectl.within("shop");
    shop.apply(&pods::idle("late", "node1"))?;
    shop.ready_pod("late")?;
    mesh.until_answered("late")
}
