//! What is said about each policy, and the nodes whose agents enforce it.

use std::{collections::BTreeSet, sync::Arc};

use martlet_model::Label;
use martlet_policy::{Policy, Selector};

use super::{World, policies::Held};
use crate::{api::PolicyStatus, limits, seen::Problem};

/// A policy as it stands in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Concern {
    pub namespace: Label,
    pub name: Label,
    pub uid: Arc<str>,
    pub generation: i64,
    /// What agents are told of it.
    pub policy: Arc<Policy>,
    /// Why it cannot be enforced as it is written; it refuses everything then.
    pub refused: Option<Problem>,
    /// Its namespace has so many that this one is not told to anybody.
    pub is_beyond: bool,
    /// The nodes of the workloads that it selects.
    pub nodes: BTreeSet<Label>,
    /// What its status says.
    pub status: PolicyStatus,
}

impl World {
    /// All policies. Of those that stand as before, the same values.
    pub fn concerns(&mut self) -> Vec<Arc<Concern>> {
        for namespace in std::mem::take(&mut self.unsettled) {
            self.settle(&namespace);
        }
        self.concerns.values().cloned().collect()
    }

    fn settle(&mut self, namespace: &Label) {
        let now: Vec<_> = self
            .policies_in(namespace)
            .enumerate()
            .map(|(at, (key, held))| (key.clone(), self.concern(key, held, at >= limits::POLICIES)))
            .collect();
        let is_gone =
            |key: &&(Label, Label)| key.0 == *namespace && !self.policies.contains_key(*key);
        let gone: Vec<_> = self.concerns.keys().filter(is_gone).cloned().collect();
        gone.iter().for_each(|key| drop(self.concerns.remove(key)));
        for (key, concern) in now {
            if self.concerns.get(&key).is_none_or(|before| **before != concern) {
                self.concerns.insert(key, Arc::new(concern));
            }
        }
    }

    fn concern(&self, (namespace, name): &(Label, Label), held: &Held, is_beyond: bool) -> Concern {
        let pods = self.pods_in.get(namespace).into_iter().flatten();
        let pods = pods.filter(|name| self.enrolled.contains_key(*name));
        let pods = pods.filter_map(|name| self.pods.get(name));
        let selected = pods.filter(|pod| match &held.policy.selector {
            Selector::All => true,
            Selector::ServiceAccounts(accounts) => accounts.contains(&pod.service_account),
            Selector::Listing => held.selects(pod),
        });
        Concern {
            namespace: namespace.clone(),
            name: name.clone(),
            uid: held.uid.clone(),
            generation: held.generation,
            policy: held.policy.clone(),
            refused: held.refused.clone(),
            is_beyond,
            nodes: selected.map(|pod| pod.node.clone()).collect(),
            status: held.status.clone(),
        }
    }
}
