//! One node of the lab whose agent and applications are this process: for what is easier said from
//! inside than through a real agent and real programs.
//!
//! The process joins the node's cgroup, so that its own connections pass the node's hooks; they are
//! made on threads inside the pods' network namespaces.

mod arrival;
pub mod packets;
pub mod raw;
pub mod secrets;
pub mod strict;
pub mod tamper;

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use martlet_kernel::{
    Dialer, Listeners, Membership, Netns, Node, Pair, Party, Pod, Settings, Terms,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

pub use arrival::arrives;

/// The processes that a process has started and that have not ended.
pub fn children(pid: u32) -> Result<Vec<u32>> {
    let listed = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    listed.split_ascii_whitespace().map(|child| Ok(child.parse()?)).collect()
}

/// The process can be in one cgroup only: one lab at a time.
static ONE_LAB: Mutex<()> = Mutex::new(());

/// How long a connection may take to be established.
const CONNECT: Duration = Duration::from_secs(5);

/// Fields are dropped in this order: the process must have left the cgroup before it is removed,
/// since that kills all in it.
pub struct Lab {
    _joined: Joined,
    pub settings: Settings,
    pub node: martlet_lab::Node,
    lab: martlet_lab::Lab,
    _alone: MutexGuard<'static, ()>,
}

/// A pod of the lab, not yet enrolled.
pub struct Place {
    pub netns: Netns,
    pub pod: martlet_lab::Pod,
    pub v4: IpAddr,
    pub v6: IpAddr,
}

impl Lab {
    pub fn new() -> Result<Self> {
        let alone = ONE_LAB.lock().unwrap_or_else(PoisonError::into_inner);
        let lab = martlet_lab::Lab::new()?;
        let node = lab.node("one")?;
        let settings = Settings {
            cgroup: node.cgroup().to_owned(),
            pin: node.pin(),
            notes: node.directory()?.join("notes"),
            host: node.netns().path(),
            without: vec![],
            ledger_room: Pair::ROOM,
            verbose: false,
        };
        let root = lab.cgroup().parent().context("the lab's cgroup is below the root")?;
        let joined = Joined::new(root, &node.cgroup().join("host"))?;
        Ok(Self { _joined: joined, settings, node, lab, _alone: alone })
    }

    pub fn place(&self, name: &str) -> Result<Place> {
        let pod = self.node.pod(name)?;
        let netns = Netns::open(&pod.netns().path())?;
        Ok(Place { netns, v4: pod.v4(), v6: pod.v6(), pod })
    }

    /// A cgroup of this lab below no node, and so without hooks.
    pub fn other_cgroup(&self, name: &str) -> Result<PathBuf> {
        let path = self.lab.cgroup().join(name);
        fs::create_dir(&path).context("making a cgroup")?;
        Ok(path)
    }
}

/// This process in a cgroup; it goes home when this is dropped.
struct Joined {
    home: PathBuf,
}

impl Joined {
    fn new(root: &Path, cgroup: &Path) -> Result<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup")?;
        let own = groups.lines().find_map(|line| line.strip_prefix("0::"));
        let own = own.context("this process has no cgroup v2")?;
        let joined = Self { home: root.join(own.trim_start_matches('/')) };
        move_to(cgroup)?;
        Ok(joined)
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        if let Err(error) = move_to(&self.home) {
            // What follows would kill this process without a word.
            eprintln!("{error:#}");
            std::process::abort();
        }
    }
}

fn move_to(cgroup: &Path) -> Result<()> {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string())
        .with_context(|| format!("moving to {}", cgroup.display()))
}

impl Place {
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4, self.v6]
    }

    /// What the ledger knows the pod by.
    pub fn party(&self) -> Party {
        Party::workload(self.netns.cookie())
    }

    pub fn terms(&self) -> Terms {
        Terms { party: self.party(), ..Terms::default() }
    }

    pub fn enroll(&self, node: &Node, strict: bool) -> Result<(Pod, Listeners)> {
        let terms = Terms { strict, ..self.terms() };
        self.enroll_by(node, terms)
    }

    pub fn enroll_by(&self, node: &Node, terms: Terms) -> Result<(Pod, Listeners)> {
        let mut pod = node.enroll(&self.netns, &self.addresses(), terms)?;
        let listeners = pod.take_listeners().context("listeners are there once")?;
        Ok((pod, listeners))
    }

    /// An application that listens.
    pub fn listen(&self, address: SocketAddr) -> Result<TcpListener> {
        let listener = self.netns.run(|| std::net::TcpListener::bind(address))?;
        listener.set_nonblocking(true)?;
        Ok(TcpListener::from_std(listener)?)
    }

    /// An application that connects.
    pub async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        self.connect_with(to, Protocol::TCP, |_| Ok(())).await
    }

    /// The same with a socket of any stream protocol that was prepared.
    pub async fn connect_with(
        &self,
        to: SocketAddr,
        protocol: Protocol,
        prepare: impl FnOnce(&Socket) -> io::Result<()> + Send + 'static,
    ) -> io::Result<TcpStream> {
        let netns = self.netns.clone();
        let connecting = tokio::task::spawn_blocking(move || {
            netns.run(|| {
                let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(protocol))?;
                prepare(&socket)?;
                socket.connect_timeout(&to.into(), CONNECT)?;
                Ok(std::net::TcpStream::from(socket))
            })
        });
        let stream = connecting.await.map_err(io::Error::other)??;
        stream.set_nonblocking(true)?;
        TcpStream::from_std(stream)
    }
}

pub fn members(node: &Node, places: &[&Place]) -> Result<()> {
    let members = places
        .iter()
        .flat_map(|place| place.addresses().map(|ip| (ip, Membership::workload(place.party()))));
    Ok(node.set_members(members)?)
}

/// These pods are outside the mesh by decision, and no others.
pub fn leave_outside(node: &Node, places: &[&Place]) -> Result<()> {
    Ok(node.set_outside(places.iter().map(|place| place.netns.cookie()))?)
}

/// Stands in for the data plane: takes what is steered to it onwards, without TLS.
pub fn relay(dialer: Dialer, listeners: Listeners) {
    for listener in listeners.outbound {
        let dialer = dialer.clone();
        tokio::spawn(async move {
            while let Ok((app, _)) = listener.accept().await {
                // What it does not carry it ends in order, which the tests can tell from a refusal.
                let _ = socket2::SockRef::from(&app).set_linger(None);
                let Some(origin) = dialer.origin(&app) else { continue };
                tokio::spawn(join(app, dialer.clone(), origin, None));
            }
        });
    }
    for listener in listeners.inbound {
        let dialer = dialer.clone();
        tokio::spawn(async move {
            while let Ok((peer, from)) = listener.accept().await {
                let Ok(to) = peer.local_addr() else { continue };
                tokio::spawn(join(peer, dialer.clone(), to, Some(from)));
            }
        });
    }
}

async fn join(mut here: TcpStream, dialer: Dialer, to: SocketAddr, shown: Option<SocketAddr>) {
    if let Ok(mut there) = dialer.connect(to, shown).await {
        let _ = tokio::io::copy_bidirectional(&mut here, &mut there).await;
    }
}
