//! What was encrypted and what was not: the kernel's ledger, with names.
//!
//! The numbers stay in the kernel, where they only ever grow, and outlive the agent. What the agent
//! adds is the names, and room for new pairs: it looks every [`COVERAGE_INTERVAL`].

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use martlet_identity::fingerprint;
use martlet_kernel::{Class, Column, KernelError, Node, Pair, Party, Tally, Terms};
use martlet_model::{
    Directory, Label, LocalWorkload, Mode, Udp, WorkloadName,
    coverage::{Counterpart, Coverage, Datagrams, PairReport, Stream},
};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    limits::{COVERAGE_INTERVAL, GONE_FOR, LEDGER_HIGH, LEDGER_LOW},
    reports::Shared,
    workloads::chain,
};

/// What the kernel is told about a workload of this node.
pub fn terms(local: &LocalWorkload) -> Terms {
    Terms {
        strict: local.workload.mode == Mode::Strict,
        refuses_udp: local.udp == Udp::Refuse,
        party: party(&local.workload.name),
    }
}

/// The number of a workload is made of its name alone, so that an agent that starts knows what an
/// earlier one has counted. To find two names with one number takes 2^31 attempts, and to find one
/// for the name of somebody else 2^63.
pub fn party(name: &WorkloadName) -> Party {
    let digest = fingerprint(name.to_string().as_bytes());
    let number = digest.get(..16).and_then(|digits| u64::from_str_radix(digits, 16).ok());
    Party::workload(number.expect("SHA-256 has more than 16 hexadecimal digits"))
}

/// The names behind the numbers: of all workloads of the directory, and of those that are gone
/// while the ledger still knows them.
#[derive(Default)]
pub struct Names {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    names: HashMap<Party, WorkloadName>,
    /// Since when the directory has not named them.
    gone: HashMap<Party, Instant>,
}

impl Names {
    fn lock(&self) -> MutexGuard<'_, Known> {
        // What is half done is done again at the next look.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the node has counted, by name.
    pub fn report(&self, node: &Label, kernel: &Node, directory: &Directory) -> Coverage {
        let entries = kernel.ledger().unwrap_or_else(|error| {
            warn!(error = chain(&error), "the ledger cannot be read");
            Vec::new()
        });
        let mut known = self.lock();
        known.learn(directory, &entries, Instant::now());
        let used = entries.into_iter().filter(|(_, tally)| *tally != Tally::EMPTY);
        let mut pairs: Vec<_> = used.map(|(pair, tally)| known.pair(pair, &tally)).collect();
        pairs.sort_by(|one, other| (&one.from, &one.to).cmp(&(&other.from, &other.to)));
        Coverage { node: node.clone(), pairs }
    }

    /// Learns names while they are to be had, and makes room before it gets short.
    fn look_after(&self, kernel: &Node, directory: &Directory) -> Result<(), KernelError> {
        kernel.keep_own_addresses()?;
        let entries = kernel.ledger()?;
        let leaving = {
            let mut known = self.lock();
            let now = Instant::now();
            known.learn(directory, &entries, now);
            known.leaving(&entries, now)
        };
        if !leaving.is_empty() {
            info!(pairs = leaving.len(), "pairs of workloads that are gone made room");
            kernel.close_accounts(&leaving)?;
        }
        Ok(())
    }
}

impl Known {
    fn learn(&mut self, directory: &Directory, entries: &[(Pair, Tally)], now: Instant) {
        let present: HashMap<_, _> = directory
            .workload_addresses()
            .map(|(_, workload)| (party(&workload.name), &workload.name))
            .collect();
        let counted: HashSet<_> =
            entries.iter().flat_map(|(pair, _)| [pair.from, pair.to]).collect();
        self.names.retain(|party, _| counted.contains(party));
        self.names.extend(present.iter().map(|(party, name)| (*party, (*name).clone())));
        let is_gone = |party: &Party| party.is_workload() && !present.contains_key(party);
        self.gone.retain(|party, _| is_gone(party) && counted.contains(party));
        for party in counted.into_iter().filter(is_gone) {
            self.gone.entry(party).or_insert(now);
        }
    }

    /// Pairs that can go, those that are gone for longest first; none while there is room. Nothing
    /// that a workload's connections still carry can arrive for a pair that goes.
    fn leaving(&self, entries: &[(Pair, Tally)], now: Instant) -> Vec<Pair> {
        if entries.len() < LEDGER_HIGH {
            return Vec::new();
        }
        let since = |pair: &Pair| {
            [pair.from, pair.to].iter().filter_map(|party| self.gone.get(party)).min().copied()
        };
        let mut gone: Vec<_> = entries
            .iter()
            .filter_map(|(pair, _)| Some((since(pair)?, *pair)))
            .filter(|(since, _)| now.saturating_duration_since(*since) >= GONE_FOR)
            .collect();
        gone.sort_unstable();
        gone.into_iter().map(|(_, pair)| pair).take(entries.len() - LEDGER_LOW).collect()
    }

    fn pair(&self, pair: Pair, tally: &Tally) -> PairReport {
        let stream = |column| {
            let amount = tally.of(column);
            Stream { bytes: amount.bytes, connections: amount.units }
        };
        let datagrams = |column| {
            let amount = tally.of(column);
            Datagrams { bytes: amount.bytes, packets: amount.units }
        };
        PairReport {
            from: self.counterpart(pair.from),
            to: self.counterpart(pair.to),
            mtls: stream(Column::Mtls),
            plaintext: stream(Column::Plain),
            refused: stream(Column::Refused),
            unseen: stream(Column::Unseen),
            other: datagrams(Column::OtherPassed),
            other_refused: datagrams(Column::OtherRefused),
        }
    }

    fn counterpart(&self, party: Party) -> Counterpart {
        if party.is_workload() {
            let name = self.names.get(&party).cloned();
            return name.map_or(Counterpart::FormerWorkload, Counterpart::Workload);
        }
        match Class::ALL.into_iter().find(|class| Party::class(*class) == party) {
            Some(Class::Others) => Counterpart::Others,
            Some(Class::Node) => Counterpart::Node,
            Some(Class::Private) => Counterpart::Private,
            Some(Class::LinkLocal) => Counterpart::LinkLocal,
            Some(Class::Multicast) => Counterpart::Multicast,
            Some(Class::Public) => Counterpart::Public,
            Some(Class::Service) => Counterpart::Service,
            Some(Class::Gone) => Counterpart::Gone,
            Some(Class::Unknown) | None => Counterpart::Unknown,
        }
    }
}

/// Looks after the ledger until `shutdown`.
pub async fn run(shared: Arc<Shared>, shutdown: CancellationToken) {
    let mut ticks = interval(COVERAGE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        let shared = shared.clone();
        // It may be tens of thousands of system calls.
        let looking = tokio::task::spawn_blocking(move || {
            let Some(node) = shared.node.get() else { return };
            let directory = shared.view.load().directory.clone();
            if let Err(error) = shared.names.look_after(node, &directory) {
                warn!(error = chain(&error), "the ledger was not looked after");
            }
        });
        if looking.await.is_err() {
            warn!("looking after the ledger broke off");
        }
    }
}

#[cfg(test)]
mod tests;
