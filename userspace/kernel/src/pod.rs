//! What belongs to one pod: listeners inside its network namespace, its `sk_lookup` program, and
//! sockets that dial from inside it.

use std::{
    collections::HashSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use martlet_ebpf_shared::{
    Address, Enrollment, Guarded, ListenerKey, ListeningKey, Receiver, Role, ledger::Party,
    limits::PORTS,
};
use martlet_model::report::RepairKind;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::{
    Closing, Finding, KernelError, Look, Netns, closing,
    guard::{self, Seen},
    listening::listening_here,
    maps::{self, Maps},
    node::Shared,
    repair::or_unknown,
    sysctl,
};

const SYSCTL: &str = "setting net.ipv4.tcp_tw_reuse";

/// How many connections may wait for the agent to accept them, per listener.
const BACKLOG: i32 = 4096;

/// An enrolled pod. Dropping it leaves the kernel's state in place, as a crash would: connections
/// are refused. [`Pod::withdraw`] takes the pod out of the mesh.
pub struct Pod {
    node: Arc<Shared>,
    netns: Netns,
    addresses: Vec<IpAddr>,
    terms: Mutex<Terms>,
    listeners: Option<Listeners>,
    /// The same, to see that they still listen; whoever has taken them closes them.
    sockets: Sockets,
    seen: Mutex<Seen>,
}

/// What a look at a pod has found.
#[derive(Debug, Default)]
pub struct Repaired {
    pub findings: Vec<Finding>,
    /// Why the guard is not everywhere where it should be.
    pub unguarded: Option<KernelError>,
    /// Whether a listener is closed: the pod must be enrolled again.
    pub is_deaf: bool,
}

/// What is decided about a pod beside its addresses, and may change while it is enrolled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terms {
    /// Whatever is not an enrolled caller is refused.
    pub strict: bool,
    /// UDP between the pod and the mesh is refused, both ways.
    pub refuses_udp: bool,
    /// Under which number the ledger knows the pod.
    pub party: Party,
}

/// The agent's listeners in a pod, one of each family that the pod has.
pub struct Listeners {
    /// Connections that the pod's processes open.
    pub outbound: Vec<Arc<TcpListener>>,
    /// Connections that arrive from enrolled callers.
    pub inbound: Vec<Arc<TcpListener>>,
}

/// Dials from inside a pod; the hooks leave these connections alone.
#[derive(Clone)]
pub struct Dialer {
    node: Arc<Shared>,
    netns: Netns,
}

impl Pod {
    /// Order: listeners, what the application listens on, receiving, steering, and the guard last,
    /// since it refuses what is not steered. A pod that can't be guarded is enrolled all the same;
    /// [`Pod::repair`] says why.
    ///
    /// A pod that an earlier agent has enrolled is running while this happens: it stays steered,
    /// and nothing that is known about it is forgotten for a moment.
    pub(crate) fn enroll(
        node: Arc<Shared>,
        netns: &Netns,
        addresses: &[IpAddr],
        terms: Terms,
    ) -> Result<Self, KernelError> {
        netns.check_foreign(netns.path())?;
        let addresses: Vec<IpAddr> = addresses.iter().map(IpAddr::to_canonical).collect();
        let workload = enrollment(&addresses, terms)?;
        let (listeners, sockets) = listen(&node, netns, &addresses)?;
        sysctl::set(netns, &node.notes).map_err(KernelError::in_netns(netns, SYSCTL))?;
        watch_ports(&node.maps, netns, workload)?;
        for ip in &addresses {
            node.maps.set_receiver(maps::address(*ip), receiver(netns, terms))?;
        }
        node.attach_lookup(netns, terms.strict)?;
        node.maps.set_workload(netns.cookie(), workload)?;
        let (listeners, terms) = (Some(listeners), Mutex::new(terms));
        let seen = Seen::new(netns).map_err(KernelError::in_netns(netns, "watching interfaces"))?;
        let netns = netns.clone();
        let seen = Mutex::new(seen);
        let pod = Self { node, netns, addresses, terms, listeners, sockets, seen };
        pod.guard_anew()?;
        Ok(pod)
    }

    /// An earlier agent's guard goes on until ours is in its place.
    fn guard_anew(&self) -> Result<(), KernelError> {
        let (maps, netns) = (&self.node.maps, self.netns.cookie());
        maps.open_plain(netns)?;
        if maps.guarded(netns).is_empty() {
            closing::note_older(&self.node, &self.netns)?;
        }
        let mut seen = self.seen();
        let generation = self.node.generation();
        guard::renew(&self.node, &self.netns, self.guarded()?, &mut seen, generation)
    }

    /// Which interface can't be guarded, as far as is known.
    pub fn unguarded(&self) -> Option<KernelError> {
        guard::problem(&self.seen())
    }

