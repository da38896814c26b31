//! What is said about our objects in their statuses.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::seen::Problem;

/// What has become of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyStatus {
    /// `Accepted`: it can be enforced as it is written. `Programmed`: all agents that it concerns
    /// enforce it.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// How many agents enforce it, of how many that it concerns, like `2/3`.
    pub agents: String,
}

/// As all of Kubernetes' conditions are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Of which generation of the object this is said.
    #[serde(default)]
    pub observed_generation: i64,
    pub last_transition_time: String,
    /// One word.
    pub reason: String,
    pub message: String,
}

/// What is known about a policy of one generation.
#[derive(Debug, Clone, Copy)]
pub struct Verdict<'a> {
    pub generation: i64,
    /// Why it cannot be enforced as it is written.
    pub refused: Option<&'a Problem>,
    /// It is not told to anybody.
    pub is_beyond: bool,
    /// Of how many agents it is known that they enforce it, or the refusal that stands for it.
    pub enforcing: usize,
    /// How many have a workload that it selects.
    pub concerned: usize,
    /// Why one of them did not take it.
    pub failure: Option<&'a str>,
}

impl Condition {
    /// Whether an object is used, and how.
    pub fn accepted(refused: Option<&Problem>, used: &str, generation: i64, now: &str) -> Self {
        let why = match refused {
            // Some servers take an empty text for none.
            None => ("True", "Accepted", used.to_owned()),
            Some(Problem { reason, message }) => ("False", *reason, message.clone()),
        };
        Self::new("Accepted", why, generation, now)
    }

    /// With its status, one word why, and more about it.
    pub fn new(
        kind: &str,
        (status, reason, message): (&str, &str, String),
        generation: i64,
        now: &str,
    ) -> Self {
        Self {
            kind: kind.to_owned(),
            status: status.to_owned(),
            observed_generation: generation,
            last_transition_time: now.to_owned(),
            reason: reason.to_owned(),
            message,
        }
    }

    /// What is as it was has been so since then.
    #[must_use]
    pub fn after(self, said: &[Self]) -> Self {
        match said.iter().find(|one| one.kind == self.kind && one.status == self.status) {
            Some(said) => Self { last_transition_time: said.last_transition_time.clone(), ..self },
            None => self,
        }
    }
}

impl PolicyStatus {
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }

    /// Whether all agents enforce this generation, as far as it is said here.
    pub fn is_programmed(&self, generation: i64) -> bool {
        self.condition("Programmed")
            .is_some_and(|one| one.status == "True" && one.observed_generation == generation)
    }

    /// What is to be said now. What is as it was has been so since then.
    #[must_use]
    pub fn after(&self, verdict: &Verdict<'_>, now: &str) -> Self {
        let conditions = [verdict.accepted(now), verdict.programmed(now)];
        let conditions = conditions.map(|wanted| wanted.after(&self.conditions));
        let agents = format!("{}/{}", verdict.enforcing, verdict.concerned);
        Self { conditions: conditions.into(), agents }
    }
}

impl Verdict<'_> {
    fn accepted(&self, now: &str) -> Condition {
        let used = "it can be enforced as it is written";
        Condition::accepted(self.refused, used, self.generation, now)
    }

    fn programmed(&self, now: &str) -> Condition {
        let Self { enforcing, concerned, .. } = *self;
        let (status, reason, message) = if self.is_beyond {
            let why = "its namespace has too many policies; everything in it is refused";
            ("False", "TooManyPolicies", why.to_owned())
        } else if concerned == 0 {
            ("True", "NothingSelected", "it selects no enrolled workload".to_owned())
        } else if enforcing < concerned {
            let why = self.failure.map(|why| format!("; one says: {why}")).unwrap_or_default();
            let message = format!("{enforcing} of {concerned} agents enforce it{why}");
            ("False", if self.failure.is_some() { "NotTaken" } else { "Pending" }, message)
        } else if self.refused.is_some() {
            let why = "all agents refuse everything to what it selects, until it is corrected";
            ("True", "RefusesEverything", why.to_owned())
        } else {
            ("True", "Programmed", format!("{concerned} of {concerned} agents enforce it"))
        };
        Condition::new("Programmed", (status, reason, message), self.generation, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict() -> Verdict<'static> {
        Verdict {
            generation: 1,
            refused: None,
            is_beyond: false,
            enforcing: 1,
            concerned: 2,
            failure: None,
        }
    }

    fn said<'a>(status: &'a PolicyStatus, kind: &str) -> (&'a str, &'a str) {
        let condition = status.condition(kind).unwrap();
        (&condition.status, &condition.reason)
    }

    #[test]
    fn a_policy_is_programmed_when_all_agents_that_it_concerns_enforce_it() {
        let first = PolicyStatus::default().after(&verdict(), "2026-01-01T00:00:00Z");
        assert_eq!(said(&first, "Accepted"), ("True", "Accepted"));
        assert_eq!(said(&first, "Programmed"), ("False", "Pending"));
        assert_eq!(first.agents, "1/2");
        assert!(!first.is_programmed(1));
        let all = Verdict { enforcing: 2, ..verdict() };
        let second = first.after(&all, "2026-01-02T00:00:00Z");
        assert_eq!(said(&second, "Programmed"), ("True", "Programmed"));
        assert!(second.is_programmed(1) && !second.is_programmed(2));
        let since = |kind: &str| second.condition(kind).unwrap().last_transition_time.as_str();
        assert_eq!(since("Accepted"), "2026-01-01T00:00:00Z");
        assert_eq!(since("Programmed"), "2026-01-02T00:00:00Z");
        assert_eq!(second.after(&all, "2026-01-03T00:00:00Z"), second, "nothing to write");
    }

    #[test]
    fn what_is_in_the_way_is_named() {
        let programmed = |verdict: &Verdict<'_>| {
            let status = PolicyStatus::default().after(verdict, "2026-01-01T00:00:00Z");
            let (status, reason) = said(&status, "Programmed");
            (status.to_owned(), reason.to_owned())
        };
        let is = |status: &str, reason: &str| (status.to_owned(), reason.to_owned());
        let problem = Problem::new("Invalid", "rules is empty");
        let all = Verdict { enforcing: 2, ..verdict() };
        let failing = Verdict { failure: Some("no room"), ..verdict() };
        assert_eq!(programmed(&failing), is("False", "NotTaken"));
        let refused = Verdict { refused: Some(&problem), ..all };
        assert_eq!(programmed(&refused), is("True", "RefusesEverything"));
        let nobody = Verdict { enforcing: 0, concerned: 0, ..all };
        assert_eq!(programmed(&nobody), is("True", "NothingSelected"));
        let beyond = Verdict { is_beyond: true, ..all };
        assert_eq!(programmed(&beyond), is("False", "TooManyPolicies"));
        let status = PolicyStatus::default().after(&refused, "2026-01-01T00:00:00Z");
        assert_eq!(said(&status, "Accepted"), ("False", "Invalid"));
    }
}
