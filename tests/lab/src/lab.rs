//! A lab: the wire, and the nodes on it.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use anyhow::{Result, bail};

use crate::{cgroup, ip, limits, netns::Netns, node::Node, site::Site};

/// Everything in it is removed when it is dropped, also by a panic.
/// What a killed process leaves is removed when the next lab starts.
#[derive(Debug)]
pub struct Lab {
    site: Arc<Site>,
    wire: Netns,
    nodes: AtomicU8,
}

impl Lab {
    pub fn new() -> Result<Lab> {
        let site = Arc::new(Site::establish()?);
        let wire = Netns::make(&format!("{}-wire", site.prefix()))?;
        // A bridge without addresses: it only carries frames, and floods what it does not know.
        wire.set_sysctls(&[("ipv6/conf/default/disable_ipv6", "1")])?;
        ip::batch(
            Some(&wire),
            "link add br0 type bridge stp_state 0 mcast_snooping 0\nlink set br0 up\n",
        )?;
        Ok(Lab { site, wire, nodes: AtomicU8::new(0) })
    }

    /// The namespace with the bridge and one veth for each node.
    pub fn wire(&self) -> &Netns {
        &self.wire
    }

    /// A directory of this lab's own, removed with it.
    pub fn directory(&self) -> &Path {
        self.site.directory()
    }

    /// The lab's cgroup, in which all its nodes are.
    pub fn cgroup(&self) -> &Path {
        self.site.cgroup()
    }

    pub fn node(&self, name: &str) -> Result<Node> {
        let _adding = self.site.adding()?;
        let number = self.nodes.fetch_add(1, Ordering::Relaxed) + 1;
        if number > limits::NODES {
            bail!("a lab has at most {} nodes", limits::NODES);
        }
        let netns = Netns::make(&format!("{}-{name}", self.site.prefix()))?;
        let cgroup = self.site.cgroup().join(name);
        cgroup::make(&cgroup.join("host"))?;
        netns.set_sysctls(&[
            ("ipv4/ip_forward", "1"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv6/conf/default/forwarding", "1"),
            // Addresses must be usable at once: nobody else is here to collide with.
            ("ipv6/conf/default/accept_dad", "0"),
        ])?;
        ip::batch(Some(&netns), &node_setup(self.wire.name(), number))?;
        ip::batch(
            Some(&self.wire),
            &format!("link set node{number} master br0\nlink set node{number} up\n"),
        )?;
        Ok(Node::new(self.site.clone(), name, number, netns, cgroup))
    }

    /// For signal handlers: removes everything now; the lab is useless afterwards.
    pub fn closer(&self) -> impl Fn() -> Result<()> + Send + Sync + 'static {
        let site = self.site.clone();
        move || site.close()
    }
}

impl Drop for Lab {
    /// Nodes and pods may outlive the lab as values; the things they name do not.
    fn drop(&mut self) {
        if let Err(error) = self.site.close() {
            eprintln!("the lab {} was not removed: {error:#}", self.site.prefix());
        }
    }
}

/// Routes lead to all nodes that may ever be, so that a new node changes none of the old ones.
fn node_setup(wire: &str, number: u8) -> String {
    let mut lines = format!(
        "link set lo up\n\
         link add eth0 type veth peer name node{number} netns {wire}\n\
         link set eth0 up\n\
         addr add 10.255.0.{number}/24 dev eth0\n\
         addr add fd00:ffff::{number:x}/64 dev eth0 nodad\n"
    );
    for other in (1..=limits::NODES).filter(|other| *other != number) {
        lines += &format!("route add 10.{other}.0.0/16 via 10.255.0.{other}\n");
        lines += &format!("route add fd00:{other:x}::/64 via fd00:ffff::{other:x}\n");
    }
    lines
}
