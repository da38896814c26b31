//! Every way around steering that a pod can go by packets and sockets of its own: shown to work
//! without Martlet, and to deliver nothing to a strict pod, with an agent and without one.
//!
//! What arrives is what a sniffer sees inside the called pod. Sockets that come from elsewhere are
//! in `detours.rs`, who is not enrolled in `entrances.rs`.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use martlet_lab::evidence;
use martlet_tests_kernel::{
    members,
    packets::{Ip, PORT, PUSH_ACK, SYN, TCP, UDP, extended, fragment6, tcp, udp},
    raw,
    strict::{Agent, Escape, World, all_arrive, connect_and_send, none_arrives},
};
use socket2::{Domain, Protocol, Socket, Type};

/// To a port where nobody listens.
const DISCARD: u16 = 9;

fn mapped(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
        v6 => v6,
    }
}

/// Those that end at a strict pod's guard.
const PACKETS: &[Escape] = &[
    ("a raw socket", |world, canary| world.packet(TCP, &tcp(PUSH_ACK, canary))),
    ("a raw socket over IPv6", |world, canary| world.packet6(TCP, &tcp(PUSH_ACK, canary))),
    ("a SYN with payload", |world, canary| world.packet(TCP, &tcp(SYN, canary))),
    ("a packet socket", |world, canary| world.frame(&[], canary)),
    ("a tag", |world, canary| world.frame(&[0x81, 0, 0, 0], canary)),
    ("two tags", |world, canary| world.frame(&[0x88, 0xa8, 0, 0, 0x81, 0, 0, 0], canary)),
    ("options of IPv4", |world, canary| {
        let payload = tcp(PUSH_ACK, canary);
        let packet = Ip::new(world.caller.v4, world.callee.v4, TCP, &payload);
        world.send(&Ip { options: &[1, 1, 1, 0], ..packet })
    }),
    ("headers before TCP over IPv6", |world, canary| {
        let inner = extended(60, &extended(TCP, &tcp(PUSH_ACK, canary)));
        world.packet6(60, &inner)
    }),
    ("a first fragment", |world, canary| {
        let payload = tcp(PUSH_ACK, canary);
        let packet = Ip::new(world.caller.v4, world.callee.v4, TCP, &payload[..48]);
        let more = Ip::new(world.caller.v4, world.callee.v4, TCP, canary);
        world.send(&Ip { fragment: 0x2000, ..packet })?;
        world.send(&Ip { fragment: 6, ..more })
    }),
    ("a later fragment", |world, canary| {
        let packet = Ip::new(world.caller.v4, world.callee.v4, TCP, canary);
        world.send(&Ip { fragment: 185, ..packet })
    }),
    ("a first fragment over IPv6", |world, canary| {
        world.packet6(44, &fragment6(TCP, 1, &[tcp(PUSH_ACK, canary), vec![0; 4]].concat()))
    }),
    ("a later fragment over IPv6", |world, canary| {
        world.packet6(44, &fragment6(TCP, 185 << 3, canary))
    }),
    ("a later fragment of unknown content over IPv6", |world, canary| {
        world.packet6(44, &fragment6(60, 185 << 3, canary))
    }),
    ("IPIP", |world, canary| {
        let payload = tcp(PUSH_ACK, canary);
        world.packet(4, &Ip::new(world.caller.v4, world.callee.v4, TCP, &payload).bytes())
    }),
    ("IPv6 in IPv4", |world, canary| {
        let payload = tcp(PUSH_ACK, canary);
        world.packet(41, &Ip::new(world.caller.v6, world.callee.v6, TCP, &payload).bytes())
    }),
    ("GRE", |world, canary| world.packet(47, &[&[0, 0, 8, 0], canary].concat())),
    ("VXLAN", |world, canary| world.packet(UDP, &udp(4789, &[&[8; 8], canary].concat()))),
    ("VXLAN of Linux", |world, canary| world.packet(UDP, &udp(8472, &[&[8; 8], canary].concat()))),
    ("Geneve", |world, canary| world.packet6(UDP, &udp(6081, &[&[0; 8], canary].concat()))),
    ("SCTP", |world, canary| world.packet(132, canary)),
    ("a protocol that nobody knows", |world, canary| world.packet(253, canary)),
    ("an address that nobody has declared", |world, canary| {
        let payload = tcp(PUSH_ACK, canary);
        world.send(&Ip::new([10, 77, 0, 1].into(), world.callee.v4, TCP, &payload))
    }),
];

/// Those that end at the guard of the pod that sends them.
const FORGED: &[Escape] = &[
    ("another workload's address", |world, canary| {
        let payload = udp(DISCARD, canary);
        world.send(&Ip::new(world.other.v4, world.callee.v4, UDP, &payload))
    }),
    ("another workload's address over IPv6", |world, canary| {
        let payload = udp(DISCARD, canary);
        world.send(&Ip::new(world.other.v6, world.callee.v6, UDP, &payload))
    }),
];

