//! What is known about each agent, since this controller started.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use martlet_model::{Label, WorkloadName};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{AgentState, pace::Pace};
use crate::{
    Acknowledgement, Standing, Usage, limits,
    message::{Malformed, Standings},
};

#[derive(Debug, Default)]
pub struct Roster {
    entries: Mutex<BTreeMap<Label, Entry>>,
    /// Of which workloads something was said that was not asked for yet.
    news: Mutex<BTreeSet<(Label, WorkloadName)>>,
}

#[derive(Debug)]
struct Entry {
    agent: AgentState,
    standings: BTreeMap<WorkloadName, Standing>,
    /// Those of which whoever follows now has said nothing, until it has said all.
    unconfirmed: Option<BTreeSet<WorkloadName>>,
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
        entry.unconfirmed = Some(entry.standings.keys().cloned().collect());
        // What an earlier process had in effect says nothing about this one.
        entry.agent.ready_since = None;
        Seat { roster: self, node: node.clone(), taken: entry.seat.clone() }
    }

    pub fn desk(&self, node: &Label, now: SystemTime) -> Arc<Desk> {
        let mut entries = self.entries();
        entries.entry(node.clone()).or_insert_with(|| Entry::new(node, now)).desk.clone()
    }

    pub fn agents(&self) -> Vec<AgentState> {
        self.entries().values().map(|entry| entry.agent.clone()).collect()
    }

    /// Of which workloads something else is said since this was asked last.
    pub fn heard(&self) -> BTreeSet<(Label, WorkloadName)> {
        std::mem::take(&mut *self.news.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn standing(&self, node: &Label, workload: &WorkloadName) -> Option<Standing> {
        self.entries().get(node)?.standings.get(workload).cloned()
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
            ready_since: None,
            usage: None,
        };
        let closed = CancellationToken::new();
        let pace = Pace::new(limits::ISSUE_BURST, limits::ISSUE_PER_SECOND);
        let streams = Arc::new(Semaphore::new(limits::ISSUE_STREAMS));
        Self {
            agent,
            standings: BTreeMap::new(),
            unconfirmed: None,
            seat: closed.child_token(),
            desk: Arc::new(Desk { pace, streams, closed }),
        }
    }

    /// Of which workloads something else is known now.
    fn take(&mut self, said: Standings) -> Result<BTreeSet<WorkloadName>, Malformed> {
        let Standings { of, is_complete } = said;
        let known = &mut self.standings;
        let more = of.iter().filter(|(name, one)| one.is_some() && !known.contains_key(*name));
        let all = known.len() + more.count();
        if all > limits::LOCALS {
            let what = format_args!("has {all} entries of one node, at most {}", limits::LOCALS);
            return Err(Malformed::new("standings", what));
        }
        let mut other = BTreeSet::new();
        for (name, standing) in of {
            if let Some(unconfirmed) = &mut self.unconfirmed {
                unconfirmed.remove(&name);
            }
            if known.get(&name) != standing.as_ref() {
                other.insert(name.clone());
            }
            match standing {
                Some(standing) => drop(known.insert(name, standing)),
                None => drop(known.remove(&name)),
            }
        }
        if is_complete && let Some(unconfirmed) = self.unconfirmed.take() {
            unconfirmed.iter().for_each(|name| drop(known.remove(name)));
            other.extend(unconfirmed);
        }
        Ok(other)
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
        self.note(|agent| {
            agent.ready_since = match said.error {
                None => agent.ready_since.or(Some(now)),
                Some(_) => None,
            };
            (agent.acknowledged, agent.last_seen) = (said, now);
        });
    }

    /// What was known before stays if more is said than a node can have.
    pub fn stands(&self, said: Standings, now: SystemTime) -> Result<(), Malformed> {
        let mut entries = self.roster.entries();
        let entry = entries.get_mut(&self.node).filter(|_| !self.taken.is_cancelled());
        let Some(entry) = entry else { return Ok(()) };
        entry.agent.last_seen = now;
        let mut other = entry.take(said)?;
        let mut news = self.roster.news.lock().unwrap_or_else(PoisonError::into_inner);
        other.retain(|name| !news.contains(&(self.node.clone(), name.clone())));
        news.extend(other.into_iter().map(|name| (self.node.clone(), name)));
        Ok(())
    }

    pub fn uses(&self, usage: Usage, now: SystemTime) {
        self.note(|agent| (agent.usage, agent.last_seen) = (Some(usage), now));
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.note(|agent| (agent.is_connected, agent.ready_since) = (false, None));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Stands;

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
    fn an_agent_is_ready_from_when_its_own_process_says_so() {
        let (roster, node) = (Roster::default(), "one".parse().unwrap());
        let at = |second| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(second);
        let ready = || roster.agents()[0].ready_since;
        let said = |error: Option<&str>| Acknowledgement {
            error: error.map(str::to_owned),
            ..Acknowledgement::default()
        };
        let first = roster.sit(&node, String::new(), at(1));
        assert_eq!(ready(), None);
        first.acknowledged(said(None), at(2));
        first.acknowledged(said(None), at(3));
        assert_eq!(ready(), Some(at(2)));
        first.acknowledged(said(Some("the kernel is full")), at(4));
        assert_eq!(ready(), None);
        first.acknowledged(said(None), at(5));
        let second = roster.sit(&node, String::new(), at(6));
        assert_eq!(ready(), None, "another process has said it");
        second.acknowledged(said(None), at(7));
        assert_eq!(ready(), Some(at(7)));
        drop(second);
        assert_eq!(ready(), None);
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

    fn saying(of: &[(&str, Option<Stands>)], is_complete: bool) -> Standings {
        let one = |(name, stands): &(&str, Option<Stands>)| {
            let stands = stands.clone();
            (workload(name), stands.map(|stands| Standing { pod: "u".into(), stands }))
        };
        Standings { of: of.iter().map(one).collect(), is_complete }
    }

    fn workload(name: &str) -> WorkloadName {
        WorkloadName { namespace: "shop".parse().unwrap(), name: name.parse().unwrap() }
    }

    fn told(roster: &Roster) -> Vec<(String, bool)> {
        let heard = roster.heard().into_iter();
        let is = |(node, name): &(Label, WorkloadName)| roster.standing(node, name).is_some();
        heard.map(|one| (one.1.name.to_string(), is(&one))).collect()
    }

    #[test]
    fn of_whom_an_agent_that_is_back_says_nothing_is_gone_and_not_before_it_has_said_all() {
        let (roster, node) = (Roster::default(), "one".parse().unwrap());
        let now = SystemTime::now();
        let strict = || Some(Stands::Enrolled(martlet_model::Mode::Strict));
        let seat = roster.sit(&node, String::new(), now);
        seat.stands(saying(&[("a", strict()), ("b", strict())], true), now).unwrap();
        assert_eq!(told(&roster), [("a".to_owned(), true), ("b".to_owned(), true)]);
        assert!(told(&roster).is_empty(), "it is told once");
        let seat = roster.sit(&node, String::new(), now);
        seat.stands(saying(&[("b", strict())], false), now).unwrap();
        assert!(told(&roster).is_empty());
        seat.stands(saying(&[("c", strict())], true), now).unwrap();
        assert_eq!(told(&roster), [("a".to_owned(), false), ("c".to_owned(), true)]);
        seat.stands(saying(&[("c", None)], true), now).unwrap();
        assert_eq!(told(&roster), [("c".to_owned(), false)]);
    }

    #[test]
    fn a_node_that_speaks_of_more_than_it_can_have_is_not_listened_to() {
        let (roster, node) = (Roster::default(), "one".parse().unwrap());
        let seat = roster.sit(&node, String::new(), SystemTime::now());
        let names: Vec<_> = (0..=limits::LOCALS).map(|number| format!("x{number}")).collect();
        let pending = || Some(Stands::Pending(String::new()));
        let all: Vec<_> = names.iter().map(|name| (name.as_str(), pending())).collect();
        assert!(seat.stands(saying(&all, true), SystemTime::now()).is_err());
        assert!(told(&roster).is_empty());
        assert!(seat.stands(saying(&all[1..], true), SystemTime::now()).is_ok());
        assert_eq!(told(&roster).len(), limits::LOCALS);
    }
}
