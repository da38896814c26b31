//! A strict pod, and whoever wants to get around steering to it: what must arrive there without
//! Martlet, and must not with it.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use martlet_kernel::{Dialer, KernelError, Listeners, Node, Pod};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

use crate::{
    Lab, Place, arrives, members,
    packets::{Ip, PORT, PUSH_ACK, TCP, tcp},
    raw,
};

const CONNECT: Duration = Duration::from_secs(10);
/// Both ends send and take data with a SYN, without a cookie
/// (Documentation/networking/ip-sysctl.rst, `tcp_fastopen`).
const FASTOPEN: (&str, &str) = ("ipv4/tcp_fastopen", "1543");

pub struct World {
    pub lab: Lab,
    pub caller: Place,
    pub callee: Place,
    /// Enrolled too; the caller claims to be this one.
    pub other: Place,
    /// A cgroup without hooks.
    pub apart: PathBuf,
    applications: Vec<TcpListener>,
    nested: Option<Place>,
}

/// One way around: sends these bytes from the caller's pod to the callee's.
pub type Escape = (&'static str, fn(&World, &[u8]) -> io::Result<()>);

impl World {
    pub fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let (caller, callee, other) =
            (lab.place("cart-0")?, lab.place("web-0")?, lab.place("shop-0")?);
        let apart = lab.other_cgroup("apart")?;
        for place in [&caller, &callee] {
            place.pod.netns().set_sysctls(&[FASTOPEN])?;
        }
        let addresses = callee.addresses();
        let mut world =
            Self { lab, caller, callee, other, apart, applications: Vec::new(), nested: None };
        for ip in addresses {
            world.listen(SocketAddr::new(ip, PORT))?;
        }
        Ok(world)
    }

    /// Another application of the callee's.
    pub fn listen(&mut self, address: SocketAddr) -> Result<()> {
        let listener = self.callee.netns.run(|| TcpListener::bind(address));
        self.applications.push(listener.with_context(|| address.to_string())?);
        Ok(())
    }

    /// Says which place is a namespace inside the caller's pod.
    pub fn enclose(&mut self, nested: Place) {
        self.nested = Some(nested);
    }

    pub fn nested(&self) -> &Place {
        self.nested.as_ref().expect("a namespace was enclosed")
    }

    /// A program of the node's, such as ip or nft, in its network namespace.
    pub fn administer(&self, program: &str, arguments: &str) -> Result<()> {
        administer(self.lab.node.netns(), program, arguments)
    }

    /// A packet of the caller to the callee by IPv4.
    pub fn packet(&self, protocol: u8, payload: &[u8]) -> io::Result<()> {
        self.send(&Ip::new(self.caller.v4, self.callee.v4, protocol, payload))
    }

    pub fn packet6(&self, protocol: u8, payload: &[u8]) -> io::Result<()> {
        self.send(&Ip::new(self.caller.v6, self.callee.v6, protocol, payload))
    }

    pub fn send(&self, packet: &Ip<'_>) -> io::Result<()> {
        self.caller.netns.run(|| raw::send_packet(packet.destination, &packet.bytes()))
    }

    /// An Ethernet frame to the node with these tags.
    pub fn frame(&self, tags: &[u8], canary: &[u8]) -> io::Result<()> {
        let end = self.caller.pod.host_interface();
        let node =
            self.lab.node.run(|| raw::hardware_address(&end)).map_err(io::Error::other)??;
        let payload = tcp(PUSH_ACK, canary);
        let packet = Ip::new(self.caller.v4, self.callee.v4, TCP, &payload).bytes();
        let frame = [&node[..], &[2, 0, 0, 0, 0, 1], tags, &[8, 0], &packet].concat();
        self.caller.netns.run(|| raw::send_frame("eth0", &frame))
    }

    /// A socket in the caller's network namespace, made by a process in a cgroup without hooks.
    pub fn foreign_socket(&self, to: SocketAddr) -> io::Result<Socket> {
        self.in_cgroup(&self.apart, || self.socket(to))
    }

    /// A socket in the caller's network namespace.
    pub fn socket(&self, to: SocketAddr) -> io::Result<Socket> {
        let tcp = Some(Protocol::TCP);
        self.caller.netns.run(|| Socket::new(Domain::for_address(to), Type::STREAM, tcp))
    }

    /// Does something while this process is in another cgroup, and comes back.
    pub fn in_cgroup<T>(
        &self,
        cgroup: &Path,
        work: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let join =
            |cgroup: &Path| fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string());
        join(cgroup)?;
        let done = work();
        join(&self.lab.node.cgroup().join("host"))?;
        done
    }

    /// Connects and sends, as an application does.
    pub fn connect(
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
pub fn connect_and_send(socket: Socket, to: SocketAddr, canary: &[u8]) -> io::Result<()> {
    if socket.connect_timeout(&to.into(), CONNECT).is_ok() {
        let _ = socket.send(canary);
        // It goes on trying for as long as this process lives.
        std::mem::forget(socket);
    }
    Ok(())
}

/// Runs a program such as ip or nft in a network namespace.
pub fn administer(netns: &martlet_lab::Netns, program: &str, arguments: &str) -> Result<()> {
    let output = netns.run(|| Command::new(program).args(arguments.split(' ')).output())?;
    let output = output.with_context(|| format!("running {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {arguments}: {said}");
    Ok(())
}

pub fn all_arrive(world: &World, escapes: &[Escape]) -> Result<()> {
    for escape in escapes {
        let arrived = arrive(world, escape, true)?;
        ensure!(arrived, "without Martlet, {} gets through", escape.0);
    }
    Ok(())
}

pub fn none_arrives(world: &World, escapes: &[Escape], when: &str) -> Result<()> {
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

/// The node's agent, with strict pods.
pub struct Agent {
    node: Node,
    pods: Vec<Pod>,
    listening: JoinSet<()>,
}

impl Agent {
    /// All three pods are enrolled.
    pub fn start(world: &World) -> Result<Self> {
        Self::of(world, &[&world.caller, &world.callee, &world.other])
    }

    pub fn of(world: &World, places: &[&Place]) -> Result<Self> {
        let node = Node::start(&world.lab.settings)?;
        members(&node, places)?;
        let (mut pods, mut listening) = (Vec::new(), JoinSet::new());
        for place in places {
            let (pod, listeners) = place.enroll(&node, true)?;
            match pod.keep_guard() {
                // Such as one to a namespace inside the pod; a real agent is not ready then.
                Ok(()) | Err(KernelError::NotGuarded { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            veil(&mut listening, &pod.dialer(), listeners);
            pods.push(pod);
        }
        Ok(Self { node, pods, listening })
    }

    pub fn node(&self) -> &Node {
        &self.node
    }

    pub fn count(&self, verdict: &str) -> Result<u64> {
        let counters = self.node.counters()?;
        let found = counters.iter().find(|c| c.hook == "guard" && c.verdict == verdict);
        Ok(found.with_context(|| format!("there is a counter {verdict}"))?.count)
    }

    /// As if it were killed: what is pinned stays.
    pub async fn end(mut self) {
        self.listening.shutdown().await;
        drop((self.pods, self.node));
    }
}