/// Those that have a socket of the stack.
const SOCKETS: &[Escape] = &[
    ("a socket from another cgroup", |world, canary| {
        let to = SocketAddr::new(world.callee.v4, PORT);
        connect_and_send(world.foreign_socket(to)?, to, canary)
    }),
    ("a socket from another cgroup over IPv6", |world, canary| {
        let to = SocketAddr::new(world.callee.v6, PORT);
        connect_and_send(world.foreign_socket(to)?, to, canary)
    }),
    ("a socket whose handshake was left out", |world, canary| {
        let to = SocketAddr::new(world.callee.v4, PORT);
        let socket = world.foreign_socket(to)?;
        raw::set_option(&socket, libc::IPPROTO_TCP, libc::TCP_REPAIR, 1)?;
        socket.bind(&SocketAddr::new(world.caller.v4, 0).into())?;
        socket.connect(&to.into())?;
        // `struct tcp_repair_window`: as if the callee had offered to take something.
        let window = [0, 0xffff, 0xffff, 0xffff, 0];
        raw::set_option(&socket, libc::IPPROTO_TCP, libc::TCP_REPAIR_WINDOW, window)?;
        // Off, without the probe that would be answered by a RST (include/uapi/linux/tcp.h).
        raw::set_option(&socket, libc::IPPROTO_TCP, libc::TCP_REPAIR, -1)?;
        socket.send(canary)?;
        std::mem::forget(socket);
        Ok(())
    }),
    ("a mark", |world, canary| {
        let mark = |socket: &Socket| raw::set_option(socket, libc::SOL_SOCKET, libc::SO_MARK, 7);
        world.connect(world.callee.v4, Protocol::TCP, mark, canary)
    }),
    ("MPTCP", |world, canary| {
        world.connect(world.callee.v4, Protocol::from(libc::IPPROTO_MPTCP), |_| Ok(()), canary)
    }),
    ("a mapped address", |world, canary| {
        world.connect(mapped(world.callee.v4), Protocol::TCP, |_| Ok(()), canary)
    }),
    ("fast open", |world, canary| {
        let to = SocketAddr::new(world.callee.v6, PORT);
        world.caller.netns.run(|| {
            let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
            let _ = socket.send_to_with_flags(canary, &to.into(), libc::MSG_FASTOPEN);
            std::mem::forget(socket);
            Ok(())
        })
    }),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_made_by_hand_reach_no_strict_pod() -> Result<()> {
    let world = World::new()?;
    let ways = [PACKETS, FORGED].concat();
    all_arrive(&world, &ways)?;
    let agent = Agent::start(&world)?;
    none_arrives(&world, &ways, "with an agent")?;
    for verdict in [
        "refused_plaintext",
        "refused_forged_source",
        "refused_fragment",
        "refused_tunnel",
        "refused_protocol",
    ] {
        assert!(agent.count(verdict)? > 0, "{verdict} is counted");
    }
    agent.end().await;
    none_arrives(&world, &ways, "without an agent")?;
    evidence(
        "packets_made_by_hand_reach_no_strict_pod",
        &[("kinds", &ways.len()), ("that delivered something", &0)],
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_that_avoid_steering_reach_no_strict_pod() -> Result<()> {
    let world = World::new()?;
    all_arrive(&world, SOCKETS)?;
    let agent = Agent::start(&world)?;
    none_arrives(&world, SOCKETS, "with an agent")?;
    assert!(agent.count("refused_plaintext")? > 0, "they got as far as the guard");
    agent.end().await;
    none_arrives(&world, SOCKETS, "without an agent")?;
    evidence(
        "sockets_that_avoid_steering_reach_no_strict_pod",
        &[("ways", &SOCKETS.len()), ("that delivered something", &0)],
    )
}

/// Its own interface has no guard: that of the called pod is all that there is. A real socket's
/// connection would end at the called pod's agent, which wants to be shown a certificate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_of_a_pod_that_is_to_be_enrolled_and_is_not_yet_reach_no_strict_pod() -> Result<()>
{
    let world = World::new()?;
    all_arrive(&world, PACKETS)?;
    let agent = Agent::of(&world, &[&world.callee, &world.other])?;
    // Who carries it in the directory does so before its pod is enrolled.
    for known in [&[&world.callee, &world.other][..], &[&world.caller, &world.callee, &world.other]]
    {
        members(agent.node(), known)?;
        none_arrives(&world, PACKETS, "with an agent")?;
    }
    agent.end().await;
    none_arrives(&world, PACKETS, "without an agent")?;
    evidence(
        "packets_of_a_pod_that_is_to_be_enrolled_and_is_not_yet_reach_no_strict_pod",
        &[("kinds", &PACKETS.len()), ("that delivered something", &0)],
    )
}
