//! Sockets that come from elsewhere, or that are made to go elsewhere: handed over, from other cgroups
//! and namespaces, by io_uring, from other addresses and interfaces, through namespaces and tunnels
//! inside the pod. Each is shown to work without Martlet, and to deliver nothing to a strict pod.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr, UdpSocket},
};

use anyhow::{Context as _, Result};
use martlet_lab::evidence;
use martlet_tests_kernel::{
    packets::{Ip, PORT, PUSH_ACK, TCP, tcp},
    raw,
    strict::{Agent, Escape, World, administer, all_arrive, connect_and_send, none_arrives},
};
use socket2::{Domain, Protocol, Socket, Type};

/// A second address of the caller's that no file declares.
const ALIAS: [u8; 4] = [10, 1, 0, 200];
/// One that it has for a moment.
const LATER: [u8; 4] = [10, 1, 0, 201];
/// Of the network inside the caller's pod.
const INSIDE: [u8; 4] = [192, 168, 77, 2];
/// Of a tunnel between both pods.
const TUNNEL: [[u8; 4]; 2] = [[192, 168, 78, 1], [192, 168, 78, 2]];

fn to(world: &World) -> SocketAddr {
    SocketAddr::new(world.callee.v4, PORT)
}

fn bound_to_device(socket: &Socket) -> io::Result<()> {
    socket.bind_device(Some(b"eth0"))
}

/// With the first bytes in the SYN, since no answer comes back to an address that is another's.
fn send_with_syn(socket: Socket, to: SocketAddr, canary: &[u8]) -> io::Result<()> {
    let _ = socket.set_nonblocking(true);
    let _ = socket.send_to_with_flags(canary, &to.into(), libc::MSG_FASTOPEN);
    std::mem::forget(socket);
    Ok(())
}

