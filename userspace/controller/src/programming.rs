//! Which policies are in effect where: what is to be written into their statuses, and when.
//!
//! ```text
//!   policy or its nodes change ──▶ open ── all agents enforce it, and it is written ──▶ settled
//!                                    ▲                                                    │
//!                                    └───────────────── something changes ────────────────┘
//! ```
//!
//! Only open ones are looked at. Pure: no IO, no clock.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use martlet_control::AgentState;
use martlet_kubernetes::{
    api::{PolicyStatus, Verdict},
    world::Concern,
};
use martlet_model::Label;
use tokio::time::Instant;

use crate::limits;

pub type PolicyKey = (Label, Label);

/// All policies, as they are told to the agents of this controller.
pub struct Programming {
    began: Instant,
    policies: HashMap<PolicyKey, Tracked>,
    open: BTreeSet<PolicyKey>,
}

struct Tracked {
    concern: Arc<Concern>,
    /// By node, the version that told it.
    since: BTreeMap<Label, u64>,
    opened: Instant,
    written: Option<(PolicyStatus, Instant)>,
}

impl Programming {
    pub fn new(now: Instant) -> Self {
        Self { began: now, policies: HashMap::new(), open: BTreeSet::new() }
    }

    /// These are all policies, and `version` holds them.
    pub fn hear(&mut self, concerns: &[Arc<Concern>], version: u64, now: Instant) {
        let mut before = std::mem::take(&mut self.policies);
        for concern in concerns {
            let key = (concern.namespace.clone(), concern.name.clone());
            let tracked = match before.remove(&key) {
                Some(tracked) if Arc::ptr_eq(&tracked.concern, concern) => tracked,
                before => {
                    self.open.insert(key.clone());
                    Tracked::after(before, concern.clone(), version, now)
                }
            };
            self.policies.insert(key, tracked);
        }
        self.open.retain(|key| !before.contains_key(key));
    }

    pub fn is_settled(&self) -> bool {
        self.open.is_empty()
    }

    /// What is to be written now, at most so many. `at` is the time of day.
    pub fn due(
        &mut self,
        agents: &HashMap<Label, AgentState>,
        most: usize,
        now: Instant,
        at: &str,
    ) -> Vec<(PolicyKey, PolicyStatus)> {
        let mut due = Vec::new();
        for key in self.open.clone() {
            if due.len() == most {
                break;
            }
            let Some(tracked) = self.policies.get(&key) else { continue };
            let verdict = tracked.verdict(agents);
            let is_whole = verdict.enforcing == verdict.concerned;
            let wanted = tracked.concern.status.after(&verdict, at);
            if wanted == tracked.concern.status {
                if is_whole {
                    self.open.remove(&key);
                }
            } else if tracked.is_time(&wanted, is_whole, self.began, now) {
                due.push((key, wanted));
            }
        }
        due
    }

    /// It was tried; what was written comes back with the policy.
    pub fn tried(&mut self, key: &PolicyKey, status: PolicyStatus, now: Instant) {
        if let Some(tracked) = self.policies.get_mut(key) {
            tracked.written = Some((status, now));
        }
    }
}

impl Tracked {
    fn after(before: Option<Self>, concern: Arc<Concern>, version: u64, now: Instant) -> Self {
        let is_same = |tracked: &&Self| tracked.concern.policy == concern.policy;
        let known = before.as_ref().filter(is_same).map(|tracked| &tracked.since);
        let since = |node: &Label| known.and_then(|since| since.get(node)).copied();
        let nodes = concern.nodes.iter();
        let since = nodes.map(|node| (node.clone(), since(node).unwrap_or(version))).collect();
        let written = before.and_then(|before| before.written);
        Self { concern, since, opened: now, written }
    }

    fn verdict<'a>(&'a self, agents: &'a HashMap<Label, AgentState>) -> Verdict<'a> {
        let (mut enforcing, mut failure) = (0, None);
        for (node, since) in &self.since {
            let Some(agent) = agents.get(node) else { continue };
            let said = &agent.acknowledged;
            match &said.error {
                None if said.version >= *since => enforcing += 1,
                Some(error) if said.version >= *since => failure = Some(error.as_str()),
                _ => {}
            }
        }
        Verdict {
            generation: self.concern.generation,
            refused: self.concern.refused.as_ref(),
            is_beyond: self.concern.is_beyond,
            enforcing,
            concerned: self.since.len(),
            failure,
        }
    }

    fn is_time(&self, wanted: &PolicyStatus, is_whole: bool, began: Instant, now: Instant) -> bool {
        let since_written = |written: &Instant| now.saturating_duration_since(*written);
        match &self.written {
            // It has not come back yet.
            Some((said, at)) if said == wanted => return since_written(at) > limits::STATUS_AGAIN,
            Some((said, at))
                if !is_whole
                    && generation(said) == generation(wanted)
                    && since_written(at) < limits::STATUS_AGAIN =>
            {
                return false;
            }
            _ => {}
        }
        if is_whole || !self.concern.status.is_programmed(self.concern.generation) {
            return true;
        }
        // It was in effect everywhere, and most likely is: a new controller hears of it again from
        // every agent, and a new node's agent needs a moment.
        let is_new = self.opened.saturating_duration_since(began) < limits::STATUS_AGAIN;
        let patience = if is_new { limits::AGENTS_COME_BACK } else { limits::STATUS_SETTLES };
        now.saturating_duration_since(self.opened) >= patience
    }
}

fn generation(status: &PolicyStatus) -> Option<i64> {
    status.condition("Programmed").map(|condition| condition.observed_generation)
}

#[cfg(test)]
mod tests;
