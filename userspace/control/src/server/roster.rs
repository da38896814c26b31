//! What is known about each agent, since this controller started.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use martlet_model::Label;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{AgentState, pace::Pace};
use crate::{Acknowledgement, Usage, limits};

#[derive(Debug, Default)]
pub struct Roster {
    entries: Mutex<BTreeMap<Label, Entry>>,
}

#[derive(Debug)]
struct Entry {
    agent: AgentState,
    /// Of whoever follows now.
    seat: CancellationToken,
    desk: Arc<Desk>,
}

/// What a node may ask for at once.
#[derive(Debug)]
pub struct Desk {
    pub pace: Pace,
    pub streams: Arc<Semaphore>,
    /// The node was expelled.
    pub closed: CancellationToken,
}

/// The place of an agent that follows. There is one for each node: whoever comes later has it.
#[derive(Debug)]
pub struct Seat<'a> {
    roster: &'a Roster,
    node: Label,
    pub taken: CancellationToken,
}

impl Roster {
    fn entries(&self) -> MutexGuard<'_, BTreeMap<Label, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn sit(&self, node: &Label, agent_version: String, now: SystemTime) -> Seat<'_> {
        let mut entries = self.entries();
        let entry = entries.entry(node.clone()).or_insert_with(|| Entry::new(node, now));
        entry.seat.cancel();
        entry.seat = entry.desk.closed.child_token();
        entry.agent.agent_version = agent_version;
        (entry.agent.is_connected, entry.agent.last_seen) = (true, now);
        Seat { roster: self, node: node.clone(), taken: entry.seat.clone() }
    }

    pub fn desk(&self, node: &Label, now: SystemTime) -> Arc<Desk> {
        let mut entries = self.entries();
        entries.entry(node.clone()).or_insert_with(|| Entry::new(node, now)).desk.clone()
    }

    pub fn agents(&self) -> Vec<AgentState> {
        self.entries().values().map(|entry| entry.agent.clone()).collect()
    }

    pub fn expel(&self, node: &Label) {
        if let Some(entry) = self.entries().remove(node) {
            entry.desk.closed.cancel();
        }
    }
}

impl Entry {
    fn new(node: &Label, now: SystemTime) -> Self {
        let agent = AgentState {
            node: node.clone(),
            agent_version: String::new(),
            is_connected: false,
            last_seen: now,
            told: 0,
            acknowledged: Acknowledgement::default(),
            usage: None,
        };
        let closed = CancellationToken::new();
        let pace = Pace::new(limits::ISSUE_BURST, limits::ISSUE_PER_SECOND);
        let streams = Arc::new(Semaphore::new(limits::ISSUE_STREAMS));
        Self { agent, seat: closed.child_token(), desk: Arc::new(Desk { pace, streams, closed }) }
    }
}

impl Seat<'_> {
    fn note(&self, note: impl FnOnce(&mut AgentState)) {
        // Whoever lost the seat has nothing more to say about the node.
        if !self.taken.is_cancelled()
            && let Some(entry) = self.roster.entries().get_mut(&self.node)
        {
            note(&mut entry.agent);
        }
    }

    pub fn told(&self, version: u64) {
        self.note(|agent| agent.told = version);
    }

    pub fn acknowledged(&self, said: Acknowledgement, now: SystemTime) {
        self.note(|agent| (agent.acknowledged, agent.last_seen) = (said, now));
    }

    pub fn uses(&self, usage: Usage, now: SystemTime) {
        self.note(|agent| (agent.usage, agent.last_seen) = (Some(usage), now));
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.note(|agent| agent.is_connected = false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_later_has_the_seat() {
        let (roster, node) = (Roster::default(), "one".parse().unwrap());
        let now = SystemTime::now();
        let first = roster.sit(&node, "1".to_owned(), now);
        let second = roster.sit(&node, "2".to_owned(), now);
        assert!(first.taken.is_cancelled() && !second.taken.is_cancelled());
        first.uses(Usage { oldest_expiry: 9, ..Usage::default() }, now);
        drop(first);
        let [agent] = &roster.agents()[..] else { panic!("one agent") };
        assert!(agent.is_connected && agent.usage.is_none() && agent.agent_version == "2");
        drop(second);
        assert!(!roster.agents()[0].is_connected);
    }

    #[test]
    fn who_is_expelled_loses_everything() {
        let (roster, node) = (Roster::default(), "one".parse().unwrap());
        let now = SystemTime::now();
        let (seat, desk) = (roster.sit(&node, String::new(), now), roster.desk(&node, now));
        roster.expel(&node);
        assert!(seat.taken.is_cancelled() && desk.closed.is_cancelled());
        assert!(roster.agents().is_empty());
        assert!(!roster.sit(&node, String::new(), now).taken.is_cancelled(), "it joined anew");
    }
}
