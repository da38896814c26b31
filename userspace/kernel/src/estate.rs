//! What an agent leaves to its successor while both live: sockets and the hold on the pin directory.
//!
//! Each thing is shared from when it was handed over until one of the two has closed it, so whoever
//! is left has it: there is no moment without, whichever of them dies.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::{Mutex, MutexGuard, PoisonError},
};

use martlet_ebpf_shared::{ListenerKey, Role};
use socket2::{SockRef, Socket};

use crate::{KernelError, Netns, Node, Pod, maps, pins::Hold};

const HOLD: &str = "hold";
const LIFE: &str = "life";
const OUTBOUND: &str = "outbound";
const INBOUND: &str = "inbound";

/// Of an agent that begins alone it is the hold, and nothing of an agent that can't steer.
#[derive(Debug, Default)]
pub struct Estate {
    pub(crate) hold: Option<Hold>,
    pub(crate) life: Option<OwnedFd>,
    pub(crate) listeners: HashMap<ListenerKey, Socket>,
}

impl Estate {
    /// Of an agent that has no predecessor.
    pub fn of(hold: Hold) -> Self {
        Self { hold: Some(hold), ..Self::default() }
    }

    pub fn has_hold(&self) -> bool {
        self.hold.is_some()
    }

    pub fn set_hold(&mut self, hold: Hold) {
        self.hold = Some(hold);
    }

    /// What there is, each with a name by which [`Estate::take`] knows it.
    pub fn pieces(&self) -> Vec<(String, BorrowedFd<'_>)> {
        let hold = self.hold.iter().map(|hold| (HOLD.to_owned(), hold.0.as_fd()));
        let life = self.life.iter().map(|life| (LIFE.to_owned(), life.as_fd()));
        let listeners = self.listeners.iter().map(|(key, socket)| (name(key), socket.as_fd()));
        hold.chain(life).chain(listeners).collect()
    }

    /// Takes a piece; whether its name is known.
    pub fn take(&mut self, name: &str, piece: OwnedFd) -> bool {
        match (name, key(name)) {
            (HOLD, _) => self.hold = Some(Hold(piece)),
            (LIFE, _) => self.life = Some(piece),
            (_, Some(key)) => drop(self.listeners.insert(key, piece.into())),
            _ => return false,
        }
        true
    }
}

/// As `outbound 10.0.0.2`.
fn name(key: &ListenerKey) -> String {
    let role = if key.role == Role::Outbound as u32 { OUTBOUND } else { INBOUND };
    format!("{role} {}", IpAddr::V6(Ipv6Addr::from(key.address.octets())).to_canonical())
}

fn key(name: &str) -> Option<ListenerKey> {
    let (role, address) = name.split_once(' ')?;
    let role = match role {
        OUTBOUND => Role::Outbound,
        INBOUND => Role::Inbound,
        _ => return None,
    };
    Some(ListenerKey { address: maps::address(address.parse().ok()?), role: role as u32 })
}

/// Listeners of a predecessor that no pod was enrolled with yet. What waits in them waits on.
#[derive(Debug)]
pub(crate) struct Inherited(Mutex<HashMap<ListenerKey, Socket>>);

impl Inherited {
    pub fn new(listeners: HashMap<ListenerKey, Socket>) -> Self {
        Self(Mutex::new(listeners))
    }

    /// The listener for an address of a pod, if it is in this namespace and still listens.
    pub fn claim(&self, key: &ListenerKey, netns: &Netns) -> Option<Socket> {
        let socket = self.lock().remove(key)?;
        let listens = SockRef::from(&socket).is_listener().unwrap_or(false);
        (listens && netns.is_of(&socket).unwrap_or(false)).then_some(socket)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ListenerKey, Socket>> {
        // Every change is one removal.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    /// What a successor needs beside what is pinned, with the listeners of these pods.
    pub fn estate<'a>(&self, pods: impl Iterator<Item = &'a Pod>) -> Result<Estate, KernelError> {
        let failed = |source| KernelError::Estate { source };
        let hold = self.pins.copy_of_hold().map_err(failed)?;
        let life = self.shared.maps.life.sign().map_err(failed)?;
        let listening = pods.flat_map(Pod::listening);
        let copy = |(key, listener): (ListenerKey, std::sync::Arc<tokio::net::TcpListener>)| {
            Ok((key, listener.as_fd().try_clone_to_owned().map_err(failed)?.into()))
        };
        let listeners = listening.map(copy).collect::<Result<_, _>>()?;
        Ok(Estate { hold, life, listeners })
    }

    /// The addresses of pods whose listeners a predecessor has left, and which are not enrolled yet.
    pub fn unclaimed(&self) -> Vec<IpAddr> {
        let unclaimed = self.shared.inherited.lock();
        let ip = |key: &ListenerKey| Ipv6Addr::from(key.address.octets());
        let mut found: Vec<_> =
            unclaimed.keys().map(|key| IpAddr::V6(ip(key)).to_canonical()).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Closes the listeners that no pod was enrolled with: what waits there is reset.
    pub fn close_unclaimed(&self) {
        self.shared.inherited.lock().clear();
    }

    /// Another agent has this one's place: its sign of life and its hold are the other's alone.
    pub fn resign(&self) {
        self.stop_living();
        self.pins.let_go();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_known_by_its_name_and_another_one_is_not() {
        for (address, role) in [("10.0.0.2", Role::Outbound), ("fd00::7", Role::Inbound)] {
            let wanted = ListenerKey {
                address: maps::address(address.parse().expect("an address")),
                role: role as u32,
            };
            let name = name(&wanted);
            assert!(name.ends_with(address), "{name}");
            assert!(key(&name) == Some(wanted), "{name}");
        }
        for unknown in ["", "outbound", "outbound web", "sideways 10.0.0.2"] {
            assert!(key(unknown).is_none(), "{unknown}");
        }
        let piece = || std::fs::File::open("/dev/null").expect("a file").into();
        let mut estate = Estate::default();
        assert!(estate.take(HOLD, piece()) && estate.take("inbound 10.0.0.2", piece()));
        assert!(!estate.take("something new", piece()));
        assert_eq!(estate.pieces().len(), 2);
    }
}
