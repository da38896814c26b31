//! Every path by which somebody who is not enrolled can reach a pod: shown to work without Martlet,
//! and to deliver nothing to a strict pod, with an agent and without one.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6},
};

use anyhow::Result;
use martlet_lab::evidence;
use martlet_tests_kernel::{
    packets::{Ip, PORT, PUSH_ACK, TCP, tcp},
    raw,
    strict::{Agent, Escape, World, all_arrive, connect_and_send, none_arrives},
};
use socket2::{Domain, Protocol, Socket, Type};

/// Of a service that the node translates to the callee, as kube-proxy does.
const SERVICE: [u8; 4] = [10, 96, 0, 10];
/// Of the node, translated to the callee.
const NODE_PORT: u16 = 30080;

/// Beside the node on the wire. Linux takes no packet with the node's own address from a pod.
const OTHER_NODE: [u8; 4] = [10, 255, 0, 9];

/// From the pod that is not enrolled.
fn from_stranger(world: &World, to: impl Into<SocketAddr>, canary: &[u8]) -> io::Result<()> {
    let to = to.into();
    connect_and_send(world.socket(to)?, to, canary)
}

/// From the node itself, as a process of its own that prepares its socket.
fn from_node(
    world: &World,
    to: impl Into<SocketAddr>,
    prepare: impl FnOnce(&Socket) -> io::Result<()>,
    canary: &[u8],
) -> io::Result<()> {
    let (to, tcp) = (to.into(), Some(Protocol::TCP));
    let socket = world.lab.node.run(|| Socket::new(Domain::for_address(to), Type::STREAM, tcp));
    let socket = socket.map_err(io::Error::other)??;
    prepare(&socket)?;
    connect_and_send(socket, to, canary)
}

/// The callee's own link-local address, as its node dials it.
fn link_local(
    world: &World,
    interface: &str,
    of: impl FnOnce(&str) -> io::Result<u32>,
) -> io::Result<SocketAddr> {
    let [a, b, c, d, e, f] = world.callee.netns.run(|| raw::hardware_address("eth0"))?;
    // RFC 4291, appendix A.
    let eui = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    Ok(SocketAddrV6::new(Ipv6Addr::from(eui), PORT, 0, of(interface)?).into())
}

fn untouched(_: &Socket) -> io::Result<()> {
    Ok(())
}

const ENTRANCES: &[Escape] = &[
    ("the pod's address, from a pod of the same node", |world, canary| {
        from_stranger(world, (world.callee.v4, PORT), canary)
    }),
    ("the pod's IPv6 address, from a pod of the same node", |world, canary| {
        from_stranger(world, (world.callee.v6, PORT), canary)
    }),
    ("a service", |world, canary| from_stranger(world, (IpAddr::from(SERVICE), 80), canary)),
    ("a port of the node", |world, canary| {
        from_stranger(world, (world.lab.node.addresses()[0], NODE_PORT), canary)
    }),
    ("a port of the node, from the node", |world, canary| {
        from_node(world, (world.lab.node.addresses()[0], NODE_PORT), untouched, canary)
    }),
    ("a port of the node's loopback address", |world, canary| {
        from_node(world, ([127, 0, 0, 1], NODE_PORT), untouched, canary)
    }),
    ("the pod's address, from the node", |world, canary| {
        from_node(world, (world.callee.v4, PORT), untouched, canary)
    }),
    ("the pod's IPv6 address, from the node", |world, canary| {
        from_node(world, (world.callee.v6, PORT), untouched, canary)
    }),
    ("the pod's link-local address", |world, canary| {
        let end = world.callee.pod.host_interface();
        let index = |name: &str| {
            world.lab.node.run(|| raw::interface_index(name)).map_err(io::Error::other)?
        };
        from_node(world, link_local(world, &end, index)?, untouched, canary)
    }),
    ("a mark of the node's", |world, canary| {
        let mark = |socket: &Socket| raw::set_option(socket, libc::SOL_SOCKET, libc::SO_MARK, 7);
        from_node(world, (world.callee.v4, PORT), mark, canary)
    }),
    ("a process of the node without hooks", |world, canary| {
        world.in_cgroup(&world.apart, || {
            from_node(world, (world.callee.v4, PORT), untouched, canary)
        })
    }),
    ("a forged address of another node", |world, canary| {
        let payload = tcp(PUSH_ACK, canary);
        world.send(&Ip::new(OTHER_NODE.into(), world.callee.v4, TCP, &payload))
    }),
    ("a forged packet of the node's own", |world, canary| {
        let payload = tcp(PUSH_ACK, canary);
        let node = world.lab.node.addresses()[0];
        let packet = Ip::new(node, world.callee.v4, TCP, &payload).bytes();
        let send = || raw::send_packet(world.callee.v4, &packet);
        world.lab.node.run(send).map_err(io::Error::other)?
    }),
];

/// What a node does for services and ports, here by nftables.
fn translate(world: &World) -> Result<()> {
    let (callee, end) = (world.callee.v4, world.callee.pod.host_interface());
    let service = IpAddr::from(SERVICE);
    for rule in [
        "add table ip services".to_owned(),
        "add chain ip services in { type nat hook prerouting priority -100 ; }".to_owned(),
        "add chain ip services own { type nat hook output priority -100 ; }".to_owned(),
        "add chain ip services out { type nat hook postrouting priority 100 ; }".to_owned(),
        format!("add rule ip services in ip daddr {service} tcp dport 80 dnat to {callee}:{PORT}"),
        format!("add rule ip services in tcp dport {NODE_PORT} dnat to {callee}:{PORT}"),
        format!("add rule ip services own tcp dport {NODE_PORT} dnat to {callee}:{PORT}"),
        format!("add rule ip services out oifname {end} ip saddr 127.0.0.0/8 masquerade"),
    ] {
        world.administer("nft", &rule)?;
    }
    world.lab.node.netns().set_sysctls(&[("ipv4/conf/all/route_localnet", "1")])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_who_is_not_enrolled_delivers_a_byte_to_a_strict_pod() -> Result<()> {
    let mut world = World::new()?;
    translate(&world)?;
    let own =
        link_local(&world, "eth0", |name| world.callee.netns.run(|| raw::interface_index(name)))?;
    world.listen(own)?;
    all_arrive(&world, ENTRANCES)?;
    let agent = Agent::of(&world, &[&world.callee])?;
    none_arrives(&world, ENTRANCES, "with an agent")?;
    agent.end().await;
    none_arrives(&world, ENTRANCES, "without an agent")?;
    evidence(
        "nobody_who_is_not_enrolled_delivers_a_byte_to_a_strict_pod",
        &[("paths", &ENTRANCES.len()), ("that delivered something", &0)],
    )
}