    /// Puts the guard wherever it is missing: at interfaces that are new, or where somebody has
    /// detached it. An error says which interface has none.
    pub fn keep_guard(&self) -> Result<(), KernelError> {
        let mut seen = self.seen();
        let findings =
            guard::keep(&self.node, &self.netns, self.guarded()?, &mut seen, &self.node.look()?)?;
        let problem = findings.into_iter().find_map(|finding| finding.problem);
        problem.or_else(|| guard::problem(&seen)).map_or(Ok(()), Err)
    }

    fn guarded(&self) -> Result<Guarded, KernelError> {
        let terms = *self.terms();
        let Enrollment { v4, v6, party, .. } = enrollment(&self.addresses, terms)?;
        let (strict, refuses_udp) = (terms.strict.into(), terms.refuses_udp.into());
        let netns = self.netns.cookie();
        Ok(Guarded { netns, v4, v6, netns_id: 0, strict, refuses_udp, padding: 0, party })
    }

    /// Compares what belongs to the pod with the kernel, and puts back what is not there. The
    /// entries of maps are [`crate::Node::repair`]'s.
    pub fn repair(&self, look: &Look) -> Repaired {
        let mut repaired = Repaired::default();
        let mut seen = self.seen();
        let kept = self
            .guarded()
            .and_then(|guarded| guard::keep(&self.node, &self.netns, guarded, &mut seen, look));
        let unguarded = match kept {
            Ok(findings) => {
                repaired.findings.extend(findings);
                guard::problem(&seen)
            }
            Err(problem) => Some(problem),
        };
        repaired.unguarded = unguarded;
        let attached = self.node.wrong_lookup(&self.netns, self.is_strict());
        repaired.findings.extend(or_unknown(attached.map(|wrong| self.repair_lookup(wrong))));
        repaired.findings.extend(or_unknown(self.repair_sysctl()));
        repaired.findings.extend(or_unknown(self.repair_quota()));
        self.repair_listeners(look, &mut repaired);
        repaired
    }

    fn repair_lookup(&self, wrong: Option<RepairKind>) -> Vec<Finding> {
        let finding = |kind| {
            let what = match kind {
                RepairKind::Program => "was replaced by another program",
                _ => "was detached",
            };
            let what = format!("the sk_lookup program of {} {what}", self.netns.path().display());
            let repaired = self.node.attach_lookup(&self.netns, self.is_strict());
            Finding::new(kind, what, repaired)
        };
        wrong.map(finding).into_iter().collect()
    }

    fn repair_sysctl(&self) -> Result<Vec<Finding>, KernelError> {
        let failed = KernelError::in_netns(&self.netns, SYSCTL);
        if sysctl::is_set(&self.netns).map_err(&failed)? {
            return Ok(Vec::new());
        }
        let what = format!("net.ipv4.tcp_tw_reuse of {} was changed", self.netns.path().display());
        let repaired = sysctl::set(&self.netns, &self.node.notes).map_err(failed);
        Ok(vec![Finding::new(RepairKind::Sysctl, what, repaired)])
    }

    /// Without its numbers everything that needs them is refused.
    fn repair_quota(&self) -> Result<Vec<Finding>, KernelError> {
        let (maps, cookie) = (&self.node.maps, self.netns.cookie());
        if maps.used(cookie)?.is_some() {
            return Ok(Vec::new());
        }
        let what = format!("USED: the entry {cookie} was removed");
        Ok(vec![Finding::new(RepairKind::Entry, what, maps.open_quota(cookie))])
    }

