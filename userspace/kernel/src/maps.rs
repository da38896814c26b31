//! The maps as user space writes them, each behind its own lock.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd as _, AsRawFd, BorrowedFd, OwnedFd},
    sync::{Mutex, MutexGuard, PoisonError},
};

use aya::{
    Ebpf,
    maps::{HashMap, HashOfMaps, Map, MapData, MapError, PerCpuArray, SkStorage, SockHash},
};
use martlet_ebpf_shared::{
    Address, Begun, Connection, Dial, Endpoint, Enrollment, Event, Flow, Guarded, ListenerKey,
    ListeningKey, Membership, Published, Receiver, Used,
    ledger::{Pair, Tally},
};
use martlet_model::report::Counter;

use crate::{
    KernelError,
    failure::Life,
    kept::{Kept, gone},
    quotas::{IF_MISSING, existing},
    repair::{self, Finding},
};

/// The names of the maps that outlive an agent; each is pinned under its own.
pub const NAMES: &[&str] = &[
    "WORKLOADS",
    "OUTSIDE",
    "USED",
    "MEMBERS",
    "RECEIVERS",
    "LISTENERS",
    "LISTENING",
    "FOUND",
    "PUBLISHED",
    "PEERS",
    "ORIGINS",
    "DIALS",
    "GUARDED",
    "PLAIN",
    "HOST",
    "LEDGER",
    "REFUSED",
    "ASKING",
    "PROBES",
    "FAILURE",
    "ALIVE",
    "COUNTERS",
];

pub struct Maps {
    workloads: Kept<u64, Enrollment>,
    pub(crate) outside: Kept<u64, u32>,
    pub(crate) used: Mutex<HashMap<MapData, u64, Used>>,
    members: Kept<Address, Membership>,
    receivers: Kept<Address, Receiver>,
    listeners: Mutex<SockHash<MapData, ListenerKey>>,
    listening: Mutex<HashMap<MapData, ListeningKey, u64>>,
    found: Kept<ListeningKey, u64>,
    pub(crate) published: Mutex<HashMap<MapData, Flow, Published>>,
    origins: SkStorage<MapData, Endpoint>,
    dials: Mutex<SkStorage<MapData, Dial>>,
    /// The same map, for asking the kernel which sockets have an entry.
    dials_fd: OwnedFd,
    guarded: Kept<u32, Guarded>,
    pub(crate) plain: Mutex<HashOfMaps<MapData, u64, HashMap<MapData, Connection, Begun>>>,
    host: Mutex<HashMap<MapData, Address, u32>>,
    ledger: Mutex<HashMap<MapData, Pair, Tally>>,
    pub(crate) probes: Kept<Endpoint, u64>,
    pub(crate) failure: Kept<u32, u64>,
    pub(crate) life: Life,
    counters: PerCpuArray<MapData, u64>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A map's handle has no state of its own that a panic could leave half-written.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Maps {
    /// `sign`: a predecessor's sign of life.
    pub fn take(ebpf: &mut Ebpf, sign: Option<OwnedFd>) -> Result<Self, KernelError> {
        macro_rules! take {
            ($name:literal) => {{
                let map = ebpf.take_map($name).ok_or(KernelError::Absent($name))?;
                map.try_into().map_err(KernelError::map($name))?
            }};
        }
        let dials_fd = match ebpf.map("DIALS") {
            Some(Map::SkStorage(map)) => map.fd().as_fd().try_clone_to_owned(),
            _ => return Err(KernelError::Absent("DIALS")),
        };
        let dials_fd = dials_fd.map_err(MapError::IoError).map_err(KernelError::map("DIALS"))?;
        Ok(Self {
            workloads: Kept::take(ebpf, "WORKLOADS")?,
            outside: Kept::take(ebpf, "OUTSIDE")?,
            used: Mutex::new(take!("USED")),
            members: Kept::take(ebpf, "MEMBERS")?,
            receivers: Kept::take(ebpf, "RECEIVERS")?,
            listeners: Mutex::new(take!("LISTENERS")),
            listening: Mutex::new(take!("LISTENING")),
            found: Kept::take(ebpf, "FOUND")?,
            published: Mutex::new(take!("PUBLISHED")),
            origins: take!("ORIGINS"),
            dials: Mutex::new(take!("DIALS")),
            dials_fd,
            guarded: Kept::take(ebpf, "GUARDED")?,
            plain: Mutex::new(take!("PLAIN")),
            host: Mutex::new(take!("HOST")),
            ledger: Mutex::new(take!("LEDGER")),
            probes: Kept::take(ebpf, "PROBES")?,
            failure: Kept::take(ebpf, "FAILURE")?,
            life: Life::begin(ebpf, sign)?,
            counters: take!("COUNTERS"),
        })
    }

