//! The ledger as user space reads it: who sent how much to whom, and how it was protected.
//!
//! The numbers stay in the kernel, where they only ever grow: reading takes nothing away, and they
//! outlive the agent.

use std::{collections::HashSet, io, net::IpAddr};

use martlet_ebpf_shared::ledger::{Pair, Tally};
use nix::ifaddrs::getifaddrs;

use crate::{KernelError, Node, maps};

impl Node {
    /// Every entry of the ledger.
    pub fn ledger(&self) -> Result<Vec<(Pair, Tally)>, KernelError> {
        self.shared.maps.ledger()
    }

    /// Removes entries, and adds what was counted in them to the one of what is gone. To be called
    /// only for pairs that no packet has any more.
    pub fn close_accounts(&self, pairs: &[Pair]) -> Result<(), KernelError> {
        let maps = &self.shared.maps;
        let entries = maps.ledger()?;
        let of = |wanted: Pair| entries.iter().find(|(pair, _)| *pair == wanted);
        let mut gone = of(Pair::GONE).map(|(_, tally)| *tally).unwrap_or_default();
        let closing: HashSet<_> = pairs.iter().filter(|pair| **pair != Pair::OTHERS).collect();
        let closing: Vec<_> = entries.iter().filter(|(pair, _)| closing.contains(pair)).collect();
        for (_, tally) in &closing {
            gone.add(tally);
        }
        // Killed between the two, the agent rather counts twice than not at all.
        maps.set_tally(Pair::GONE, gone)?;
        closing.iter().try_for_each(|(pair, _)| maps.remove_tally(*pair))
    }

    /// Reads which addresses the node itself has now, so that the ledger can tell them.
    pub fn keep_own_addresses(&self) -> Result<(), KernelError> {
        let host = &self.shared.host;
        let addresses = host
            .run(own_addresses)
            .map_err(KernelError::in_netns(host, "reading its addresses"))?;
        self.shared.maps.set_host(&addresses.into_iter().map(maps::address).collect())
    }
}

/// The addresses of this thread's network namespace, but for those of the loopback network.
fn own_addresses() -> io::Result<HashSet<IpAddr>> {
    let interfaces = getifaddrs().map_err(io::Error::from)?;
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    });
    Ok(addresses.filter(|address| !address.is_loopback()).collect())
}
