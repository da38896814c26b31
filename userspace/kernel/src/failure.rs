//! What becomes of the agent's connections while no agent lives, and how the programs know that one
//! does: by a socket of its that the kernel takes out of a map when the process ends.

use std::{
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::net::UnixDatagram,
    },
    sync::{Mutex, PoisonError},
};

use aya::{
    Ebpf,
    maps::{MapData, SockHash},
};
use martlet_ebpf_shared::{Event, Failure};
use martlet_model::report::RepairKind;

use crate::{Finding, KernelError, Node};

const ALIVE: &str = "ALIVE";
/// The only key of the map.
const KEY: u32 = 0;

/// Connections that went in plaintext since they should have been the agent's, and none lived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FailedOpen {
    /// Opened by workloads of this node.
    pub opened: u64,
    /// Accepted by them, from workloads of any node.
    pub accepted: u64,
}

impl Node {
    /// Says what becomes of the agent's connections while no agent lives: they pass in plaintext
    /// between permissive workloads, or are refused. The last word holds until the next one, also
    /// of an earlier agent.
    pub fn set_fails_open(&self, fails_open: bool) -> Result<(), KernelError> {
        let failure = &self.shared.maps.failure;
        match fails_open {
            true => failure.set(Failure::OPEN, 1),
            false => failure.remove(&Failure::OPEN),
        }
    }

    /// The connections that went in plaintext and that no agent has been given by this yet.
    pub fn take_failed_open(&self) -> Result<FailedOpen, KernelError> {
        let maps = &self.shared.maps;
        let take = |event, reported| {
            let total = maps.counter(event)?;
            let known = maps.failure.wanted(&reported).unwrap_or(0);
            maps.failure.set(reported, total)?;
            Ok(total.saturating_sub(known))
        };
        Ok(FailedOpen {
            opened: take(Event::ConnectFailedOpen, Failure::OPENED_REPORTED)?,
            accepted: take(Event::LookupFailedOpen, Failure::ACCEPTED_REPORTED)?,
        })
    }

    /// From now on this process is no living agent for the programs, unless it has a successor that
    /// shows the same sign. To be called when its listeners are closed; the process's end does the
    /// same.
    pub fn stop_living(&self) {
        self.shared.maps.life.end();
    }
}

/// The sign of life.
pub(crate) struct Life(Mutex<Inner>);

struct Inner {
    map: SockHash<MapData, u32>,
    /// Neither bound nor connected: nothing can reach it.
    socket: Option<OwnedFd>,
}

impl Life {
    /// From now on the programs know that an agent lives: by the sign of a predecessor, which they
    /// see without a moment in between, or by one of its own.
    pub fn begin(ebpf: &mut Ebpf, sign: Option<OwnedFd>) -> Result<Self, KernelError> {
        let map = ebpf.take_map(ALIVE).ok_or(KernelError::Absent(ALIVE))?;
        let map = map.try_into().map_err(KernelError::map(ALIVE))?;
        let failed = |source| KernelError::ReadMap { map: ALIVE, source };
        let own = || Ok(UnixDatagram::unbound().map_err(failed)?.into());
        let socket = Some(sign.map_or_else(own, Ok)?);
        let mut inner = Inner { map, socket };
        inner.show()?;
        Ok(Self(Mutex::new(inner)))
    }

    /// A copy of the sign; `None` if this agent lives no more.
    pub fn sign(&self) -> io::Result<Option<OwnedFd>> {
        self.with(|inner| inner.socket.as_ref().map(OwnedFd::try_clone).transpose())
    }

    fn end(&self) {
        self.with(|inner| inner.socket = None);
    }

    /// Shows the sign again if somebody has removed it.
    pub fn repair(&self) -> Result<Vec<Finding>, KernelError> {
        self.with(|inner| {
            let is_shown = inner.map.keys().next().transpose().map_err(KernelError::map(ALIVE))?;
            if is_shown.is_some() || inner.socket.is_none() {
                return Ok(Vec::new());
            }
            let what = format!("{ALIVE}: the agent's socket was removed");
            Ok(vec![Finding::new(RepairKind::Entry, what, inner.show())])
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        // There is nothing that a panic could leave half-written.
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Inner {
    fn show(&mut self) -> Result<(), KernelError> {
        let Some(socket) = &self.socket else { return Ok(()) };
        self.map.insert(KEY, socket.as_raw_fd(), 0).map_err(KernelError::map(ALIVE))
    }
}