    /// Puts back what somebody else has changed in the maps that only the agent writes.
    pub fn repair(&self) -> Vec<Finding> {
        let repaired = [
            self.workloads.repair(),
            self.outside.repair(),
            self.members.repair(),
            self.receivers.repair(),
            self.found.repair(),
            self.guarded.repair(),
            self.probes.repair(),
            self.failure.repair(),
            self.life.repair(),
        ];
        repaired.into_iter().flat_map(repair::or_unknown).collect()
    }

    pub fn set_workload(&self, cookie: u64, workload: Enrollment) -> Result<(), KernelError> {
        self.workloads.set(cookie, workload)
    }

    pub fn remove_workload(&self, cookie: u64) -> Result<(), KernelError> {
        self.workloads.remove(&cookie)
    }

    pub fn workload(&self, cookie: u64) -> Option<Enrollment> {
        self.workloads.wanted(&cookie)
    }

    pub fn workload_cookies(&self) -> Vec<u64> {
        self.workloads.filtered(|_, _| true).into_iter().map(|(cookie, _)| cookie).collect()
    }

    pub fn has_members(&self) -> bool {
        !self.members.filtered(|_, _| true).is_empty()
    }

    /// Makes the members exactly these. New ones are added before old ones are removed.
    pub fn set_members(
        &self,
        members: std::collections::HashMap<Address, Membership>,
    ) -> Result<(), KernelError> {
        self.members.replace(members)
    }

    pub fn set_receiver(&self, address: Address, receiver: Receiver) -> Result<(), KernelError> {
        self.receivers.set(address, receiver)
    }

    pub fn remove_receiver(&self, address: Address) -> Result<(), KernelError> {
        self.receivers.remove(&address)
    }

    pub fn receiver(&self, address: &Address) -> Option<Receiver> {
        self.receivers.wanted(address)
    }

    pub fn receivers(&self) -> Vec<(Address, Receiver)> {
        self.receivers.filtered(|_, _| true)
    }

    pub fn set_listener(
        &self,
        key: ListenerKey,
        listener: &impl AsRawFd,
    ) -> Result<(), KernelError> {
        let mut map = lock(&self.listeners);
        map.insert(key, listener.as_raw_fd(), 0).map_err(KernelError::map("LISTENERS"))
    }

    pub fn remove_listener(&self, key: &ListenerKey) -> Result<(), KernelError> {
        gone(lock(&self.listeners).remove(key)).map_err(KernelError::map("LISTENERS"))
    }

    /// Those that have a socket.
    pub fn listeners(&self) -> Result<HashSet<ListenerKey>, KernelError> {
        let keys: Result<_, _> = lock(&self.listeners).keys().collect();
        keys.map_err(KernelError::map("LISTENERS"))
    }

    /// Where `establish` has seen sockets of a namespace begin to listen.
    pub fn listening(&self, netns: u64) -> Result<HashSet<ListeningKey>, KernelError> {
        keys_of(&lock(&self.listening), netns).map_err(KernelError::map("LISTENING"))
    }

