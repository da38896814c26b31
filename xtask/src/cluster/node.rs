//! A node: namespaces and control groups of its own, and in them containerd, kubelet, kube-proxy.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use super::{
    Cni, Proxy,
    certificates::{Authority, Holder, kubeconfig},
    groups::{self, Groups},
    images, kubectl,
    launch::{Launched, launch},
    network,
    place::{self, CONTROL, NAMES, Node, PODS, Place},
    wait,
};

const FIRST_PROCESS: &str = include_str!("node.sh");

/// What nodes are made from.
pub struct Parts<'a> {
    pub place: &'a Place,
    pub groups: &'a Groups,
    pub programs: &'a Path,
    pub files: &'a Path,
    pub images: &'a Path,
    pub proxy: Proxy,
    pub cni: Cni,
}

impl Parts<'_> {
    /// Starts a node; it becomes ready by and by.
    pub fn start(&self, node: Node, authority: &Authority) -> Result<Launched> {
        network::make_node(self.place, node)?;
        self.groups.make_node(node)?;
        self.configure(node, authority)?;
        // Its own: a shell reads its script bit by bit, and ends early if somebody writes it anew.
        let script = self.write(node, "node.sh", FIRST_PROCESS)?;
        let settings = self.write(node, "settings", &self.settings(node))?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--uts", "--ipc", "--fork", "--propagation", "private"]);
        command.arg("bash").arg(script).arg(settings);
        let (group, netns) = (self.groups.control(), self.place.node_netns(node));
        launch(self.place, &group, &netns, &node.name(), Stdio::null(), &command)
    }

    fn write(&self, node: Node, file: &str, text: &str) -> Result<PathBuf> {
        place::write(&self.place.node_directory(node).join(file), text)
    }

    /// Read by the node's first process, which is a shell.
    fn settings(&self, node: Node) -> String {
        let mut settings = String::new();
        let mut set = |name: &str, value: &str| {
            let _ = writeln!(settings, "{name}='{value}'");
        };
        let show = |path: &Path| path.display().to_string();
        set("NODE", &node.name());
        set("ADDRESS", &node.address());
        set("DIRECTORY", &show(&self.place.node_directory(node)));
        set("FILES", &show(self.files));
        set("PROGRAMS", &show(self.programs));
        set("IMAGES", &show(self.images));
        set("NAME_SERVER", CONTROL);
        set("PROXY", self.proxy.name());
        let groups = self.groups.all_of_node(node);
        set("GROUPS_OF_NODE", &groups.iter().map(|path| show(path)).collect::<Vec<_>>().join(" "));
        let hierarchies = self.groups.hierarchies();
        let name = |hierarchy: &groups::Hierarchy| match hierarchy.is_second_version {
            true => "unified".to_owned(),
            false => hierarchy.options.clone(),
        };
        set("HIERARCHIES", &hierarchies.iter().map(name).collect::<Vec<_>>().join(" "));
        let is_alone = hierarchies.len() == 1;
        set("UNIFIED", if is_alone { "sys/fs/cgroup" } else { "sys/fs/cgroup/unified" });
        settings
    }

    fn configure(&self, node: Node, authority: &Authority) -> Result<()> {
        let (name, address) = (node.name(), node.address());
        let (user, names) =
            (format!("system:node:{name}"), [format!("DNS:{name}"), format!("IP:{address}")]);
        let group = Some("system:nodes");
        authority.issue(&Holder { file: &name, user: &user, group, names: &names })?;
        // Under the same names on every node.
        let keys = self.place.node_directory(node).join("kubernetes");
        fs::create_dir_all(&keys).context("making a node's directory")?;
        for (from, to) in [(name.as_str(), "kubelet"), ("proxy", "proxy")] {
            for end in ["crt", "key"] {
                let from = authority.path(&format!("{from}.{end}"));
                fs::copy(from, keys.join(format!("{to}.{end}")))
                    .context("copying a node's keys")?;
            }
        }
        fs::copy(authority.path("ca.crt"), keys.join("ca.crt")).context("copying the authority")?;
        let inside = Path::new("/etc/kubernetes");
        for file in ["kubelet", "proxy"] {
            let text = kubeconfig(&format!("{CONTROL}:6443"), inside, file);
            self.write(node, &format!("kubernetes/{file}.kubeconfig"), &text)?;
        }
        let id = crate::image::sha256(format!("{} {name}", self.place.name));
        for (file, text) in [
            ("machine-id", format!("{}\n", &id[..32])),
            ("kubelet.yaml", kubelet()),
            ("kube-proxy.yaml", self.kube_proxy()),
            ("containerd.toml", containerd()),
            ("cni/10-cluster.conflist", self.pod_network(node)),
        ] {
            self.write(node, &format!("kubernetes/{file}"), &text)?;
        }
        Ok(())
    }

    /// Without limits of connections that are the whole machine's.
    fn kube_proxy(&self) -> String {
        format!(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: {}
clusterCIDR: {PODS}
clientConnection: {{kubeconfig: /etc/kubernetes/proxy.kubeconfig}}
oomScoreAdj: 0
conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
",
            self.proxy.name()
        )
    }

    fn pod_network(&self, node: Node) -> String {
        let addresses = serde_json::json!({
            "type": "host-local",
            "ranges": [[{ "subnet": node.pods() }]],
            "routes": [{ "dst": "0.0.0.0/0" }],
        });
        let main = match self.cni {
            Cni::Bridge => serde_json::json!({
                "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
                "ipMasq": false, "ipam": addresses,
            }),
            Cni::Ptp => serde_json::json!({ "type": "ptp", "ipMasq": false, "ipam": addresses }),
        };
        let ports = serde_json::json!({
            "type": "portmap", "capabilities": { "portMappings": true },
        });
        let network = serde_json::json!({
            "cniVersion": "1.0.0", "name": "cluster", "plugins": [main, ports],
        });
        format!("{network:#}\n")
    }
}

