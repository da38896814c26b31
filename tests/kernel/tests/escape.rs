//! Every way around steering that a pod can go: shown to work without Martlet, and to deliver
//! nothing to a strict pod, with an agent and without one.
//!
//! What arrives is what a sniffer sees inside the called pod.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use martlet_kernel::{Dialer, Listeners, Node, Pod};
use martlet_tests_kernel::{
    Lab, Place, arrives, members,
    packets::{Ip, PORT, PUSH_ACK, SYN, TCP, UDP, extended, fragment6, tcp, udp},
    raw,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

const CONNECT: Duration = Duration::from_secs(10);
/// To a port where nobody listens.
const DISCARD: u16 = 9;

struct World {
    lab: Lab,
    caller: Place,
    callee: Place,
    /// Enrolled too; the caller claims to be this one.
    other: Place,
    apart: PathBuf,
    _applications: Vec<std::net::TcpListener>,
}

/// One way around: sends these bytes from the caller's pod to the callee's.
type Escape = (&'static str, fn(&World, &[u8]) -> io::Result<()>);

impl World {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let (caller, callee, other) =
            (lab.place("cart-0")?, lab.place("web-0")?, lab.place("shop-0")?);
        let apart = lab.other_cgroup("apart")?;
        let listen =
            |ip| callee.netns.run(|| std::net::TcpListener::bind(SocketAddr::new(ip, PORT)));
        let applications = callee.addresses().map(listen).into_iter().collect::<Result<_, _>>()?;
        Ok(Self { lab, caller, callee, other, apart, _applications: applications })
    }

    /// A packet of the caller to the callee by IPv4.
    fn packet(&self, protocol: u8, payload: &[u8]) -> io::Result<()> {
        self.send(&Ip::new(self.caller.v4, self.callee.v4, protocol, payload))
    }

    fn packet6(&self, protocol: u8, payload: &[u8]) -> io::Result<()> {
        self.send(&Ip::new(self.caller.v6, self.callee.v6, protocol, payload))
    }

    fn send(&self, packet: &Ip<'_>) -> io::Result<()> {
        self.caller.netns.run(|| raw::send_packet(packet.destination, &packet.bytes()))
    }

    /// An Ethernet frame to the node with these tags.
    fn frame(&self, tags: &[u8], canary: &[u8]) -> io::Result<()> {
        let end = self.caller.pod.host_interface();
        let node =
            self.lab.node.run(|| raw::hardware_address(&end)).map_err(io::Error::other)??;
        let payload = tcp(PUSH_ACK, canary);
        let packet = Ip::new(self.caller.v4, self.callee.v4, TCP, &payload).bytes();
        let frame = [&node[..], &[2, 0, 0, 0, 0, 1], tags, &[8, 0], &packet].concat();
        self.caller.netns.run(|| raw::send_frame("eth0", &frame))
    }

    /// A socket in the caller's network namespace, made by a process in another cgroup.
    fn foreign_socket(&self, to: SocketAddr) -> io::Result<Socket> {
        let join = |cgroup: &PathBuf| {
            fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string())
        };
        join(&self.apart)?;
        let socket = self
            .caller
            .netns
            .run(|| Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP)));
        join(&self.lab.node.cgroup().join("host"))?;
        socket
    }

    /// Connects and sends, as an application does.
    fn connect(
        &self,
        ip: IpAddr,
        protocol: Protocol,
        prepare: impl FnOnce(&Socket) -> io::Result<()>,
        canary: &[u8],
    ) -> io::Result<()> {
        self.caller.netns.run(|| {
            let socket =
                Socket::new(Domain::for_address((ip, PORT).into()), Type::STREAM, Some(protocol))?;
            prepare(&socket)?;
            connect_and_send(socket, (ip, PORT).into(), canary)
        })
    }
}