    /// Whether `establish` knows of a socket that takes connections to an address and port.
    pub fn is_listened_to(
        &self,
        netns: u64,
        address: Address,
        port: u16,
    ) -> Result<bool, KernelError> {
        // As in `ebpf/programs/src/lookup.rs`: a socket bound to `::` may take IPv4 too.
        let any4 = address.as_v4().map(|_| Address::UNSPECIFIED_V4);
        let bounds = [Some(Address::UNSPECIFIED), any4, Some(address)];
        let map = lock(&self.listening);
        for bound in bounds.into_iter().flatten() {
            match map.get(&ListeningKey::new(netns, bound, port), 0) {
                Ok(_) => return Ok(true),
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(KernelError::map("LISTENING")(error)),
            }
        }
        Ok(false)
    }

    /// Where sockets of a namespace were found by reading the kernel's table.
    pub fn found(&self, netns: u64) -> HashSet<ListeningKey> {
        let ours = self.found.filtered(|key, _| key.netns == netns);
        ours.into_iter().map(|(key, _)| key).collect()
    }

    /// Makes the found sockets of a namespace exactly these. New ones are added before old ones
    /// are removed.
    pub fn set_found(&self, netns: u64, keys: &HashSet<ListeningKey>) -> Result<(), KernelError> {
        let old = self.found(netns);
        keys.iter().try_for_each(|key| self.found.set(*key, 1))?;
        old.difference(keys).try_for_each(|key| self.found.remove(key))
    }

    /// Forgets all that a namespace listens on.
    pub fn clear_ports(&self, netns: u64) -> Result<(), KernelError> {
        self.set_found(netns, &HashSet::new())?;
        let failed = KernelError::map("LISTENING");
        let mut map = lock(&self.listening);
        let keys = keys_of(&map, netns).map_err(&failed)?;
        keys.iter().try_for_each(|key| gone(map.remove(key)).map_err(&failed))
    }

    /// Forgets all that namespaces other than these listen on.
    pub fn retain_ports(&self, namespaces: &HashSet<u64>) -> Result<(), KernelError> {
        let is_forgotten = |key: &ListeningKey| !namespaces.contains(&key.netns);
        for (key, _) in self.found.filtered(|key, _| is_forgotten(key)) {
            self.found.remove(&key)?;
        }
        let (mut map, failed) = (lock(&self.listening), KernelError::map("LISTENING"));
        let keys: Vec<ListeningKey> = map.keys().collect::<Result<_, _>>().map_err(&failed)?;
        let mut forgotten = keys.iter().filter(|key| is_forgotten(key));
        forgotten.try_for_each(|key| gone(map.remove(key)).map_err(&failed))
    }

    /// Where a connection that the agent accepted wanted to go.
    pub fn origin(&self, socket: &impl AsRawFd) -> Option<SocketAddr> {
        self.origins.get(socket, 0).ok().map(socket_address)
    }

    /// Marks a socket as the agent's own; `shown` is whom its peer shall see.
    pub fn set_dial(
        &self,
        socket: &impl AsRawFd,
        shown: Option<SocketAddr>,
    ) -> Result<(), KernelError> {
        let dial = Dial { shown: shown.map(endpoint).unwrap_or_default(), ..Dial::default() };
        lock(&self.dials).insert(socket, dial, 0).map_err(KernelError::map("DIALS"))
    }

    /// The interfaces at which the pod of a network namespace is guarded.
    pub fn guarded(&self, netns: u64) -> Vec<u32> {
        let ours = self.guarded.filtered(|_, pod| pod.netns == netns);
        ours.into_iter().map(|(interface, _)| interface).collect()
    }

    /// The network namespaces whose pods are guarded.
    pub fn guarded_cookies(&self) -> HashSet<u64> {
        self.guarded.filtered(|_, _| true).into_iter().map(|(_, pod)| pod.netns).collect()
    }

    pub fn set_guarded(&self, interface: u32, pod: Guarded) -> Result<(), KernelError> {
        match self.guarded.wanted(&interface) == Some(pod) {
            true => Ok(()),
            false => self.guarded.set(interface, pod),
        }
    }

    pub fn remove_guarded(&self, interface: u32) -> Result<(), KernelError> {
        self.guarded.remove(&interface)
    }

    /// Whether a socket is marked as the agent's own, and as nothing else.
    pub fn is_marked(&self, socket: &impl AsRawFd) -> bool {
        lock(&self.dials).get(socket, 0).is_ok_and(|dial| dial == Dial::default())
    }

