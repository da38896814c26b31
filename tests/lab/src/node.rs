//! A node: a router between the wire and its pods, with a cgroup that holds them all.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use anyhow::{Context, Result, bail};

use crate::{
    cgroup, ip, limits,
    netns::Netns,
    pod::Pod,
    program::Program,
    site::{self, Site},
};

#[derive(Debug, Clone)]
pub struct Node {
    site: Arc<Site>,
    name: String,
    number: u8,
    netns: Netns,
    cgroup: PathBuf,
    pods: Arc<AtomicU8>,
}

impl Node {
    pub(crate) fn new(
        site: Arc<Site>,
        name: &str,
        number: u8,
        netns: Netns,
        cgroup: PathBuf,
    ) -> Node {
        Node { site, name: name.to_owned(), number, netns, cgroup, pods: Arc::default() }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Holds the node's own programs (`host`), its agent (`agent`) and its pods (by name).
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Where this node's agent pins its programs: on a bpffs, not made yet.
    pub fn pin(&self) -> PathBuf {
        self.site.bpffs().join(&self.name)
    }

    /// The cgroup of whoever probes pods, as kubelet does; it is made when a program starts in it.
    pub fn prober(&self) -> PathBuf {
        self.cgroup.join("kubelet")
    }

    /// A directory of this node's own.
    pub fn directory(&self) -> Result<PathBuf> {
        let path = self.site.directory().join("nodes").join(&self.name);
        std::fs::create_dir_all(&path).context("making the node's directory")?;
        Ok(path)
    }

    /// Puts that directory on a disk of its own, of this size.
    pub fn limit_directory(&self, bytes: u64) -> Result<()> {
        site::mount_disk(&self.directory()?, bytes)
    }

    /// The node's addresses on the wire, IPv4 first.
    pub fn addresses(&self) -> [IpAddr; 2] {
        let number = self.number;
        [
            Ipv4Addr::new(10, 255, 0, number).into(),
            Ipv6Addr::new(0xfd00, 0xffff, 0, 0, 0, 0, 0, number.into()).into(),
        ]
    }

    pub fn pod(&self, name: &str) -> Result<Pod> {
        let number = self.pods.fetch_add(1, Ordering::Relaxed) + 1;
        if number > limits::PODS_PER_NODE {
            bail!("a node has at most {} pods", limits::PODS_PER_NODE);
        }
        self.make_pod(name, number, None)
    }

    /// `index` is that of the node's end of the cable; without it the kernel chooses.
    pub(crate) fn make_pod(&self, name: &str, number: u8, index: Option<u32>) -> Result<Pod> {
        let _adding = self.site.adding()?;
        let netns = Netns::make(&format!("{}-{}-{name}", self.site.prefix(), self.name))?;
        let cgroup = self.cgroup.join(name);
        cgroup::make(&cgroup)?;
        let host = number + 1;
        let v4 = Ipv4Addr::new(10, self.number, 0, host);
        let v6 = Ipv6Addr::new(0xfd00, self.number.into(), 0, 0, 0, 0, 0, host.into());
        netns.set_sysctls(&[
            ("ipv6/conf/default/accept_dad", "0"),
            ("ipv6/conf/default/accept_ra", "0"),
        ])?;
        let cable = cable(netns.name(), number, index);
        ip::batch(Some(&self.netns), &(cable + &pod_outside(self.addresses(), number, v4, v6)))?;
        ip::batch(Some(&netns), &pod_inside(v4, v6))?;
        Ok(Pod::new(self.site.clone(), self, name, netns, cgroup, [v4.into(), v6.into()], number))
    }

    /// A program of the node itself, as kubelet would be.
    pub fn command(&self, program: impl AsRef<Path>) -> Program {
        self.command_in("host", program)
    }

    /// A program of the node in a cgroup of its own below the node's, made when it starts.
    pub fn command_in(&self, cgroup: &str, program: impl AsRef<Path>) -> Program {
        let label = format!("{}.{}", self.name, cgroup.replace('/', "."));
        Program::new(
            &self.site,
            program.as_ref(),
            &label,
            self.netns.clone(),
            self.cgroup.join(cgroup),
        )
    }

    /// The lab's probe, run on the node itself.
    pub fn probe(&self, arguments: &[&str]) -> Result<Program> {
        Ok(self.command(crate::find_binary("lab-probe")?).args(arguments))
    }

    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.netns.run(work)
    }
}

fn cable(pod: &str, number: u8, index: Option<u32>) -> String {
    let index = index.map(|index| format!(" index {index}")).unwrap_or_default();
    format!("link add pod{number}{index} type veth peer name eth0 netns {pod}\n")
}

/// The pod's only neighbor is its node, at addresses that exist on each veth alike.
fn pod_inside(v4: Ipv4Addr, v6: Ipv6Addr) -> String {
    format!(
        "link set lo up\n\
         link set eth0 up\n\
         addr add {v4}/32 dev eth0\n\
         addr add {v6}/128 dev eth0 nodad\n\
         route add 169.254.1.1/32 dev eth0 scope link\n\
         route add default via 169.254.1.1 dev eth0\n\
         route add ::/0 via fe80::1 dev eth0\n"
    )
}

fn pod_outside([node4, node6]: [IpAddr; 2], number: u8, v4: Ipv4Addr, v6: Ipv6Addr) -> String {
    format!(
        "link set pod{number} up\n\
         addr add 169.254.1.1/32 dev pod{number} scope link\n\
         addr add fe80::1/64 dev pod{number} nodad\n\
         route add {v4}/32 dev pod{number} src {node4}\n\
         route add {v6}/128 dev pod{number} src {node6}\n"
    )
}