const SOCKETS: &[Escape] = &[
    ("a socket that is handed over to the pod", |world, canary| {
        let socket = raw::hand_over(&world.foreign_socket(to(world))?)?;
        connect_and_send(socket, to(world), canary)
    }),
    ("a socket that the pod hands out", |world, canary| {
        let socket = raw::hand_over(&world.socket(to(world))?)?;
        world.in_cgroup(&world.apart, || connect_and_send(socket, to(world), canary))
    }),
    ("a connection that is handed over to the pod", |world, canary| {
        let socket = world.foreign_socket(to(world))?;
        let connected = world.in_cgroup(&world.apart, || socket.connect(&to(world).into()));
        if connected.is_ok() {
            let given = raw::hand_over(&socket)?;
            let _ = given.send(canary);
            std::mem::forget((socket, given));
        }
        Ok(())
    }),
    ("a socket of the node's namespace", |world, canary| {
        let tcp = Some(Protocol::TCP);
        let socket = world.lab.node.run(|| Socket::new(Domain::IPV4, Type::STREAM, tcp));
        let socket = raw::hand_over(&socket.map_err(io::Error::other)??)?;
        connect_and_send(socket, to(world), canary)
    }),
    ("a process of the root cgroup", |world, canary| {
        let root = world.apart.ancestors().find(|path| !path.join("cgroup.type").exists());
        let root = root.ok_or_else(|| io::Error::other("there is no root cgroup"))?;
        world.in_cgroup(root, || connect_and_send(world.socket(to(world))?, to(world), canary))
    }),
    ("a process that moves to a cgroup below", |world, canary| {
        let below = world.lab.node.cgroup().join("host/below");
        fs::create_dir_all(&below)?;
        world.in_cgroup(&below, || connect_and_send(world.socket(to(world))?, to(world), canary))
    }),
    ("io_uring", |world, canary| {
        let socket = world.socket(to(world))?;
        let _ = raw::connect_by_ring(&socket, to(world), canary);
        std::mem::forget(socket);
        Ok(())
    }),
    ("io_uring on a socket from another cgroup", |world, canary| {
        let socket = world.foreign_socket(to(world))?;
        let _ = raw::connect_by_ring(&socket, to(world), canary);
        std::mem::forget(socket);
        Ok(())
    }),
    ("fast open without a cookie", |world, canary| {
        send_with_syn(world.socket(to(world))?, to(world), canary)
    }),
    ("fast open without a cookie from another cgroup", |world, canary| {
        send_with_syn(world.foreign_socket(to(world))?, to(world), canary)
    }),
    ("MPTCP from another cgroup", |world, canary| {
        let mptcp = Some(Protocol::from(libc::IPPROTO_MPTCP));
        let make = || world.caller.netns.run(|| Socket::new(Domain::IPV4, Type::STREAM, mptcp));
        connect_and_send(world.in_cgroup(&world.apart, make)?, to(world), canary)
    }),
    ("a device", |world, canary| {
        world.connect(world.callee.v4, Protocol::TCP, bound_to_device, canary)
    }),
    ("a device from another cgroup", |world, canary| {
        let socket = world.foreign_socket(to(world))?;
        bound_to_device(&socket)?;
        connect_and_send(socket, to(world), canary)
    }),
    ("a second address", |world, canary| {
        let bind = |socket: &Socket| socket.bind(&SocketAddr::from((ALIAS, 0)).into());
        world.connect(world.callee.v4, Protocol::TCP, bind, canary)
    }),
    ("a second address from another cgroup", |world, canary| {
        let socket = world.foreign_socket(to(world))?;
        socket.bind(&SocketAddr::from((ALIAS, 0)).into())?;
        connect_and_send(socket, to(world), canary)
    }),
    ("another workload's address by IP_TRANSPARENT", |world, canary| {
        let socket = world.foreign_socket(to(world))?;
        raw::set_option(&socket, libc::SOL_IP, libc::IP_TRANSPARENT, 1)?;
        socket.bind(&SocketAddr::new(world.other.v4, 0).into())?;
        send_with_syn(socket, to(world), canary)
    }),
    ("an address of nobody by IP_TRANSPARENT", |world, canary| {
        let socket = world.foreign_socket(to(world))?;
        raw::set_option(&socket, libc::SOL_IP, libc::IP_TRANSPARENT, 1)?;
        socket.bind(&SocketAddr::from(([10, 77, 0, 2], 0)).into())?;
        send_with_syn(socket, to(world), canary)
    }),
    ("an address that comes after its socket by IP_FREEBIND", |world, canary| {
        let socket = world.foreign_socket(to(world))?;
        raw::set_option(&socket, libc::SOL_IP, libc::IP_FREEBIND, 1)?;
        socket.bind(&SocketAddr::from((LATER, 0)).into())?;
        let change = |what: &str| {
            let line = format!("addr {what} {}/32 dev eth0\n", IpAddr::from(LATER));
            world.caller.pod.ip(&line).map_err(io::Error::other)
        };
        change("add")?;
        connect_and_send(socket, to(world), canary)?;
        change("del")
    }),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_that_come_from_elsewhere_reach_no_strict_pod() -> Result<()> {
    let world = World::new()?;
    let (alias, caller) = (IpAddr::from(ALIAS), world.caller.pod.host_interface());
    world.caller.pod.ip(&format!("addr add {alias}/32 dev eth0\n"))?;
    for address in [alias, IpAddr::from(LATER)] {
        world.administer("ip", &format!("route add {address}/32 dev {caller}"))?;
    }
    all_arrive(&world, SOCKETS)?;
    let agent = Agent::start(&world)?;
    none_arrives(&world, SOCKETS, "with an agent")?;
    assert!(agent.count("refused_plaintext")? > 0, "some got as far as the guard");
    agent.end().await;
    none_arrives(&world, SOCKETS, "without an agent")?;
    evidence(
        "sockets_that_come_from_elsewhere_reach_no_strict_pod",
        &[("ways", &SOCKETS.len()), ("that delivered something", &0)],
    )
}

/// The namespace inside the caller's pod.
fn inside(world: &World) -> io::Result<Socket> {
    let netns = &world.nested().netns;
    netns.run(|| Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)))
}

