//! When the status of an object is written that all agents are to go by: not each count on its way
//! up, and not what a controller that has just begun does not know yet.

use std::collections::HashMap;

use martlet_kubernetes::api::Condition;
use tokio::time::Instant;

use crate::limits;

/// What was written of which object last.
pub struct Writings<S> {
    began: Instant,
    written: HashMap<String, (S, Instant)>,
}

/// What is to be written of an object, and in place of what.
pub struct Writing<'a, S> {
    pub name: &'a str,
    pub generation: i64,
    pub said: &'a S,
    pub wanted: &'a S,
    /// Whether all agents go by it.
    pub is_whole: bool,
}

/// A status with conditions.
pub trait Status: PartialEq {
    fn conditions(&self) -> &[Condition];
}

impl<S: Status> Writings<S> {
    pub fn new(now: Instant) -> Self {
        Self { began: now, written: HashMap::new() }
    }

    pub fn forget_all_but(&mut self, is_there: impl Fn(&str) -> bool) {
        self.written.retain(|name, _| is_there(name));
    }

    /// It was tried; what was written comes back with the object.
    pub fn tried(&mut self, name: &str, status: S, now: Instant) {
        self.written.insert(name.to_owned(), (status, now));
    }

    pub fn is_due(&self, writing: &Writing<'_, S>, now: Instant) -> bool {
        let Writing { name, generation, said, wanted, is_whole } = writing;
        if said == wanted {
            return false;
        }
        if let Some((written, at)) = self.written.get(*name) {
            let is_again =
                written == *wanted || (!is_whole && accepted(written) == accepted(*wanted));
            if is_again && now.saturating_duration_since(*at) < limits::STATUS_AGAIN {
                return false;
            }
        }
        let was_whole = is_true(said.conditions(), "Programmed", *generation);
        let is_pending = was_whole && !is_whole && accepted(*said) == accepted(*wanted);
        !is_pending || now.saturating_duration_since(self.began) > limits::AGENTS_COME_BACK
    }
}

pub fn is_true(conditions: &[Condition], kind: &str, generation: i64) -> bool {
    let mut of_kind = conditions.iter().filter(|one| one.kind == kind);
    of_kind.any(|one| one.status == "True" && one.observed_generation == generation)
}

/// What is said of being accepted, and of which generation.
fn accepted(status: &impl Status) -> Option<(i64, &str, &str)> {
    let condition = status.conditions().iter().find(|one| one.kind == "Accepted")?;
    Some((condition.observed_generation, &condition.status, &condition.message))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[derive(Debug, Clone, PartialEq)]
    struct Said(Vec<Condition>, u32);

    impl Status for Said {
        fn conditions(&self) -> &[Condition] {
            &self.0
        }
    }

    fn said(programmed: &str, agents: u32) -> Said {
        let condition = |kind, status| Condition::new(kind, (status, "Why", String::new()), 1, "");
        Said(vec![condition("Accepted", "True"), condition("Programmed", programmed)], agents)
    }

    #[test]
    fn counts_on_their_way_up_are_written_now_and_then_and_the_last_at_once() {
        let now = Instant::now();
        let mut writings = Writings::new(now);
        let (none, one, two) = (said("False", 0), said("False", 1), said("True", 2));
        let due = |writings: &Writings<Said>, before: &Said, wanted: &Said, is_whole, now| {
            let (name, generation) = ("a", 1);
            let writing = Writing { name, generation, said: before, wanted, is_whole };
            writings.is_due(&writing, now)
        };
        assert!(due(&writings, &Said(vec![], 0), &none, false, now));
        writings.tried("a", none.clone(), now);
        assert!(!due(&writings, &none, &none, false, now), "it is said already");
        assert!(!due(&writings, &none, &one, false, now));
        assert!(due(&writings, &none, &one, false, now + limits::STATUS_AGAIN));
        assert!(due(&writings, &none, &two, true, now));
        // A controller that has just begun has not heard of all agents.
        let new = Writings::new(now);
        assert!(!due(&new, &two, &one, false, now));
        let later = now + limits::AGENTS_COME_BACK + Duration::from_secs(1);
        assert!(due(&new, &two, &one, false, later));
    }
}
