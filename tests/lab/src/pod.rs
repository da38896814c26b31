//! A pod: a network namespace and a cgroup, with unmodified programs in them.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;

use crate::{cgroup, ip, netns::Netns, node::Node, program::Program, site::Site};

#[derive(Debug, Clone)]
pub struct Pod {
    site: Arc<Site>,
    node: Node,
    name: String,
    netns: Netns,
    cgroup: PathBuf,
    addresses: [IpAddr; 2],
    number: u8,
}

impl Pod {
    pub(crate) fn new(
        site: Arc<Site>,
        node: &Node,
        name: &str,
        netns: Netns,
        cgroup: PathBuf,
        addresses: [IpAddr; 2],
        number: u8,
    ) -> Pod {
        Pod { site, node: node.clone(), name: name.to_owned(), netns, cgroup, addresses, number }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn node(&self) -> &Node {
        &self.node
    }

    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// IPv4 first.
    pub fn addresses(&self) -> [IpAddr; 2] {
        self.addresses
    }

    pub fn v4(&self) -> IpAddr {
        self.addresses[0]
    }

    pub fn v6(&self) -> IpAddr {
        self.addresses[1]
    }

    /// The node's end of this pod's veth.
    pub fn host_interface(&self) -> String {
        format!("pod{}", self.number)
    }

    /// A directory of this pod's own, for the files of its programs.
    pub fn directory(&self) -> Result<PathBuf> {
        let path = self.site.directory().join("pods").join(self.node.name()).join(&self.name);
        std::fs::create_dir_all(&path).context("making the pod's directory")?;
        Ok(path)
    }

    /// A program that will run inside the pod's network namespace and cgroup.
    pub fn command(&self, program: impl AsRef<Path>) -> Program {
        Program::new(
            &self.site,
            program.as_ref(),
            &self.name,
            self.netns.clone(),
            self.cgroup.clone(),
        )
    }

    /// The lab's probe, run inside the pod.
    pub fn probe(&self, arguments: &[&str]) -> Result<Program> {
        Ok(self.command(crate::find_binary("lab-probe")?).args(arguments))
    }

    /// Code inside the pod's network namespace, but not in its cgroup.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.netns.run(work)
    }

    /// Lines for `ip`, run inside the pod: more addresses, routes, interfaces.
    pub fn ip(&self, lines: &str) -> Result<()> {
        ip::batch(Some(&self.netns), lines)
    }

    /// As when a pod is deleted: its processes are killed, its cable and its namespace's name go.
    pub fn remove(&self) -> Result<()> {
        cgroup::remove(&self.cgroup)?;
        let node = self.node.netns();
        ip::batch(Some(node), &format!("link del {}\n", self.host_interface()))?;
        ip::batch(None, &format!("netns del {}\n", self.netns.name()))
    }

    /// Removes this pod and makes another one in its place, as if both had been waiting for each
    /// other: with its addresses, and a cable whose end at the node has its name and its number.
    pub fn replace(&self, name: &str) -> Result<Pod> {
        let interface = self.host_interface();
        let index = self.node.run(|| if_nametoindex(interface.as_str()))?;
        let index = index.with_context(|| format!("looking for {interface}"))?;
        self.remove()?;
        self.node.make_pod(name, self.number, Some(index))
    }

    /// Cuts the pod's cable, or plugs it in again.
    pub fn set_connected(&self, connected: bool) -> Result<()> {
        let state = if connected { "up" } else { "down" };
        let mut lines = format!("link set {} {state}\n", self.host_interface());
        if connected {
            // Routes go with the link.
            let [node4, node6] = self.node.addresses();
            lines += &format!(
                "route replace {}/32 dev {} src {node4}\n",
                self.v4(),
                self.host_interface()
            );
            lines += &format!("addr replace fe80::1/64 dev {} nodad\n", self.host_interface());
            lines += &format!(
                "route replace {}/128 dev {} src {node6}\n",
                self.v6(),
                self.host_interface()
            );
        }
        ip::batch(Some(self.node.netns()), &lines)
    }
}
