//! Plaintext that a pod has from before it was strict, and its end.
//!
//! A strict pod keeps the connections of the agent, those inside the pod, and those that it has
//! opened to somebody outside the mesh. Who has opened one the guard has noted at its SYN. For what
//! is older than the guard, or was pushed out of its notes, the ports tell: what stands on a port on
//! which the pod listens, or on one from which the kernel does not connect by itself, counts as
//! accepted, and is ended.
//!
//! A permissive pod keeps what it has, but for connections with the mesh that did not begin as
//! plaintext that was allowed: they began while nobody steered, the guard refuses what they carry,
//! and their ends would repeat themselves for minutes.

use std::{
    collections::HashSet,
    fs, io,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

use martlet_ebpf_shared::{Connection, Plain};

use crate::{
    KernelError, Netns,
    listening::listening_here,
    maps,
    node::Shared,
    sockets::{self, Socket, Sockets},
};

/// Connections that are made while others are being ended are found by the next pass.
const PASSES: usize = 8;
/// The ports from which the kernel connects by itself (ip(7)).
const EPHEMERAL: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// What was done about a pod's plaintext.
#[derive(Debug, Default)]
pub struct Closing {
    pub ended: Vec<Ended>,
    /// How many connections could not be ended: the kernel can't, or there are ever new ones. The
    /// guard refuses what they carry.
    pub left: usize,
}

/// A connection in plaintext that was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// Whether the pod had opened it.
    pub is_outbound: bool,
}

/// A pod's sockets as they are now.
struct Sight {
    sockets: Vec<Socket>,
    /// Local and remote end of each.
    ends: HashSet<(SocketAddr, SocketAddr)>,
    listening: HashSet<u16>,
    ephemeral: RangeInclusive<u16>,
}

/// Ends what a pod must not have.
pub fn close(shared: &Shared, netns: &Netns, strict: bool) -> Result<Closing, KernelError> {
    let failed = KernelError::in_netns(netns, "ending its connections");
    let diagnosis = Sockets::open(netns).map_err(&failed)?;
    let mut closing = Closing::default();
    for _ in 0..PASSES {
        let sight = look(shared, netns)?;
        let mut unwanted = Vec::new();
        for socket in &sight.sockets {
            if let Some(is_outbound) = sight.unwanted(shared, netns, strict, socket)? {
                unwanted.push((socket, is_outbound));
            }
        }
        // Of a permissive pod it is a kindness only.
        closing.left = if strict { unwanted.len() } else { 0 };
        if unwanted.is_empty() || !shared.destroys {
            break;
        }
        for (socket, is_outbound) in unwanted {
            if diagnosis.destroy(socket).map_err(&failed)? == sockets::Ended::Reset {
                let Socket { local, remote, .. } = *socket;
                closing.ended.push(Ended { local, remote, is_outbound });
            }
        }
    }
    Ok(closing)
}

/// Notes how the connections that a pod has before it has a guard began.
pub fn note_older(shared: &Shared, netns: &Netns) -> Result<(), KernelError> {
    let sight = look(shared, netns)?;
    for socket in sight.sockets.iter().filter(|socket| !socket.is_marked) {
        let began = if sight.seems_opened(socket) { Plain::Opened } else { Plain::Accepted };
        shared.maps.add_plain(&connection(netns, socket), began)?;
    }
    Ok(())
}

fn look(shared: &Shared, netns: &Netns) -> Result<Sight, KernelError> {
    let read = || {
        let sockets = Sockets::open(netns)?.connections(shared.maps.agents_sockets())?;
        let (listening, range) =
            netns.run(|| Ok((listening_here()?, fs::read_to_string(EPHEMERAL)?)))?;
        let ephemeral = parse_range(&range)
            .ok_or_else(|| io::Error::other(format!("{EPHEMERAL} is not understood")))?;
        let listening = listening.into_iter().map(|(_, port)| port).collect();
        let ends = sockets.iter().map(|socket| (socket.local, socket.remote)).collect();
        Ok(Sight { sockets, ends, listening, ephemeral })
    };
    read().map_err(KernelError::in_netns(netns, "reading its connections"))
}

fn parse_range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut ends = text.split_ascii_whitespace().map(str::parse);
    Some(ends.next()?.ok()?..=ends.next()?.ok()?)
}

impl Sight {
    /// Whether the pod has opened a connection that it must not have; `None` for others.
    fn unwanted(
        &self,
        shared: &Shared,
        netns: &Netns,
        strict: bool,
        socket: &Socket,
    ) -> Result<Option<bool>, KernelError> {
        if socket.is_marked || self.is_inside(socket) {
            return Ok(None);
        }
        let began = shared.maps.began(&connection(netns, socket))?;
        let is_outbound = match began {
            Some(Plain::Probe) => return Ok(None),
            Some(began) => began == Plain::Opened,
            None => self.seems_opened(socket),
        };
        let unwanted = match shared.maps.is_member(&maps::address(socket.remote.ip())) {
            // It may wait for the agent's listener: that has no mark yet.
            true => !socket.is_half_open && (strict || began.is_none()),
            false => strict && !is_outbound,
        };
        Ok(unwanted.then_some(is_outbound))
    }

    fn seems_opened(&self, socket: &Socket) -> bool {
        let port = socket.local.port();
        self.ephemeral.contains(&port) && !self.listening.contains(&port)
    }

    /// Whether both ends are the pod's.
    fn is_inside(&self, socket: &Socket) -> bool {
        let Socket { local, remote, .. } = *socket;
        is_loopback(local.ip())
            || is_loopback(remote.ip())
            || local.ip() == remote.ip()
            || self.ends.contains(&(remote, local))
    }
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

fn connection(netns: &Netns, socket: &Socket) -> Connection {
    Connection {
        netns: netns.cookie(),
        local: maps::address(socket.local.ip()),
        remote: maps::address(socket.remote.ip()),
        local_port: socket.local.port(),
        remote_port: socket.remote.port(),
        padding: 0,
    }
}