    /// A listener that somebody has closed can't be put back: only a new enrollment makes others.
    fn repair_listeners(&self, look: &Look, repaired: &mut Repaired) {
        let maps = &self.node.maps;
        for (key, socket) in self.listening() {
            let of = self.netns.path().display();
            // The map may still hold a socket that listens no more.
            let is_open = SockRef::from(&*socket).is_listener().unwrap_or(false);
            let what = match (is_open && look.listeners.contains(&key), maps.is_marked(&*socket)) {
                (true, true) => continue,
                (false, _) => format!("a listener of the agent's in {of} was closed or removed"),
                (true, false) => format!("a listener in {of} was not marked as the agent's"),
            };
            let again = match is_open {
                true => {
                    maps.set_dial(&*socket, None).and_then(|()| maps.set_listener(key, &*socket))
                }
                false => Err(KernelError::ListenerClosed),
            };
            repaired.is_deaf |= again.is_err();
            repaired.findings.push(Finding::new(RepairKind::Listener, what, again));
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // After a panic the interfaces are read again: the generation is set last.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn terms(&self) -> MutexGuard<'_, Terms> {
        // Every change is one assignment.
        self.terms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_strict(&self) -> bool {
        self.terms().strict
    }

    /// The listeners; they can be taken once.
    pub fn take_listeners(&mut self) -> Option<Listeners> {
        self.listeners.take()
    }

    pub fn dialer(&self) -> Dialer {
        Dialer { node: self.node.clone(), netns: self.netns.clone() }
    }

    pub fn set_terms(&self, terms: Terms) -> Result<(), KernelError> {
        self.node.attach_lookup(&self.netns, terms.strict)?;
        let receiver = receiver(&self.netns, terms);
        let set = |ip: &IpAddr| self.node.maps.set_receiver(maps::address(*ip), receiver);
        self.addresses.iter().try_for_each(set)?;
        let workload = enrollment(&self.addresses, terms)?;
        self.node.maps.set_workload(self.netns.cookie(), workload)?;
        *self.terms() = terms;
        match self.keep_guard() {
            // The rest of the pod has changed.
            Err(KernelError::NotGuarded { .. }) => Ok(()),
            guarded => guarded,
        }
    }

    /// Ends the connections that the pod must not have, until it has none. To be called after the
    /// pod was enrolled or has become strict, and after others became members.
    pub fn close_plaintext(&self) -> Result<Closing, KernelError> {
        // Without a guard's notes nobody knows what a permissive pod was allowed.
        match self.is_strict() || self.node.maps.has_plain(self.netns.cookie())? {
            true => closing::close(&self.node, &self.netns, self.is_strict()),
            false => Ok(Closing::default()),
        }
    }

    /// Whether the pod's `sk_lookup` program is attached to its network namespace.
    pub fn is_attached(&self) -> Result<bool, KernelError> {
        Ok(self.node.wrong_lookup(&self.netns, self.is_strict())?.is_none())
    }

    /// Takes the pod out of the mesh: steering ends before anything else. The listeners are the
    /// caller's to close.
    pub fn withdraw(self) -> Result<(), KernelError> {
        let maps = &self.node.maps;
        maps.remove_workload(self.netns.cookie())?;
        guard::detach(&self.node, self.netns.cookie())?;
        self.node.detach_lookup(self.netns.cookie())?;
        for ip in &self.addresses {
            let address = maps::address(*ip);
            maps.remove_receiver(address)?;
            for role in [Role::Outbound, Role::Inbound] {
                maps.remove_listener(&ListenerKey { address, role: role as u32 })?;
            }
        }
        let addresses: Vec<_> = self.addresses.iter().map(|ip| maps::address(*ip)).collect();
        maps.close_quota(self.netns.cookie(), &addresses)?;
        let restored = sysctl::restore(&self.netns, &self.node.notes);
        restored.map_err(KernelError::in_netns(&self.netns, "restoring net.ipv4.tcp_tw_reuse"))
    }

    /// The listeners that are open, as a successor knows them.
    pub(crate) fn listening(&self) -> impl Iterator<Item = (ListenerKey, Arc<TcpListener>)> {
        self.sockets.iter().filter_map(|(key, socket)| Some((*key, socket.upgrade()?)))
    }

    pub(crate) fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }
}

impl Dialer {
    /// Where a connection from the pod's outbound listener wanted to go; `None` if it was not
    /// steered there.
    pub fn origin(&self, accepted: &TcpStream) -> Option<SocketAddr> {
        self.node.maps.origin(accepted)
    }

