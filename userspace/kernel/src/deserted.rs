//! Ports of workloads on which nobody listens any more, as `establish` tells it. Lanes that stand
//! there would keep the application from listening again.

use std::{collections::HashSet, io, net::SocketAddr};

use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
};
use martlet_ebpf_shared::ListeningKey;
use tokio::io::{Interest, unix::AsyncFd};

use crate::{KernelError, Node, maps};

const MAP: &str = "DESERTED";

pub(crate) type Ring = RingBuf<MapData>;

/// The reading end, one for each loaded set of programs.
pub struct Desertions(AsyncFd<Ring>);

/// A port on which the last socket of an address has ended. Somebody may have begun to listen there
/// since: [`Node::is_deserted`] knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Desertion {
    netns: u64,
    port: u16,
}

pub(crate) fn ring(ebpf: &mut Ebpf) -> Result<Ring, KernelError> {
    let map = ebpf.take_map(MAP).ok_or(KernelError::Absent(MAP))?;
    map.try_into().map_err(KernelError::map(MAP))
}

impl Desertions {
    /// Within a tokio runtime.
    fn open(ring: Ring) -> Result<Self, KernelError> {
        #[allow(unsafe_code)]
        // SAFETY: the ring owns its fd and nothing closes or replaces it while it lives. Safe code
        // could only do this by a deprecated function.
        let registered = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        registered.map(Self).map_err(|error| failed(error.into()))
    }

    /// Waits until something is told, and gives all that is, each port once.
    pub async fn next(&mut self) -> Result<HashSet<Desertion>, KernelError> {
        let mut ready = self.0.readable_mut().await.map_err(failed)?;
        let ring = ready.get_inner_mut();
        let mut told = HashSet::new();
        while let Some(item) = ring.next() {
            told.extend(Desertion::read(&item));
        }
        ready.clear_ready();
        Ok(told)
    }
}

fn failed(source: io::Error) -> KernelError {
    KernelError::ReadMap { map: MAP, source }
}

impl Desertion {
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A [`ListeningKey`], as the program has written it. Where it listened does not matter.
    fn read(bytes: &[u8]) -> Option<Self> {
        const _: () = assert!(size_of::<ListeningKey>() == 32, "the offsets below are its fields'");
        let netns = u64::from_ne_bytes(bytes.get(..8)?.try_into().ok()?);
        let port = u32::from_ne_bytes(bytes.get(24..28)?.try_into().ok()?);
        Some(Self { netns, port: u16::try_from(port).ok()? })
    }
}

impl Node {
    /// What `establish` tells of ports, to be taken once and within a tokio runtime.
    pub fn take_desertions(&mut self) -> Result<Option<Desertions>, KernelError> {
        self.desertions.take().map(Desertions::open).transpose()
    }

    /// Whether an address with this port is one of the workload's, and no socket that `establish`
    /// knows takes connections to it.
    pub fn is_deserted(&self, port: &Desertion, at: SocketAddr) -> Result<bool, KernelError> {
        let (maps, address) = (&self.shared.maps, maps::address(at.ip().to_canonical()));
        let receiver = maps.receiver(&address);
        let is_there = at.port() == port.port && receiver.is_some_and(|r| r.netns == port.netns);
        Ok(is_there && !maps.is_listened_to(port.netns, address, port.port)?)
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn a_port_is_read_as_the_program_writes_it_and_nothing_else_is() {
        assert_eq!((offset_of!(ListeningKey, netns), offset_of!(ListeningKey, port)), (0, 24));
        let mut bytes = [0; size_of::<ListeningKey>()];
        bytes[..8].copy_from_slice(&7_u64.to_ne_bytes());
        bytes[24..28].copy_from_slice(&8080_u32.to_ne_bytes());
        assert_eq!(Desertion::read(&bytes), Some(Desertion { netns: 7, port: 8080 }));
        assert_eq!(Desertion::read(&bytes[..24]), None);
        bytes[24..28].copy_from_slice(&70_000_u32.to_ne_bytes());
        assert_eq!(Desertion::read(&bytes), None);
    }
}
