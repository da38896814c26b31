//! The maps as user space writes them, each behind its own lock.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd,
    sync::{Mutex, MutexGuard, PoisonError},
};

use aya::{
    Ebpf,
    maps::{HashMap, HashOfMaps, MapData, MapError, PerCpuArray, SkStorage, SockHash},
};
use martlet_ebpf_shared::{
    Address, Connection, Dial, Endpoint, Enrollment, Event, Flow, Guarded, ListenerKey,
    ListeningKey, Published, Receiver, Used,
};
use martlet_model::report::Counter;

use crate::{KernelError, outside::Outside};

/// The names of all maps; each is pinned under its own.
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
    "COUNTERS",
];

pub struct Maps {
    workloads: Mutex<HashMap<MapData, u64, Enrollment>>,
    pub(crate) outside: Outside,
    pub(crate) used: Mutex<HashMap<MapData, u64, Used>>,
    members: Mutex<HashMap<MapData, Address, u32>>,
    receivers: Mutex<HashMap<MapData, Address, Receiver>>,
    listeners: Mutex<SockHash<MapData, ListenerKey>>,
    listening: Mutex<HashMap<MapData, ListeningKey, u64>>,
    found: Mutex<HashMap<MapData, ListeningKey, u64>>,
    pub(crate) published: Mutex<HashMap<MapData, Flow, Published>>,
    origins: SkStorage<MapData, Endpoint>,
    dials: Mutex<SkStorage<MapData, Dial>>,
    guarded: Mutex<HashMap<MapData, u32, Guarded>>,
    pub(crate) plain: Mutex<HashOfMaps<MapData, u64, HashMap<MapData, Connection, u32>>>,
    counters: PerCpuArray<MapData, u64>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A map's handle has no state of its own that a panic could leave half-written.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An entry that is not there is as good as removed.
pub(crate) fn gone(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        other => other,
    }
}

