//! `martlet install`, `upgrade` and `uninstall` on a real cluster.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use martlet_lab::{Canaries, Sniffer, wait_for};
use martlet_tests_kubernetes::{Kubectl, Own, pods};
use serde_json::Value;

/// For what takes seconds on a machine that has nothing else to do.
const PATIENCE: Duration = Duration::from_secs(90);
const NODES: [&str; 2] = ["node1", "node2"];

struct Shop {
    own: Own,
    kubectl: Kubectl,
    secret: String,
    canaries: Canaries,
}

impl Shop {
    fn open() -> Result<Self> {
        let own = Own::up(&["--nodes", "2"])?;
        let kubectl = own.kubectl();
        own.load_martlet()?;
        let canaries = Canaries::printable(1);
        let secret = String::from_utf8(canaries.iter().next().context("a canary")?.to_vec())?;
        kubectl.apply("---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n")?;
        let shop = kubectl.within("shop");
        shop.apply(&(pods::idle("client", "node1") + &pods::web("server", "node2", &secret)))?;
        for pod in ["client", "server"] {
            shop.ready_pod(pod)?;
        }
        Ok(Self { own, kubectl, secret, canaries })
    }

    fn is_answered(&self) -> Result<bool> {
        let shop = self.kubectl.within("shop");
        let server = shop.get(&["pod", "server"])?;
        let address = server["status"]["podIP"].as_str().context("a ready pod has an address")?;
        let url = format!("http://{address}:8080/");
        let answer = shop.exec("client", &["timeout", "3", "wget", "-q", "-O", "-", &url]);
        Ok(answer.is_ok_and(|answer| answer.contains(&self.secret)))
    }

    /// Whether the secret crosses the wire between the nodes when it is asked for.
    fn is_seen(&self) -> Result<bool> {
        let sniffer = Sniffer::start([&self.own.wire()?], &self.canaries)?;
        wait_for("the client to be answered", PATIENCE, || Ok(self.is_answered()?.then_some(())))?;
        Ok(!sniffer.stop()?.found().is_empty())
    }

    fn until_seen(&self, wanted: bool) -> Result<()> {
        let what = format!("the secret on the wire to be {wanted}");
        wait_for(&what, PATIENCE, || Ok((self.is_seen()? == wanted).then_some(())))
    }

    /// What of ours could be on a node, and a setting of its pods.
    fn traces(&self) -> Result<Vec<String>> {
        let mut all = Vec::new();
        for node in NODES {
            all.push(self.own.traces(node)?);
        }
        for pod in ["client", "server"] {
            let setting = ["cat", "/proc/sys/net/ipv4/tcp_tw_reuse"];
            all.push(self.kubectl.within("shop").exec(pod, &setting)?);
        }
        Ok(all)
    }

    fn restarts(&self) -> Result<i64> {
        let pods = self.kubectl.within("shop").get(&["pods"])?;
        let pods = pods["items"].as_array().context("a list has items")?;
        let of = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].as_i64();
        Ok(pods.iter().filter_map(of).sum())
    }

    /// What the pods' statuses say of their enrolment.
    fn said_of(&self) -> Result<Vec<String>> {
        let all = r#"jsonpath={range .items[*]}{.metadata.name}: {.status.conditions[?(@.type=="martlet.dev/enrolled")].reason}{"\n"}{end}"#;
        let said = self.kubectl.run(&["get", "pods", "--all-namespaces", "--output", all])?;
        Ok(said.lines().filter(|line| !line.ends_with(": ")).map(str::to_owned).collect())
    }

    fn until_said_of(&self, pods: &[&str]) -> Result<()> {
        let wanted: Vec<_> = pods.iter().map(|pod| format!("{pod}: Permissive")).collect();
        wait_for("the pods to be said to be enrolled", PATIENCE, || {
            Ok((self.said_of()? == wanted).then_some(()))
        })
    }

    /// Of each object of ours, how often it was written.
    fn versions(&self) -> Result<Vec<(String, String)>> {
        let kinds =
            "crd,namespace,deploy,ds,svc,cm,sa,role,rolebinding,clusterrole,clusterrolebinding";
        let selector = "app.kubernetes.io/part-of=martlet";
        let all = self.kubectl.get(&[kinds, "--all-namespaces", "--selector", selector])?;
        let all = all["items"].as_array().context("a list has items")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(all
            .iter()
            .map(|one| {
                let name = format!("{} {}", text(&one["kind"]), text(&one["metadata"]["name"]));
                // Status is written by others all the time.
                (name, one["metadata"]["generation"].to_string())
            })
            .collect())
    }

    fn refused(&self, arguments: &[&str]) -> Result<String> {
        let output = self.own.martlet(arguments)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            !output.status.success(),
            "martlet {} was not refused:\n{said}",
            arguments.join(" ")
        );
        Ok(said)
    }

    fn says(&self, arguments: &[&str]) -> Result<String> {
        let output = self.own.martlet(arguments)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "martlet {}:\n{said}", arguments.join(" "));
        Ok(said)
    }
}

