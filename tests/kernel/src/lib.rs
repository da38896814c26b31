//! Pods on a bridge, each a network namespace, and this process in a cgroup of its own: it plays
//! the applications (threads inside the namespaces) and the agent.

use std::{
    fs,
    io::{self, Read as _},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context as _, Result, ensure};
use martlet_kernel::{Dialer, Listeners, Member, Netns, Node, Pod, Settings, uninstall};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

/// The process can be in one cgroup only: one lab at a time.
static ONE_LAB: Mutex<()> = Mutex::new(());
static NUMBER: AtomicU32 = AtomicU32::new(0);

pub struct Lab {
    name: String,
    pub settings: Settings,
    home: PathBuf,
    namespaces: Vec<String>,
    _alone: MutexGuard<'static, ()>,
}

/// A pod of the lab, not yet enrolled.
pub struct Place {
    pub netns: Netns,
    pub v4: IpAddr,
    pub v6: IpAddr,
}

impl Lab {
    pub fn new() -> Result<Self> {
        let alone = ONE_LAB.lock().unwrap_or_else(PoisonError::into_inner);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("mk{}-{number}", std::process::id());
        let root = cgroup2()?;
        let cgroup = root.join(&name);
        fs::create_dir(&cgroup).context("making a cgroup")?;
        let home = root.join(own_cgroup()?.trim_start_matches('/'));
        move_to(&cgroup)?;
        let settings = Settings {
            cgroup,
            pin: format!("/sys/fs/bpf/{name}").into(),
            notes: std::env::temp_dir().join(&name),
            without: vec![],
        };
        let mut lab = Self { name, settings, home, namespaces: vec![], _alone: alone };
        let bridge = lab.namespace("wire")?;
        ip(&format!("-n {bridge} link add br0 type bridge"))?;
        ip(&format!("-n {bridge} link set br0 up"))?;
        Ok(lab)
    }

    fn namespace(&mut self, label: &str) -> Result<String> {
        let name = format!("{}-{label}", self.name);
        ip(&format!("netns add {name}"))?;
        self.namespaces.push(name.clone());
        ip(&format!("-n {name} link set lo up"))?;
        Ok(name)
    }

    /// A pod with addresses 10.77.0.`number` and fd77::`number`.
    pub fn place(&mut self, number: u8) -> Result<Place> {
        let name = self.namespace(&format!("pod{number}"))?;
        let bridge = self.namespaces[0].clone();
        ip(&format!("-n {name} link add eth0 type veth peer name p{number} netns {bridge}"))?;
        ip(&format!("-n {bridge} link set p{number} master br0 up"))?;
        ip(&format!("-n {name} addr add 10.77.0.{number}/24 dev eth0"))?;
        ip(&format!("-n {name} addr add fd77::{number}/64 dev eth0 nodad"))?;
        ip(&format!("-n {name} link set eth0 up"))?;
        Ok(Place {
            netns: Netns::open(&Path::new("/run/netns").join(&name))?,
            v4: format!("10.77.0.{number}").parse()?,
            v6: format!("fd77::{number}").parse()?,
        })
    }
}

impl Lab {
    /// Listens to everything that crosses the bridge, from now on.
    pub fn sniff(&self) -> Result<Sniffer> {
        let wire = Netns::open(&Path::new("/run/netns").join(&self.namespaces[0]))?;
        // All protocols, in network byte order: packet(7).
        let all = Protocol::from(i32::from(0x0003_u16.to_be()));
        let socket = wire.run(|| Socket::new(Domain::PACKET, Type::RAW, Some(all)))?;
        socket.set_recv_buffer_size(8 << 20)?;
        socket.set_nonblocking(true)?;
        Ok(Sniffer { socket })
    }
}

/// A packet socket on the wire, without a filter.
pub struct Sniffer {
    socket: Socket,
}

impl Sniffer {
    /// All frames so far.
    pub fn frames(&mut self) -> io::Result<Vec<Vec<u8>>> {
        let mut frames = Vec::new();
        let mut buffer = vec![0; 1 << 17];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(length) => frames.push(buffer[..length].to_vec()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(frames),
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in &self.namespaces {
            let _ = ip(&format!("netns del {name}"));
        }
        let _ = uninstall(&self.settings.pin);
        let _ = move_to(&self.home);
        let _ = fs::remove_dir(&self.settings.cgroup);
        let _ = fs::remove_dir_all(&self.settings.notes);
    }
}

impl Place {
    pub fn enroll(&self, node: &Node, strict: bool) -> Result<(Pod, Listeners)> {
        let mut pod = node.enroll(&self.netns, &[self.v4, self.v6], strict)?;
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
        let netns = self.netns.clone();
        let connecting = tokio::task::spawn_blocking(move || {
            netns.run(|| {
                std::net::TcpStream::connect_timeout(&to, std::time::Duration::from_secs(5))
            })
        });
        let stream = connecting.await.map_err(io::Error::other)??;
        stream.set_nonblocking(true)?;
        TcpStream::from_std(stream)
    }
}

pub fn members(node: &Node, places: &[&Place]) -> Result<()> {
    let addresses = places.iter().flat_map(|place| [place.v4, place.v6]);
    Ok(node.set_members(addresses.map(|ip| (ip, Member::Workload)))?)
}

/// Stands in for the data plane: takes what is steered to it onwards, without TLS.
pub fn relay(dialer: Dialer, listeners: Listeners) {
    for listener in listeners.outbound {
        let dialer = dialer.clone();
        tokio::spawn(async move {
            while let Ok((app, _)) = listener.accept().await {
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

fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output().context("running ip")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {arguments}: {error}");
    Ok(())
}

fn cgroup2() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    Ok(mount.and_then(|line| line.split(' ').nth(1)).context("no cgroup v2 is mounted")?.into())
}

fn own_cgroup() -> Result<String> {
    let groups = fs::read_to_string("/proc/self/cgroup")?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"));
    Ok(own.context("this process has no cgroup v2")?.to_owned())
}

fn move_to(cgroup: &Path) -> Result<()> {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string())
        .with_context(|| format!("moving to {}", cgroup.display()))
}
