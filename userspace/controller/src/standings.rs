//! What is said of pods' enrolment, and when: what the cluster's objects want, and what the agent of
//! the pod's node says has become of it.
//!
//! ```text
//!   pod or its agent's word changes ──▶ queued ── due ──▶ compared with what its status says
//!                                         ▲                   │ other
//!                                         └── not too often ──┴──────▶ to be written
//! ```
//!
//! Only what has changed is looked at. Pure: no IO, no clock.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use martlet_control::{Standing, Stands};
use martlet_kubernetes::{
    standing::Said,
    world::{Facts, Wish},
};
use martlet_model::{Label, Mode, WorkloadName};
use tokio::time::Instant;

use crate::limits;

/// All pods of which something is said, or is to be.
#[derive(Default)]
pub struct Standings {
    pods: HashMap<WorkloadName, Tracked>,
    queue: BTreeSet<(Instant, WorkloadName)>,
}

struct Tracked {
    facts: Arc<Facts>,
    /// When it is in the queue for.
    due: Option<Instant>,
    pending_since: Option<Instant>,
    written: Option<Instant>,
}

/// What is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writing {
    pub pod: WorkloadName,
    pub uid: Arc<str>,
    pub before: Option<Said>,
    /// `None`: what was said is taken back.
    pub said: Option<Said>,
}

impl Standings {
    /// The cluster says something else of these.
    pub fn know(
        &mut self,
        changed: impl IntoIterator<Item = (WorkloadName, Option<Arc<Facts>>)>,
        now: Instant,
    ) {
        for (name, facts) in changed {
            match facts {
                None => self.forget(&name),
                Some(facts) => {
                    let is_another = |tracked: &Tracked| tracked.facts.uid != facts.uid;
                    if self.pods.get(&name).is_some_and(is_another) {
                        self.forget(&name);
                    }
                    match self.pods.get_mut(&name) {
                        Some(tracked) => tracked.facts = facts,
                        None => drop(self.pods.insert(name.clone(), Tracked::new(facts))),
                    }
                    self.queue(&name, now);
                }
            }
        }
    }

    /// A node's agent says something else of a pod; others' agents have nothing to say about it.
    pub fn hear(&mut self, node: &Label, name: &WorkloadName, now: Instant) {
        if self.pods.get(name).is_some_and(|tracked| tracked.facts.node == *node) {
            self.queue(name, now);
        }
    }

    fn queue(&mut self, name: &WorkloadName, at: Instant) {
        let Some(tracked) = self.pods.get_mut(name) else { return };
        if let Some(due) = tracked.due {
            // Whoever is in it keeps the place: what changes all the time comes no earlier by it.
            if due <= at {
                return;
            }
            self.queue.remove(&(due, name.clone()));
        }
        tracked.due = Some(at);
        self.queue.insert((at, name.clone()));
    }

    fn forget(&mut self, name: &WorkloadName) {
        if let Some(Tracked { due: Some(due), .. }) = self.pods.remove(name) {
            self.queue.remove(&(due, name.clone()));
        }
    }

    /// What is to be written now, at most so many. `standing` is what a node's agent has said last.
    pub fn due(
        &mut self,
        most: usize,
        now: Instant,
        standing: impl Fn(&Label, &WorkloadName) -> Option<Standing>,
    ) -> Vec<Writing> {
        let mut due = Vec::new();
        while due.len() < most {
            let Some((at, _)) = self.queue.first() else { break };
            if *at > now {
                break;
            }
            let Some((_, name)) = self.queue.pop_first() else { break };
            let Some(tracked) = self.pods.get_mut(&name) else { continue };
            tracked.due = None;
            let heard = standing(&tracked.facts.node, &name);
            let wanted = wanted(&tracked.facts, heard.as_ref());
            if wanted == tracked.facts.said {
                tracked.pending_since = None;
                continue;
            }
            let not_before = tracked.not_before(wanted.as_ref(), now);
            if not_before > now {
                self.queue(&name, not_before);
                continue;
            }
            let Facts { uid, said: before, .. } = &*tracked.facts;
            due.push(Writing { pod: name, uid: uid.clone(), before: before.clone(), said: wanted });
        }
        due
    }

    /// It was written; the pod comes back with it.
    pub fn wrote(&mut self, writing: Writing, now: Instant) {
        if let Some(tracked) = self.pods.get_mut(&writing.pod) {
            tracked.facts = Arc::new(Facts { said: writing.said, ..(*tracked.facts).clone() });
            tracked.written = Some(now);
            tracked.pending_since = None;
        }
    }

    /// It could not be written, and is tried again.
    pub fn failed(&mut self, pod: &WorkloadName, now: Instant) {
        self.queue(pod, now + limits::STANDING_AGAIN);
    }

    /// How many are waiting.
    #[cfg(test)]
    fn waiting(&self) -> usize {
        self.queue.len()
    }
}

impl Tracked {
    fn new(facts: Arc<Facts>) -> Self {
        Self { facts, due: None, pending_since: None, written: None }
    }

    /// When it may be written.
    fn not_before(&mut self, wanted: Option<&Said>, now: Instant) -> Instant {
        let reason = |said: Option<&Said>| said.map(|said| said.reason.clone());
        let (is, was) = (reason(wanted), reason(self.facts.said.as_ref()));
        // Every pod waits for a moment at its start, and at its agent's.
        let settled = match is.as_deref() == Some(PENDING) && is != was {
            true => *self.pending_since.get_or_insert(now) + limits::STANDING_SETTLES,
            false => {
                self.pending_since = None;
                now
            }
        };
        let pause = if is == was { limits::STANDING_TEXT_AGAIN } else { limits::STANDING_AGAIN };
        let again = self.written.map_or(now, |written| written + pause);
        settled.max(again)
    }
}

const PENDING: &str = "Pending";
const REFUSED: &str = "Refused";
const OUTSIDE: &str = "Outside";

/// What is to be said of a pod.
fn wanted(facts: &Facts, heard: Option<&Standing>) -> Option<Said> {
    let not = |reason, why: &str| Some(Said::new(false, reason, why));
    match &facts.wish {
        Wish::Nothing => None,
        Wish::Outside(why) => not(OUTSIDE, why),
        Wish::Refused(why) => not(REFUSED, why),
        Wish::Waiting(why) => not(PENDING, why),
        // What is said of an earlier life of the pod says nothing.
        Wish::Enrolled => match heard.filter(|heard| heard.pod == facts.uid) {
            Some(Standing { stands, .. }) => Some(match stands {
                Stands::Enrolled(Mode::Strict) => Said::new(true, "Strict", STRICT),
                Stands::Enrolled(Mode::Permissive) => Said::new(true, "Permissive", PERMISSIVE),
                Stands::Pending(why) => Said::new(false, PENDING, why),
                Stands::Refused(why) => Said::new(false, REFUSED, why),
            }),
            // Its agent is away, or has not come back to this controller: what was said last stays.
            None => match &facts.said {
                Some(said) if said.status == "True" => Some(said.clone()),
                _ => not(PENDING, "the agent of its node has said nothing of it yet"),
            },
        },
    }
}

const STRICT: &str = "it speaks mTLS within the mesh, and plaintext to it is refused";
const PERMISSIVE: &str = "it speaks mTLS within the mesh, and plaintext to it is let in";

#[cfg(test)]
mod tests;
