//! The wire between the nodes: a bridge in the control plane's network namespace.
//!
//! ```text
//!   cluster-NAME ── nodes (bridge, 172.30.0.1) ─┬─ cluster-NAME-node1 (eth0, 172.30.0.11)
//!                                               └─ cluster-NAME-node2 (eth0, 172.30.0.12)
//! ```
//!
//! Nodes route to each other's pods, so packets on the bridge carry the pods' own addresses.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use super::place::{CONTROL, Node, Place};

pub const BRIDGE: &str = "nodes";

pub fn make_control(place: &Place) -> Result<()> {
    let netns = place.netns();
    if !exists(&netns) {
        batch(None, &format!("netns add {netns}\n"))?;
    }
    // Pods may be asked by the API server, and nodes reach nothing but each other.
    let lines = format!(
        "link set lo up\nlink add {BRIDGE} type bridge\naddress add {CONTROL}/24 dev {BRIDGE}\n\
         link set {BRIDGE} up\n"
    );
    if !has_link(&netns, BRIDGE) { batch(Some(&netns), &lines) } else { Ok(()) }
}

pub fn make_node(place: &Place, node: Node) -> Result<()> {
    let (control, netns) = (place.netns(), place.node_netns(node));
    if !exists(&netns) {
        batch(None, &format!("netns add {netns}\n"))?;
    }
    let (port, address) = (node.name(), node.address());
    if !has_link(&netns, "eth0") {
        let lines = format!(
            "link add {port} type veth peer name eth0 netns {netns}\n\
             link set {port} master {BRIDGE} up\n"
        );
        batch(Some(&control), &lines)?;
        let lines = format!(
            "link set lo up\naddress add {address}/24 dev eth0\nlink set eth0 up\n\
             route add default via {CONTROL}\n"
        );
        batch(Some(&netns), &lines)?;
    }
    let forward = ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"];
    let mut sysctl = Command::new("ip");
    sysctl.args(["netns", "exec", &netns, "sysctl", "--quiet", "--write"]).args(forward);
    let output = sysctl.output().context("starting sysctl")?;
    ensure!(output.status.success(), "sysctl: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// From everywhere to the pods of all of these nodes.
pub fn route(place: &Place, nodes: &[Node]) -> Result<()> {
    let to = |node: &Node| format!("route replace {} via {}\n", node.pods(), node.address());
    batch(Some(&place.netns()), &nodes.iter().map(to).collect::<String>())?;
    for node in nodes {
        let others = nodes.iter().filter(|other| *other != node);
        batch(Some(&place.node_netns(*node)), &others.map(to).collect::<String>())?;
    }
    Ok(())
}

pub fn remove(netns: &str) -> Result<()> {
    if exists(netns) { batch(None, &format!("netns delete {netns}\n")) } else { Ok(()) }
}

pub fn exists(netns: &str) -> bool {
    Path::new("/run/netns").join(netns).exists()
}

fn has_link(netns: &str, link: &str) -> bool {
    let mut ip = Command::new("ip");
    ip.args(["-netns", netns, "link", "show", link]);
    ip.output().is_ok_and(|output| output.status.success())
}

/// Stops at the first line that fails.
fn batch(netns: Option<&str>, lines: &str) -> Result<()> {
    let mut ip = Command::new("ip");
    if let Some(netns) = netns {
        ip.args(["-netns", netns]);
    }
    let mut child = ip
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting ip")?;
    let mut input = child.stdin.take().context("ip's input is piped")?;
    input.write_all(lines.as_bytes()).context("writing to ip")?;
    drop(input);
    let output = child.wait_with_output().context("waiting for ip")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip: {}\n{lines}", complaint.trim());
    Ok(())
}
