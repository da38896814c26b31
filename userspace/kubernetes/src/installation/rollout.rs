//! Waiting: for kinds to be served, and for pods to be ready.

use std::time::Duration;

use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment},
        core::v1::{ContainerStatus, Pod},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{Api, api::ListParams};

use super::{AGENT, CONTROLLER, InstallError, Installer, NAME_LABEL, asked, until};

impl Installer {
    /// Until the server takes objects of these kinds.
    ///
    /// # Errors
    ///
    /// It does not within `patience`.
    pub async fn until_served(
        &self,
        kinds: &[String],
        patience: Duration,
        tell: &mut dyn FnMut(&str),
    ) -> Result<(), InstallError> {
        let api: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        for kind in kinds {
            until("the kinds of martlet.dev", patience, tell, async || {
                let definition = asked(kind, api.get(kind)).await?;
                let conditions = definition.status.and_then(|status| status.conditions);
                let is_served = conditions.into_iter().flatten().any(|condition| {
                    condition.type_ == "Established" && condition.status == "True"
                });
                Ok((!is_served).then(|| format!("{kind} is not served yet")))
            })
            .await?;
        }
        Ok(())
    }

    /// Until controller and agents are what was applied, and ready.
    ///
    /// # Errors
    ///
    /// They are not within `patience`; then it says what is wrong with one of them.
    pub async fn until_ready(
        &self,
        patience: Duration,
        tell: &mut dyn FnMut(&str),
    ) -> Result<(), InstallError> {
        let began = tokio::time::Instant::now();
        for name in [CONTROLLER, AGENT] {
            let patience = patience.saturating_sub(began.elapsed());
            let waited = until(name, patience, tell, async || match name {
                CONTROLLER => self.controller_lacks().await,
                _ => self.agents_lack().await,
            });
            if let Err(error) = waited.await {
                return Err(match error {
                    InstallError::TooLong { what, waited, why } => {
                        let trouble = self.trouble(name).await.unwrap_or_default();
                        let why = why.into_iter().chain(trouble).collect::<Vec<_>>().join("; ");
                        InstallError::TooLong { what, waited, why: Some(why) }
                    }
                    error => error,
                });
            }
        }
        Ok(())
    }

    async fn controller_lacks(&self) -> Result<Option<String>, InstallError> {
        let found = asked(&CONTROLLER, self.within::<Deployment>().get(CONTROLLER)).await?;
        let wanted = found.spec.and_then(|spec| spec.replicas).unwrap_or(1);
        let status = found.status.unwrap_or_default();
        let is_seen = status.observed_generation >= found.metadata.generation;
        let updated = status.updated_replicas.unwrap_or(0);
        let available = status.available_replicas.unwrap_or(0).min(updated);
        let old = status.replicas.unwrap_or(0).saturating_sub(updated);
        Ok((!is_seen || available < wanted || old > 0)
            .then(|| format!("{CONTROLLER}: {available} of {wanted} ready")))
    }

    async fn agents_lack(&self) -> Result<Option<String>, InstallError> {
        let found = asked(&AGENT, self.within::<DaemonSet>().get(AGENT)).await?;
        let status = found.status.unwrap_or_default();
        let is_seen = status.observed_generation >= found.metadata.generation;
        let wanted = status.desired_number_scheduled;
        let updated = status.updated_number_scheduled.unwrap_or(0);
        let available = status.number_available.unwrap_or(0).min(updated);
        Ok((!is_seen || available < wanted)
            .then(|| format!("{AGENT}: {available} of {wanted} nodes ready")))
    }

    /// What keeps one pod of these from being ready.
    async fn trouble(&self, name: &str) -> Result<Option<String>, InstallError> {
        let chosen = ListParams::default().labels(&format!("{NAME_LABEL}={name}"));
        let pods = asked(&"pods", self.within::<Pod>().list(&chosen)).await?;
        Ok(pods.items.iter().find_map(trouble_of))
    }
}

/// As its container or the scheduler says it.
pub(super) fn trouble_of(pod: &Pod) -> Option<String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let status = pod.status.as_ref()?;
    let container = status.container_statuses.iter().flatten().find(|found| !found.ready);
    let state = container.and_then(|found| found.state.as_ref());
    let waiting =
        state.and_then(|state| state.waiting.as_ref()).map(|why| (&why.reason, &why.message));
    let ended =
        state.and_then(|state| state.terminated.as_ref()).map(|why| (&why.reason, &why.message));
    let condition = status.conditions.iter().flatten();
    let condition =
        condition.filter(|found| found.status == "False").map(|why| (&why.reason, &why.message));
    let mut all = waiting.into_iter().chain(ended).chain(condition);
    let (reason, message) = all.find(|(reason, _)| reason.is_some())?;
    let last = container.and_then(last_words);
    let parts: Vec<_> =
        [reason.as_deref(), message.as_deref(), last].into_iter().flatten().collect();
    Some(format!("pod {name}: {}", parts.join(": ")))
}

/// Of a program that has ended and is to be started again: why.
fn last_words(container: &ContainerStatus) -> Option<&str> {
    let ended = container.last_state.as_ref()?.terminated.as_ref()?;
    ended.message.as_deref()?.lines().map(str::trim).rfind(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn trouble(container: &serde_json::Value) -> Option<String> {
        let mut container = container.clone();
        for (name, value) in [("name", "agent"), ("image", ""), ("imageID", "")] {
            container[name] = json!(value);
        }
        container["restartCount"] = json!(1);
        let pod = json!({"metadata": {"name": "a"}, "status": {"containerStatuses": [container]}});
        trouble_of(&serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn a_program_that_ends_again_and_again_says_why_and_one_that_is_ready_nothing() {
        let waiting = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}});
        let why = json!({"terminated": {"exitCode": 1, "message": "INFO x\nerror: it is so\n"}});
        let said = trouble(&json!({"ready": false, "state": waiting, "lastState": why})).unwrap();
        assert_eq!(said, "pod a: CrashLoopBackOff: back-off 10s: error: it is so");
        let said = trouble(&json!({"ready": false, "state": waiting})).unwrap();
        assert_eq!(said, "pod a: CrashLoopBackOff: back-off 10s");
        assert_eq!(trouble(&json!({"ready": true, "state": {"running": {}}})), None);
    }
}