impl Maps {
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        macro_rules! take {
            ($name:literal) => {{
                let map = ebpf.take_map($name).ok_or(KernelError::Absent($name))?;
                map.try_into().map_err(KernelError::map($name))?
            }};
        }
        Ok(Self {
            workloads: Mutex::new(take!("WORKLOADS")),
            outside: Outside::new(take!("OUTSIDE")),
            used: Mutex::new(take!("USED")),
            members: Mutex::new(take!("MEMBERS")),
            receivers: Mutex::new(take!("RECEIVERS")),
            listeners: Mutex::new(take!("LISTENERS")),
            listening: Mutex::new(take!("LISTENING")),
            found: Mutex::new(take!("FOUND")),
            published: Mutex::new(take!("PUBLISHED")),
            origins: take!("ORIGINS"),
            dials: Mutex::new(take!("DIALS")),
            guarded: Mutex::new(take!("GUARDED")),
            plain: Mutex::new(take!("PLAIN")),
            counters: take!("COUNTERS"),
        })
    }

    pub fn set_workload(&self, cookie: u64, workload: Enrollment) -> Result<(), KernelError> {
        let mut map = lock(&self.workloads);
        map.insert(cookie, workload, 0).map_err(KernelError::map("WORKLOADS"))
    }

    pub fn remove_workload(&self, cookie: u64) -> Result<(), KernelError> {
        gone(lock(&self.workloads).remove(&cookie)).map_err(KernelError::map("WORKLOADS"))
    }

    pub fn workload(&self, cookie: u64) -> Result<Option<Enrollment>, KernelError> {
        match lock(&self.workloads).get(&cookie, 0) {
            Ok(workload) => Ok(Some(workload)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(KernelError::map("WORKLOADS")(error)),
        }
    }

    pub fn workload_cookies(&self) -> Result<Vec<u64>, KernelError> {
        let keys: Result<_, _> = lock(&self.workloads).keys().collect();
        keys.map_err(KernelError::map("WORKLOADS"))
    }

    /// Makes the members exactly these. New ones are added before old ones are removed.
    pub fn set_members(
        &self,
        members: std::collections::HashMap<Address, u32>,
    ) -> Result<(), KernelError> {
        let mut map = lock(&self.members);
        let failed = KernelError::map("MEMBERS");
        let old: Vec<Address> = map.keys().collect::<Result<_, _>>().map_err(&failed)?;
        for (address, member) in &members {
            map.insert(address, member, 0).map_err(&failed)?;
        }
        for address in old.iter().filter(|address| !members.contains_key(*address)) {
            gone(map.remove(address)).map_err(&failed)?;
        }
        Ok(())
    }

    pub fn set_receiver(
        &self,
        address: Address,
        netns: u64,
        strict: bool,
    ) -> Result<(), KernelError> {
        let receiver = Receiver { netns, strict: strict.into(), padding: 0 };
        let mut map = lock(&self.receivers);
        map.insert(address, receiver, 0).map_err(KernelError::map("RECEIVERS"))
    }

    pub fn remove_receiver(&self, address: Address) -> Result<(), KernelError> {
        gone(lock(&self.receivers).remove(&address)).map_err(KernelError::map("RECEIVERS"))
    }

    pub fn receivers(&self) -> Result<Vec<(Address, Receiver)>, KernelError> {
        let entries: Result<_, _> = lock(&self.receivers).iter().collect();
        entries.map_err(KernelError::map("RECEIVERS"))
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

    /// Where `establish` has seen sockets of a namespace begin to listen.
    pub fn listening(&self, netns: u64) -> Result<HashSet<ListeningKey>, KernelError> {
        keys_of(&lock(&self.listening), netns).map_err(KernelError::map("LISTENING"))
    }

    /// Where sockets of a namespace were found by reading the kernel's table.
    pub fn found(&self, netns: u64) -> Result<HashSet<ListeningKey>, KernelError> {
        keys_of(&lock(&self.found), netns).map_err(KernelError::map("FOUND"))
    }

    /// Makes the found sockets of a namespace exactly these. New ones are added before old ones
    /// are removed.
    pub fn set_found(&self, netns: u64, keys: &HashSet<ListeningKey>) -> Result<(), KernelError> {
        let mut map = lock(&self.found);
        let failed = KernelError::map("FOUND");
        let old = keys_of(&map, netns).map_err(&failed)?;
        for key in keys {
            map.insert(key, 1, 0).map_err(&failed)?;
        }
        old.difference(keys).try_for_each(|key| gone(map.remove(key)).map_err(&failed))
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
        for (map, name) in [(&self.listening, "LISTENING"), (&self.found, "FOUND")] {
            let (mut map, failed) = (lock(map), KernelError::map(name));
            let keys: Vec<ListeningKey> = map.keys().collect::<Result<_, _>>().map_err(&failed)?;
            for key in keys.iter().filter(|key| !namespaces.contains(&key.netns)) {
                gone(map.remove(key)).map_err(&failed)?;
            }
        }
        Ok(())
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
        let dial = Dial { shown: shown.map(endpoint).unwrap_or_default() };
        lock(&self.dials).insert(socket, dial, 0).map_err(KernelError::map("DIALS"))
    }

    /// The interfaces at which the pod of a network namespace is guarded.
    pub fn guarded(&self, netns: u64) -> Result<Vec<u32>, KernelError> {
        let map = lock(&self.guarded);
        let ours = map.iter().filter_map(|entry| match entry {
            Ok((index, pod)) => (pod.netns == netns).then_some(Ok(index)),
            Err(error) => Some(Err(error)),
        });
        ours.collect::<Result<_, _>>().map_err(KernelError::map("GUARDED"))
    }

    /// The network namespaces whose pods are guarded.
    pub fn guarded_cookies(&self) -> Result<HashSet<u64>, KernelError> {
        let pods: Result<_, _> =
            lock(&self.guarded).iter().map(|entry| entry.map(|(_, pod)| pod.netns)).collect();
        pods.map_err(KernelError::map("GUARDED"))
    }

    pub fn set_guarded(&self, interface: u32, pod: Guarded) -> Result<(), KernelError> {
        let mut map = lock(&self.guarded);
        map.insert(interface, pod, 0).map_err(KernelError::map("GUARDED"))
    }

    pub fn remove_guarded(&self, interface: u32) -> Result<(), KernelError> {
        gone(lock(&self.guarded).remove(&interface)).map_err(KernelError::map("GUARDED"))
    }

    pub fn counters(&self) -> Result<Vec<Counter>, KernelError> {
        let read = |event: &Event| {
            let values = self.counters.get(&(*event as u32), 0)?;
            Ok(Counter {
                hook: event.hook().to_owned(),
                verdict: event.verdict().to_owned(),
                count: values.iter().sum(),
            })
        };
        let counters: Result<_, _> = Event::ALL.iter().map(read).collect();
        counters.map_err(KernelError::map("COUNTERS"))
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

fn endpoint(address_and_port: SocketAddr) -> Endpoint {
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
