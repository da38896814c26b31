//! Which nodes have an agent: those with a pod of its service account in Martlet's own namespace.

use std::sync::Arc;

use super::World;
use crate::seen::Pod;

impl World {
    /// A pod is other than before, or begins, or ends.
    pub(super) fn move_agent(&mut self, before: Option<&Arc<Pod>>, now: Option<&Arc<Pod>>) {
        let agent = |pod: &&Arc<Pod>| self.is_agent(pod);
        let (before, now) = (before.filter(agent), now.filter(agent));
        if let Some(pod) = before
            && let Some(pods) = self.agent_pods.get_mut(&pod.node)
        {
            pods.remove(&(since(pod), pod.name.clone()));
        }
        if let Some(pod) = now {
            let pods = self.agent_pods.entry(pod.node.clone()).or_default();
            pods.insert((since(pod), pod.name.clone()));
        }
        for pod in before.into_iter().chain(now) {
            // During an update a node has two of them; it has had an agent since the first.
            let pods = self.agent_pods.get(&pod.node);
            match pods.and_then(|pods| pods.first()) {
                Some((since, _)) => drop(self.agents.insert(pod.node.clone(), *since)),
                None => {
                    self.agents.remove(&pod.node);
                    self.agent_pods.remove(&pod.node);
                }
            }
        }
    }

    fn is_agent(&self, pod: &Pod) -> bool {
        pod.name.namespace == self.settings.system_namespace
            && pod.service_account == self.settings.agent_service_account
            && !pod.is_over
    }
}

fn since(pod: &Pod) -> u64 {
    u64::try_from(pod.created).unwrap_or_default()
}
