//! A cluster with Martlet in it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use martlet_lab::{Canaries, Sniffer, wait_for};
use serde_json::Value;

use crate::{kubectl::Kubectl, own::Own, pods};

/// For what takes seconds on a machine that has nothing else to do.
pub const PATIENCE: Duration = Duration::from_secs(90);
const SYSTEM: &str = "martlet-system";

/// A cluster with Martlet in it, and pods that call each other across nodes: `client` and `server`
/// in one namespace, `outsider` in another.
pub struct Mesh {
    pub own: Own,
    pub kubectl: Kubectl,
    /// What the server answers.
    secret: String,
    canaries: Canaries,
}

impl Mesh {
    pub fn up() -> Result<Self> {
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

    pub fn system(&self) -> Kubectl {
        self.kubectl.within(SYSTEM)
    }

    pub fn install(&self) -> Result<()> {
        self.install_with(&[])
    }

    pub fn install_with(&self, options: &[&str]) -> Result<()> {
        let output = self.own.martlet(&[&["install"], options].concat())?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "martlet install:\n{said}");
        Ok(())
    }

    pub fn wait_for_rollout(&self, what: &str) -> Result<()> {
        let patience = format!("--timeout={}s", PATIENCE.as_secs());
        self.system().run(&["rollout", "status", what, &patience]).map(drop)
    }

    pub fn label(&self, mode: &str) -> Result<()> {
        let label = format!("martlet.dev/mode{mode}");
        self.kubectl.run(&["label", "--overwrite", "namespace", "shop", &label]).map(drop)
    }

    /// Whether the server's answer comes back. Its own service name is asked for.
    pub fn is_answered(&self, by: &str) -> bool {
        let pod = match by {
            "outsider" => self.kubectl.clone(),
            _ => self.kubectl.within("shop"),
        };
        let command = ["timeout", "3", "wget", "-q", "-O", "-", "http://server.shop/"];
        pod.exec(by, &command).is_ok_and(|answer| answer.contains(&self.secret))
    }

    pub fn until_answered(&self, by: &str) -> Result<()> {
        let what = format!("{by} to be answered");
        wait_for(&what, PATIENCE, || Ok(self.is_answered(by).then_some(())))
    }

    pub fn until_refused(&self, by: &str) -> Result<()> {
        let what = format!("{by} to be refused");
        wait_for(&what, PATIENCE, || Ok((!self.is_answered(by)).then_some(())))
    }

    /// What `martlet ARGUMENTS` says, on all nodes.
    pub fn agents_say(&self, arguments: &[&str]) -> Result<String> {
        let mut said = String::new();
        for pod in self.agents()? {
            let exec = ["exec", pod.as_str(), "--", "/usr/bin/martlet"];
            said += &self.system().run(&[&exec[..], arguments].concat())?;
        }
        Ok(said)
    }

    pub fn agents(&self) -> Result<Vec<String>> {
        let selector = "app.kubernetes.io/name=martlet-agent";
        let pods = self.system().get(&["pods", "--selector", selector])?;
        let pods = pods["items"].as_array().context("a list has items")?;
        let name = |pod: &Value| Some(pod["metadata"]["name"].as_str()?.to_owned());
        Ok(pods.iter().filter_map(name).collect())
    }

    pub fn until_steered(&self) -> Result<()> {
        wait_for("both pods to be steered", PATIENCE, || {
            let said = self.agents_say(&["workloads"])?;
            let steered = said.lines().filter(|line| line.contains(" steered "));
            Ok((steered.count() == 2).then_some(()))
        })
    }

    /// Runs `act` while the wire between the nodes is watched: whether the secret was seen there.
    pub fn is_seen(&self, act: impl FnOnce() -> Result<()>) -> Result<bool> {
        let sniffer = Sniffer::start([&self.own.wire()?], &self.canaries)?;
        act()?;
        Ok(!sniffer.stop()?.found().is_empty())
    }

    /// The same on one node: what pods there say to each other, too.
    pub fn is_seen_on(&self, node: &str, act: impl FnOnce() -> Result<()>) -> Result<bool> {
        let sniffer = Sniffer::start([&self.own.node(node)?], &self.canaries)?;
        act()?;
        Ok(!sniffer.stop()?.found().is_empty())
    }

    pub fn secret(&self) -> &str {
        &self.secret
    }

    pub fn restarts(&self) -> Result<i64> {
        let pods = self.kubectl.within("shop").get(&["pods"])?;
        let pods = pods["items"].as_array().context("a list has items")?;
        let of = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].as_i64();
        Ok(pods.iter().filter_map(of).sum())
    }

    pub fn roots(&self) -> Result<String> {
        let map = self.system().get(&["configmap", "martlet-roots"])?;
        let roots = map["data"]["roots.pem"].as_str().context("the roots are published")?;
        ensure!(roots.contains("BEGIN CERTIFICATE"), "{roots}");
        Ok(roots.to_owned())
    }
}