/// One cluster for all of it: to make one takes longer than all that is shown on it.
#[test]
fn two_commands_install_and_one_leaves_the_nodes_as_they_were() -> Result<()> {
    let shop = Shop::open()?;
    let said = shop.says(&["uninstall"])?;
    assert!(said.contains("Martlet is not installed in martlet-system"), "{said}");
    let said = shop.refused(&["upgrade"])?;
    assert!(said.contains("`martlet install` installs it"), "{said}");
    let before = shop.traces()?;

    // What would be done is said, and not done.
    let said = shop.says(&["install", "--dry-run", "server"])?;
    assert!(
        said.contains("Deployment martlet-system/martlet-controller: would be created"),
        "{said}"
    );
    assert!(shop.versions()?.is_empty());

    // The two commands.
    let said = shop.says(&["install"])?;
    assert!(said.contains("kubectl label namespace NAME martlet.dev/mode=permissive"), "{said}");
    assert!(said.contains("controller and agents are ready"), "{said}");
    shop.kubectl.run(&["label", "namespace", "shop", "martlet.dev/mode=permissive"])?;
    shop.until_seen(false)?;
    assert_eq!(shop.restarts()?, 0);
    for (there, found) in shop.traces()?.iter().zip(&before).take(2) {
        assert!(
            there.contains("/sys/fs/bpf/") && there.contains("bpf") && there != found,
            "{there}"
        );
    }

    installed_again_nothing_changes(&shop)?;
    somebody_elses_changes_are_not_overwritten_unasked(&shop)?;
    who_may_not_is_told_which_rights_are_missing(&shop)?;
    an_upgrade_prunes_what_is_no_more_and_never_goes_back(&shop)?;

    // Out again.
    shop.kubectl.within("shop").apply(&pods::gated("gated", "node1"))?;
    shop.until_said_of(&["client", "gated", "server"])?;
    shop.kubectl.within("shop").ready_pod("gated")?;
    let said = shop.says(&["uninstall"])?;
    assert!(said.contains("shop/gated: the condition martlet.dev/enrolled stays"), "{said}");
    assert_eq!(shop.said_of()?, ["gated: Uninstalled"], "{said}");
    shop.kubectl.within("shop").ready_pod("gated")?;
    shop.kubectl.within("shop").run(&["delete", "pod", "gated"])?;
    for node in NODES {
        assert!(said.contains(&format!("{node}: left as it was")), "{said}");
    }
    assert_eq!(shop.traces()?, before, "{said}");
    shop.until_seen(true)?;
    assert_eq!(shop.restarts()?, 0);
    shop.kubectl.within("martlet-system").run(&["get", "secret", "martlet-authority"])?;
    let left: Vec<_> = shop.versions()?.into_iter().map(|(name, _)| name).collect();
    let kinds = ["authorizationpolicies", "meshconfigs", "trustbundles"];
    let kinds = kinds.map(|kind| format!("CustomResourceDefinition {kind}.martlet.dev"));
    assert_eq!(left[..3], kinds);
    assert_eq!(left[3..], ["Namespace martlet-system"]);
    let said = shop.says(&["uninstall"])?;
    assert!(said.contains("is not installed") && said.contains("are kept"), "{said}");
    let said = shop.says(&["uninstall", "--purge"])?;
    assert!(said.contains("removed Secret martlet-system/martlet-authority"), "{said}");
    wait_for("everything to be gone", PATIENCE, || Ok(shop.versions()?.is_empty().then_some(())))
}

fn installed_again_nothing_changes(shop: &Shop) -> Result<()> {
    let before = shop.versions()?;
    assert!(before.len() > 10, "{before:?}");
    let said = shop.says(&["install"])?;
    assert!(said.contains("everything is there already, nothing was changed"), "{said}");
    assert_eq!(shop.versions()?, before);
    Ok(())
}