/// Not being able to is fine: then nothing is sent.
fn connect_and_send(socket: Socket, to: SocketAddr, canary: &[u8]) -> io::Result<()> {
    if socket.connect_timeout(&to.into(), CONNECT).is_ok() {
        let _ = socket.send(canary);
        // It goes on trying for as long as this process lives.
        std::mem::forget(socket);
    }
    Ok(())
}

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
    ("another workload's address", |world, canary| {
        let payload = udp(DISCARD, canary);
        world.send(&Ip::new(world.other.v4, world.callee.v4, UDP, &payload))
    }),
    ("another workload's address over IPv6", |world, canary| {
        let payload = udp(DISCARD, canary);
        world.send(&Ip::new(world.other.v6, world.callee.v6, UDP, &payload))
    }),
    ("an address that nobody has declared", |world, canary| {
        let payload = tcp(PUSH_ACK, canary);
        world.send(&Ip::new([10, 77, 0, 1].into(), world.callee.v4, TCP, &payload))
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

fn all_arrive(world: &World, escapes: &[Escape]) -> Result<()> {
    for escape in escapes {
        let arrived = arrive(world, escape, true)?;
        ensure!(arrived, "without Martlet, {} gets through", escape.0);
    }
    Ok(())
}

fn none_arrives(world: &World, escapes: &[Escape], when: &str) -> Result<()> {
    for escape in escapes {
        assert!(!arrive(world, escape, false)?, "{when}, {} gets through", escape.0);
    }
    Ok(())
}

fn arrive(world: &World, escape: &Escape, is_expected: bool) -> Result<bool> {
    let send = |canary: &[u8]| escape.1(world, canary);
    arrives(&world.caller, &world.callee, is_expected, send).with_context(|| escape.0)
}

/// Stands in for the data plane, with a cipher that hides a canary.
fn veil(tasks: &mut JoinSet<()>, dialer: &Dialer, listeners: Listeners) {
    for listener in listeners.outbound {
        let dialer = dialer.clone();
        tasks.spawn(async move {
            while let Ok((application, _)) = listener.accept().await {
                let Some(origin) = dialer.origin(&application) else { continue };
                tokio::spawn(join(application, dialer.clone(), origin));
            }
        });
    }
    for listener in listeners.inbound {
        let dialer = dialer.clone();
        tasks.spawn(async move {
            while let Ok((lane, _)) = listener.accept().await {
                let Ok(to) = lane.local_addr() else { continue };
                tokio::spawn(join(lane, dialer.clone(), to));
            }
        });
    }
}

/// What passes is turned over once at each agent, so it is itself only inside the pods.
async fn join(here: TcpStream, dialer: Dialer, to: SocketAddr) -> Result<()> {
    let there = dialer.connect(to, None).await?;
    let ((mut from_here, mut to_here), (mut from_there, mut to_there)) =
        (here.into_split(), there.into_split());
    tokio::try_join!(turn(&mut from_here, &mut to_there), turn(&mut from_there, &mut to_here))?;
    Ok(())
}

async fn turn(
    from: &mut (impl tokio::io::AsyncRead + Unpin),
    to: &mut (impl tokio::io::AsyncWrite + Unpin),
) -> Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(to.shutdown().await?);
        }
        buffer[..length].iter_mut().for_each(|byte| *byte = !*byte);
        to.write_all(&buffer[..length]).await?;
    }
}

/// The node's agent, with all three pods enrolled and strict.
struct Agent {
    node: Node,
    pods: Vec<Pod>,
    listening: JoinSet<()>,
}

impl Agent {
    fn start(world: &World) -> Result<Self> {
        let node = Node::start(&world.lab.settings)?;
        let places = [&world.caller, &world.callee, &world.other];
        members(&node, &places)?;
        let (mut pods, mut listening) = (Vec::new(), JoinSet::new());
        for place in places {
            let (pod, listeners) = place.enroll(&node, true)?;
            pod.keep_guard()?;
            veil(&mut listening, &pod.dialer(), listeners);
            pods.push(pod);
        }
        Ok(Self { node, pods, listening })
    }

    fn count(&self, verdict: &str) -> Result<u64> {
        let counters = self.node.counters()?;
        let found = counters.iter().find(|c| c.hook == "guard" && c.verdict == verdict);
        Ok(found.with_context(|| format!("there is a counter {verdict}"))?.count)
    }

    /// As if it were killed: what is pinned stays.
    async fn end(mut self) {
        self.listening.shutdown().await;
        drop((self.pods, self.node));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_made_by_hand_reach_no_strict_pod() -> Result<()> {
    let world = World::new()?;
    all_arrive(&world, PACKETS)?;
    let agent = Agent::start(&world)?;
    none_arrives(&world, PACKETS, "with an agent")?;
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
    none_arrives(&world, PACKETS, "without an agent")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_that_avoid_steering_reach_no_strict_pod() -> Result<()> {
    let world = World::new()?;
    all_arrive(&world, SOCKETS)?;
    let agent = Agent::start(&world)?;
    none_arrives(&world, SOCKETS, "with an agent")?;
    assert!(agent.count("refused_plaintext")? > 0, "they got as far as the guard");
    agent.end().await;
    none_arrives(&world, SOCKETS, "without an agent")
}