fn kubelet() -> String {
    format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
authentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: true}}, x509: {{clientCAFile: /etc/kubernetes/ca.crt}}}}
authorization: {{mode: Webhook}}
tlsCertFile: /etc/kubernetes/kubelet.crt
tlsPrivateKeyFile: /etc/kubernetes/kubelet.key
clusterDNS: [{NAMES}]
clusterDomain: cluster.local
failSwapOn: false
nodeStatusUpdateFrequency: 5s
# A kubelet of this age may forget a deleted pod only when it looks at it again, after a minute if
# nothing else is said. Until then a DaemonSet's next pod does not come.
syncFrequency: 10s
# Making a process less likely to be killed needs a capability that not every root has.
oomScoreAdj: 0
# The disk is the machine's: how full it is says nothing about the node.
imageGCHighThresholdPercent: 100
evictionHard: {{nodefs.available: \"0%\", nodefs.inodesFree: \"0%\", imagefs.available: \"0%\", imagefs.inodesFree: \"0%\"}}
"
    )
}

fn containerd() -> String {
    let pause = images::PAUSE;
    format!(
        r#"version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # Root need not have the capability that a pod's own value would take.
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "/etc/cni/net.d"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.nri.v1.nri"]
  disable = false
"#
    )
}

/// Each has the pods of its number. The kubelet must make the node's object: it does not get over one
/// that somebody else has made.
fn assign_pods(place: &Place, node: Node) -> Result<()> {
    let pods = node.pods();
    let patch = serde_json::json!({ "spec": { "podCIDR": pods, "podCIDRs": [pods] } }).to_string();
    kubectl::output(place, &["patch", "node", &node.name(), "--patch", &patch]).map(drop)
}

/// All nodes have said so since a moment, which is written as the API server writes it.
pub fn wait_ready(place: &Place, started: &mut [(Node, Launched)], since: &str) -> Result<()> {
    for (node, launched) in started {
        let log = place.node_directory(*node).join("log");
        wait::until(&format!("{} to be ready", node.name()), 120, &log, || {
            launched.check()?;
            let nodes = kubectl::items(place, "nodes").unwrap_or_default();
            Ok(nodes.iter().any(|object| is_ready(object, &node.name(), since)))
        })?;
        assign_pods(place, *node)?;
    }
    Ok(())
}

fn is_ready(object: &serde_json::Value, name: &str, since: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array().map(Vec::as_slice);
    object["metadata"]["name"] == name
        && conditions.unwrap_or_default().iter().any(|condition| {
            condition["type"] == "Ready"
                && condition["status"] == "True"
                && condition["lastHeartbeatTime"].as_str().is_some_and(|at| at >= since)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_ready_by_what_it_said_since_it_was_started() {
        let object = |status: &str, at: &str| {
            serde_json::json!({
                "metadata": { "name": "node1" },
                "status": { "conditions": [
                    { "type": "Ready", "status": status, "lastHeartbeatTime": at },
                ] },
            })
        };
        let since = "2026-01-01T10:00:00Z";
        assert!(is_ready(&object("True", "2026-01-01T10:00:03Z"), "node1", since));
        assert!(!is_ready(&object("True", "2026-01-01T09:59:59Z"), "node1", since));
        assert!(!is_ready(&object("False", "2026-01-01T10:00:03Z"), "node1", since));
        assert!(!is_ready(&object("True", "2026-01-01T10:00:03Z"), "node2", since));
    }
}