fn somebody_elses_changes_are_not_overwritten_unasked(shop: &Shop) -> Result<()> {
    let system = shop.kubectl.within("martlet-system");
    let value = r#"[{"op":"replace","path":"/spec/template/spec/containers/0/env/0/value","value":"debug"}]"#;
    let patch = ["patch", "deployment", "martlet-controller", "--type", "json", "--patch", value];
    system.run(&patch)?;
    let said = shop.refused(&["install"])?;
    assert!(said.contains("kubectl") && said.contains("--force-conflicts"), "{said}");
    shop.says(&["install", "--force-conflicts"])?;
    let there = system.get(&["deployment", "martlet-controller"])?;
    assert_eq!(there["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"], "info");
    Ok(())
}

fn who_may_not_is_told_which_rights_are_missing(shop: &Shop) -> Result<()> {
    let config = shop.kubectl.run(&["config", "view", "--raw", "--output", "json"])?;
    let mut config: Value = serde_json::from_str(&config).context("a kubeconfig is JSON here")?;
    config["users"][0]["user"]["as"] = "somebody".into();
    let kubeconfig = shop.own.directory().join("somebody");
    std::fs::write(&kubeconfig, config.to_string()).context("writing a kubeconfig")?;
    let kubeconfig = kubeconfig.to_str().context("a path is text")?;
    let said = shop.refused(&["install", "--kubeconfig", kubeconfig])?;
    assert!(said.contains("patch daemonsets.apps in namespace martlet-system"), "{said}");
    assert!(said.contains("create clusterroles.rbac.authorization.k8s.io"), "{said}");
    let nowhere = shop.own.directory().join("nowhere");
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1".into();
    std::fs::write(&nowhere, config.to_string()).context("writing a kubeconfig")?;
    let said = shop.refused(&["install", "--kubeconfig", nowhere.to_str().context("text")?])?;
    assert!(said.contains("the API server could not be reached"), "{said}");
    Ok(())
}

fn an_upgrade_prunes_what_is_no_more_and_never_goes_back(shop: &Shop) -> Result<()> {
    let system = shop.kubectl.within("martlet-system");
    let labels = "app.kubernetes.io/part-of: martlet";
    let of = |name: &str, more: &str| {
        format!(
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{{labels}{more}}}}}\n"
        )
    };
    system.apply(&of("former", ", app.kubernetes.io/managed-by: martlet"))?;
    system.apply(&of("of-somebody", ""))?;
    let said = shop.says(&["upgrade", "--set", "log.level=debug"])?;
    assert!(said.contains("removed ConfigMap martlet-system/former"), "{said}");
    system.run(&["get", "configmap", "of-somebody"])?;
    // What was said once holds.
    shop.says(&["upgrade"])?;
    let level = || -> Result<Value> {
        let there = system.get(&["daemonset", "martlet-agent"])?;
        Ok(there["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"].clone())
    };
    assert_eq!(level()?, "debug");
    let said = shop.refused(&["upgrade", "--set", "trustDomain=other.example.org"])?;
    assert!(said.contains("trustDomain: it is cluster.local in this cluster"), "{said}");
    let label = ["label", "--overwrite", "deployment/martlet-controller"];
    system.run(&[&label[..], &["app.kubernetes.io/version=99.0.0"]].concat())?;
    let said = shop.refused(&["upgrade"])?;
    assert!(said.contains("Martlet 99.0.0 is installed"), "{said}");
    assert!(shop.refused(&["install"])?.contains("99.0.0 is installed"));
    system.run(&[&label[..], &["app.kubernetes.io/version=0.1.0"]].concat())?;
    let label = ["label", "--overwrite", "crd/authorizationpolicies.martlet.dev"];
    shop.kubectl.run(&[&label[..], &["app.kubernetes.io/version=99.0.0"]].concat())?;
    let said = shop.refused(&["upgrade"])?;
    assert!(said.contains("authorizationpolicies.martlet.dev is of 99.0.0"), "{said}");
    shop.kubectl.run(&[&label[..], &["app.kubernetes.io/version=0.1.0"]].concat())?;
    shop.says(&["upgrade", "--reset-values", "--force-conflicts"])?;
    assert_eq!(level()?, "info");
    system.run(&["delete", "configmap", "of-somebody"]).map(drop)
}