const INTERFACES: &[Escape] = &[
    ("a namespace inside the pod, translated to its address", |world, canary| {
        connect_and_send(inside(world)?, to(world), canary)
    }),
    ("a packet of a namespace inside the pod", |world, canary| {
        let payload = tcp(PUSH_ACK, canary);
        let packet = Ip::new(INSIDE.into(), world.callee.v4, TCP, &payload).bytes();
        world.nested().netns.run(|| raw::send_packet(world.callee.v4, &packet))
    }),
    ("a packet socket on a second interface", |world, canary| {
        let node = world.lab.node.run(|| raw::hardware_address("second"));
        let node = node.map_err(io::Error::other)??;
        let payload = tcp(PUSH_ACK, canary);
        let packet = Ip::new(world.caller.v4, world.callee.v4, TCP, &payload).bytes();
        let frame = [&node[..], &[2, 0, 0, 0, 0, 1], &[8, 0], &packet].concat();
        world.caller.netns.run(|| raw::send_frame("net1", &frame))
    }),
    ("a VXLAN device", |world, canary| {
        let socket = world.caller.netns.run(|| UdpSocket::bind((IpAddr::from(TUNNEL[0]), 0)))?;
        socket.send_to(canary, (IpAddr::from(TUNNEL[1]), 9)).map(drop)
    }),
];

/// Interfaces of the caller's besides its own: into a namespace inside it, which it translates to its
/// address; a second one to the node; and one end of a tunnel to the callee.
fn build(world: &mut World) -> Result<()> {
    let nested = world.lab.place("nested-0")?;
    let name = nested.pod.netns().name().to_owned();
    nested.pod.ip("link del eth0\n")?;
    world.caller.pod.ip(&format!(
        "link add in0 type veth peer name up0 netns {name}\n\
         addr add 192.168.77.1/24 dev in0\nlink set in0 up\n"
    ))?;
    nested.pod.ip(
        "addr add 192.168.77.2/24 dev up0\nlink set up0 up\nroute add default via 192.168.77.1\n",
    )?;
    world.caller.pod.netns().set_sysctls(&[("ipv4/ip_forward", "1")])?;
    for rule in [
        "add table ip inside",
        "add chain ip inside out { type nat hook postrouting priority 100 ; }",
        "add rule ip inside out oifname eth0 masquerade",
    ] {
        administer(world.caller.pod.netns(), "nft", rule)?;
    }
    world.enclose(nested);
    let host = world.lab.node.netns().name();
    world.caller.pod.ip(&format!(
        "link add net1 type veth peer name second netns {host}\nlink set net1 up\n"
    ))?;
    world.administer("ip", "link set second up")?;
    for (place, peer, own) in
        [(&world.caller, world.callee.v4, TUNNEL[0]), (&world.callee, world.caller.v4, TUNNEL[1])]
    {
        let own = IpAddr::from(own);
        place.pod.ip(&format!(
            "link add vx0 type vxlan id 7 remote {peer} dstport 4789 dev eth0\n\
             addr add {own}/24 dev vx0\nlink set vx0 up\n"
        ))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_built_inside_a_pod_reaches_no_strict_pod() -> Result<()> {
    let mut world = World::new()?;
    build(&mut world).context("building inside the pod")?;
    all_arrive(&world, INTERFACES)?;
    let agent = Agent::start(&world)?;
    none_arrives(&world, INTERFACES, "with an agent")?;
    for verdict in ["refused_plaintext", "refused_tunnel"] {
        assert!(agent.count(verdict)? > 0, "{verdict} is counted");
    }
    agent.end().await;
    none_arrives(&world, INTERFACES, "without an agent")?;
    evidence(
        "what_is_built_inside_a_pod_reaches_no_strict_pod",
        &[("ways", &INTERFACES.len()), ("that delivered something", &0)],
    )
}
