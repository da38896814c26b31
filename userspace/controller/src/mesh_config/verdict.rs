//! What is said of a MeshConfig in its status.

use std::sync::Arc;

use martlet_control::AgentState;
use martlet_kubernetes::{
    api::{Condition, ConfigStatus, MeshConfigSpec},
    kept::Mesh,
    seen::Problem,
};
use martlet_model::TrustDomain;

use crate::statuses::Status;

/// What is known of an object.
pub struct Verdict<'a> {
    generation: i64,
    refused: Option<&'a Problem>,
    /// What is in effect; `None` of an object that is never used.
    mesh: Option<&'a Arc<Mesh>>,
    domain: &'a TrustDomain,
    /// Which version told this generation of it.
    since: Option<u64>,
    enforcing: usize,
    concerned: usize,
    /// Why an agent did not take it.
    failure: Option<&'a str>,
}

impl Status for ConfigStatus {
    fn conditions(&self) -> &[Condition] {
        &self.conditions
    }
}

impl<'a> Verdict<'a> {
    pub fn of(
        generation: i64,
        (refused, mesh, domain): (Option<&'a Problem>, Option<&'a Arc<Mesh>>, &'a TrustDomain),
        since: Option<u64>,
    ) -> Self {
        let (enforcing, concerned, failure) = (0, 0, None);
        Self { generation, refused, mesh, domain, since, enforcing, concerned, failure }
    }

    /// What the nodes' agents say.
    pub fn heard(self, agents: impl Iterator<Item = &'a AgentState>, nodes: usize) -> Self {
        let (mut enforcing, mut failure) = (0, None);
        for agent in agents {
            let said = &agent.acknowledged;
            if self.since.is_some_and(|since| said.version >= since) {
                match &said.error {
                    None => enforcing += 1,
                    Some(error) => failure = Some(error.as_str()),
                }
            }
        }
        Self { enforcing, concerned: nodes, failure, ..self }
    }

    pub fn is_whole(&self) -> bool {
        self.enforcing == self.concerned
    }

    pub fn status(&self, said: &ConfigStatus, now: &str) -> ConfigStatus {
        let conditions = [self.accepted(now), self.programmed(now)];
        let in_effect = self.mesh.map(|mesh| MeshConfigSpec {
            trust_domain: Some(self.domain.to_string()),
            ..mesh.settings.spec()
        });
        ConfigStatus {
            conditions: conditions.map(|one| one.after(&said.conditions)).into(),
            agents: format!("{}/{}", self.enforcing, self.concerned),
            in_effect,
        }
    }

    fn accepted(&self, now: &str) -> Condition {
        Condition::accepted(self.refused, "it is used as it is written", self.generation, now)
    }

    fn programmed(&self, now: &str) -> Condition {
        let Self { enforcing, concerned, .. } = *self;
        let (status, reason, message) = if self.refused.is_some() {
            let why = match self.mesh {
                Some(_) => "what was in effect before it stays so",
                None => "nothing of it is in effect",
            };
            ("False", "NotAccepted", why.to_owned())
        } else if enforcing < concerned || self.since.is_none() {
            let why = self.failure.map(|why| format!("; one says: {why}")).unwrap_or_default();
            let message = format!("{enforcing} of {concerned} agents go by it{why}");
            ("False", if self.failure.is_some() { "NotTaken" } else { "Pending" }, message)
        } else {
            ("True", "Programmed", format!("{concerned} of {concerned} agents go by it"))
        };
        Condition::new("Programmed", (status, reason, message), self.generation, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(verdict: &Verdict<'_>) -> (String, String, String) {
        let status = verdict.status(&ConfigStatus::default(), "2026-01-01T00:00:00Z");
        let [accepted, programmed] = &status.conditions[..] else { panic!("there are two") };
        let text = |one: &Condition| format!("{} {}", one.status, one.reason);
        assert_eq!((accepted.observed_generation, programmed.observed_generation), (3, 3));
        (text(accepted), text(programmed), status.agents.clone())
    }

    fn is(accepted: &str, programmed: &str, agents: &str) -> (String, String, String) {
        (accepted.to_owned(), programmed.to_owned(), agents.to_owned())
    }

    #[test]
    fn its_status_says_what_has_become_of_it_and_where() {
        let (mesh, domain) = (Arc::new(Mesh::default()), "a.org".parse().unwrap());
        let of = |refused, mesh, since, enforcing| Verdict {
            enforcing,
            concerned: 2,
            ..Verdict::of(3, (refused, mesh, &domain), since)
        };
        let used = of(None, Some(&mesh), Some(7), 2);
        assert_eq!(said(&used), is("True Accepted", "True Programmed", "2/2"));
        let shown = used.status(&ConfigStatus::default(), "").in_effect.unwrap();
        assert_eq!(shown.trust_domain.as_deref(), Some("a.org"));
        let some = of(None, Some(&mesh), Some(7), 1);
        assert_eq!(said(&some), is("True Accepted", "False Pending", "1/2"));
        let unsaid = Verdict { concerned: 0, ..of(None, Some(&mesh), None, 0) };
        assert_eq!(said(&unsaid), is("True Accepted", "False Pending", "0/0"));
        let failing = Verdict { failure: Some("no room"), ..of(None, Some(&mesh), Some(7), 1) };
        assert_eq!(said(&failing), is("True Accepted", "False NotTaken", "1/2"));
        let problem = Problem::new("Invalid", "failure");
        let refused = of(Some(&problem), Some(&mesh), None, 0);
        assert_eq!(said(&refused), is("False Invalid", "False NotAccepted", "0/2"));
        assert!(refused.status(&ConfigStatus::default(), "").in_effect.is_some(), "of before");
        let other = of(Some(&problem), None, None, 0);
        assert!(other.status(&ConfigStatus::default(), "").in_effect.is_none());
    }
}