    /// Whether an address is one of the mesh.
    pub fn is_member(&self, address: &Address) -> bool {
        self.members.wanted(address).is_some()
    }

    /// The storage that all sockets of the agent have an entry in.
    pub fn agents_sockets(&self) -> BorrowedFd<'_> {
        self.dials_fd.as_fd()
    }

    /// Makes the node's addresses exactly these.
    pub fn set_host(&self, addresses: &HashSet<Address>) -> Result<(), KernelError> {
        let mut map = lock(&self.host);
        let failed = KernelError::map("HOST");
        let old: HashSet<Address> = map.keys().collect::<Result<_, _>>().map_err(&failed)?;
        for address in addresses.difference(&old) {
            map.insert(address, 1, 0).map_err(&failed)?;
        }
        old.difference(addresses).try_for_each(|old| gone(map.remove(old)).map_err(&failed))
    }

    /// Makes an entry of the ledger if there is none.
    pub fn open_ledger(&self, pair: Pair) -> Result<(), KernelError> {
        let made = lock(&self.ledger).insert(pair, Tally::EMPTY, IF_MISSING);
        existing(made).map_err(KernelError::map("LEDGER"))
    }

    /// Every entry. One that is made meanwhile may be missing, until the next time.
    pub fn ledger(&self) -> Result<Vec<(Pair, Tally)>, KernelError> {
        let map = lock(&self.ledger);
        let failed = KernelError::map("LEDGER");
        let keys: HashSet<Pair> = map.keys().collect::<Result<_, _>>().map_err(&failed)?;
        keys.into_iter().map(|pair| Ok((pair, map.get(&pair, 0).map_err(&failed)?))).collect()
    }

    /// Overwrites an entry that no program adds to.
    pub fn set_tally(&self, pair: Pair, tally: Tally) -> Result<(), KernelError> {
        lock(&self.ledger).insert(pair, tally, 0).map_err(KernelError::map("LEDGER"))
    }

    pub fn remove_tally(&self, pair: Pair) -> Result<(), KernelError> {
        gone(lock(&self.ledger).remove(&pair)).map_err(KernelError::map("LEDGER"))
    }

    pub fn counters(&self) -> Result<Vec<Counter>, KernelError> {
        let read = |event: &Event| {
            let (hook, verdict) = (event.hook().to_owned(), event.verdict().to_owned());
            Ok(Counter { hook, verdict, count: self.counter(*event)? })
        };
        Event::ALL.iter().map(read).collect()
    }

    /// How often the programs have reached a verdict.
    pub fn counter(&self, event: Event) -> Result<u64, KernelError> {
        let values = self.counters.get(&(event as u32), 0).map_err(KernelError::map("COUNTERS"))?;
        Ok(values.iter().sum())
    }
}

fn keys_of(
    map: &HashMap<MapData, ListeningKey, u64>,
    netns: u64,
) -> Result<HashSet<ListeningKey>, MapError> {
    let ours = |key: &Result<ListeningKey, _>| !matches!(key, Ok(key) if key.netns != netns);
    map.keys().filter(ours).collect()
}

pub fn address(ip: IpAddr) -> Address {
    Address::from_octets(match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    })
}

pub fn endpoint(address_and_port: SocketAddr) -> Endpoint {
    Endpoint::new(address(address_and_port.ip()), address_and_port.port())
}

fn socket_address(endpoint: Endpoint) -> SocketAddr {
    let ip = IpAddr::V6(Ipv6Addr::from(endpoint.address.octets())).to_canonical();
    SocketAddr::new(ip, endpoint.port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip_through_the_maps_form() {
        for text in ["10.1.2.3:80", "[fd00::7]:8080"] {
            let known: SocketAddr = text.parse().unwrap();
            assert_eq!(socket_address(endpoint(known)), known);
        }
        let mapped: SocketAddr = "[::ffff:10.1.2.3]:80".parse().unwrap();
        assert_eq!(socket_address(endpoint(mapped)), "10.1.2.3:80".parse().unwrap());
    }
}