    /// Connects from inside the pod. The application that accepts it sees `shown_as` as its peer.
    pub async fn connect(
        &self,
        to: SocketAddr,
        shown_as: Option<SocketAddr>,
    ) -> io::Result<TcpStream> {
        let socket = self.netns.run(|| tcp_socket(to.ip()))?;
        self.node.maps.set_dial(&socket, shown_as).map_err(io::Error::other)?;
        let socket = TcpSocket::from_std_stream(socket.into());
        socket.connect(to).await
    }
}

fn tcp_socket(ip: IpAddr) -> io::Result<Socket> {
    let socket = Socket::new(domain(ip), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    Ok(socket)
}

fn domain(ip: IpAddr) -> Domain {
    if ip.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 }
}

fn receiver(netns: &Netns, terms: Terms) -> Receiver {
    let Terms { strict, party, .. } = terms;
    Receiver { netns: netns.cookie(), strict: strict.into(), padding: 0, party }
}

fn enrollment(addresses: &[IpAddr], terms: Terms) -> Result<Enrollment, KernelError> {
    let first = |v4: bool| addresses.iter().find(|ip| ip.is_ipv4() == v4).copied();
    let (v4, v6) = (first(true), first(false));
    if v4.is_none() && v6.is_none() {
        return Err(KernelError::NoAddress);
    }
    let address = |ip: Option<IpAddr>| ip.map_or(Address::UNSPECIFIED, maps::address);
    let (v4, v6) = (address(v4), address(v6));
    Ok(Enrollment { v4, v6, steered: 1, padding: 0, party: terms.party })
}

/// Makes `establish` watch what the application listens on, and reads what it listens on already.
fn watch_ports(maps: &Maps, netns: &Netns, workload: Enrollment) -> Result<(), KernelError> {
    let cookie = netns.cookie();
    let known = maps.workload(cookie);
    maps.open_quota(cookie)?;
    if known.is_none() {
        // What is there is from an enrollment that has ended, during which nobody watched.
        maps.clear_ports(cookie)?;
        maps.set_workload(cookie, Enrollment { steered: 0, ..workload })?;
    }
    let sockets = netns
        .run(listening_here)
        .map_err(KernelError::in_netns(netns, "reading what the application listens on"))?;
    let key = |(bound, port)| ListeningKey::new(cookie, maps::address(bound), port);
    let mut keys: HashSet<ListeningKey> = sockets.into_iter().map(key).collect();
    if known.is_some() {
        // The programs have watched meanwhile: of these sockets they know all but the oldest, and
        // see them end.
        let (found, watched) = (maps.found(cookie), maps.listening(cookie)?);
        keys.retain(|key| found.contains(key) || !watched.contains(key));
    }
    maps.set_found(cookie, &within_quota(netns, keys))
}

/// The lowest ports, if there are more than a pod may have.
fn within_quota(netns: &Netns, keys: HashSet<ListeningKey>) -> HashSet<ListeningKey> {
    let count = keys.len();
    if count <= PORTS as usize {
        return keys;
    }
    tracing::warn!(netns = %netns.path().display(), count, quota = PORTS, "too many ports; enrolled callers reach the lowest only");
    let mut keys: Vec<_> = keys.into_iter().collect();
    keys.sort_unstable_by_key(|key| (key.port, key.bound.words));
    keys.into_iter().take(PORTS as usize).collect()
}

type Sockets = Vec<(ListenerKey, Weak<TcpListener>)>;

fn listen(
    node: &Shared,
    netns: &Netns,
    addresses: &[IpAddr],
) -> Result<(Listeners, Sockets), KernelError> {
    let mut listeners = Listeners { outbound: Vec::new(), inbound: Vec::new() };
    let mut sockets = Vec::new();
    for ip in addresses {
        netns.run(|| owns(*ip)).map_err(|_| KernelError::AddressAbsent(*ip))?;
        for role in [Role::Outbound, Role::Inbound] {
            let failed = KernelError::in_netns(netns, "listening");
            let key = ListenerKey { address: maps::address(*ip), role: role as u32 };
            let socket = match node.inherited.claim(&key, netns) {
                Some(socket) => socket,
                None => netns.run(|| listener(*ip, role)).map_err(&failed)?,
            };
            node.maps.set_dial(&socket, None)?;
            node.maps.set_listener(key, &socket)?;
            let listener = Arc::new(TcpListener::from_std(socket.into()).map_err(failed)?);
            sockets.push((key, Arc::downgrade(&listener)));
            match role {
                Role::Outbound => listeners.outbound.push(listener),
                Role::Inbound => listeners.inbound.push(listener),
            }
        }
    }
    Ok((listeners, sockets))
}

/// Fails unless `ip` is an address of this thread's network namespace.
fn owns(ip: IpAddr) -> io::Result<()> {
    Socket::new(domain(ip), Type::DGRAM, None)?.bind(&SocketAddr::new(ip, 0).into())
}

/// Bound to the loopback address, so that only `sk_lookup` leads anybody from outside here.
fn listener(ip: IpAddr, role: Role) -> io::Result<Socket> {
    let loopback = match ip {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    let socket = tcp_socket(ip)?;
    // What it accepts has the application's port; without this the application could not bind to
    // its port again while lanes are open.
    socket.set_reuse_address(true)?;
    if ip.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // What it accepts inherits its options.
    socket.set_tcp_nodelay(true)?;
    if role == Role::Outbound {
        // An application sees an orderly end only if there was one, also when this process is killed.
        socket.set_linger(Some(Duration::ZERO))?;
    }
    socket.bind(&SocketAddr::new(loopback, 0).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn what_comes_from_applications_inherits_that_it_resets_on_close_and_lanes_do_not() {
        for (role, linger) in [(Role::Outbound, Some(Duration::ZERO)), (Role::Inbound, None)] {
            let listener = listener(Ipv4Addr::LOCALHOST.into(), role).expect("a listener");
            let at = listener.local_addr().ok().and_then(|at| at.as_socket()).expect("its address");
            let _dialed = TcpStream::connect(at).expect("a connection");
            listener.set_nonblocking(false).expect("a socket that waits");
            let (accepted, _) = listener.accept().expect("a connection");
            assert_eq!(accepted.linger().expect("its option"), linger, "{role:?}");
            assert!(accepted.tcp_nodelay().expect("its option"), "{role:?}");
        }
    }
}
