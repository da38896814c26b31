//! Policies, and which pods each selects.
//!
//! A policy that cannot be enforced as it is written is not left out: to leave out a refusal is to
//! allow. It refuses every connection to what it selects until it is corrected, and says so.

use std::{collections::BTreeMap, sync::Arc};

use martlet_model::{Label, WorkloadName};
use martlet_policy::{Action, Policy, Rule, Selector};

use super::{Kind, Object, World};
use crate::{
    api::{PolicyObject, PolicyStatus, Selected},
    limits,
    seen::{Pod, Problem},
};

#[derive(Debug)]
pub(super) struct Held {
    pub(super) policy: Arc<Policy>,
    /// `None`: all of the namespace.
    labels: Option<BTreeMap<String, String>>,
    pub(super) uid: Arc<str>,
    pub(super) generation: i64,
    /// Why it cannot be enforced as it is written.
    pub(super) refused: Option<Problem>,
    pub(super) status: PolicyStatus,
}

impl Held {
    pub(super) fn selects(&self, pod: &Pod) -> bool {
        let has = |(key, value): (&String, &String)| pod.labels.get(key) == Some(value);
        self.labels.as_ref().is_some_and(|labels| labels.iter().all(has))
    }
}

impl World {
    pub fn set_policy(&mut self, object: &PolicyObject) {
        let uid: Arc<str> = object.metadata.uid.clone().unwrap_or_default().into();
        let (namespace, name) = match object.names() {
            Ok(names) => names,
            Err(problem) => {
                let object = Object::new(Kind::AuthorizationPolicy, &object.namespace(), "");
                return self.note(object, &uid, vec![problem]);
            }
        };
        let at = Object::new(Kind::AuthorizationPolicy, namespace.as_str(), name.as_str());
        let (policy, labels, refused) = match object.read() {
            Ok(read) => {
                let (selector, labels) = selector(read.selected);
                let (action, rules) = (read.action, read.rules);
                let (namespace, name) = (namespace.clone(), name.clone());
                (Policy { namespace, name, selector, action, rules }, labels, None)
            }
            Err((selected, problem)) => {
                let (selector, labels) = selector(selected);
                let policy = refusing(namespace.clone(), name.clone(), selector);
                (policy, labels, Some(problem))
            }
        };
        self.note(at, &uid, refused.iter().cloned().collect());
        let key = (namespace.clone(), name);
        let generation = object.metadata.generation.unwrap_or_default();
        let mut held = Held {
            policy: Arc::new(policy),
            labels,
            uid,
            generation,
            refused,
            status: object.said(),
        };
        let mut is_other = true;
        if let Some(before) = self.policies.get(&key)
            && before.policy == held.policy
        {
            held.policy = before.policy.clone();
            is_other = before.labels != held.labels;
        }
        self.policies.insert(key, held);
        self.unsettled.insert(namespace.clone());
        // What is only said about it selects nobody else.
        if is_other {
            self.tell_policies_of(&namespace);
            self.decide_pods_in(&namespace);
        }
    }

    pub fn remove_policy(&mut self, key: &(Label, Label)) {
        if self.policies.remove(key).is_some() {
            self.unsettled.insert(key.0.clone());
            self.tell_policies_of(&key.0);
            self.decide_pods_in(&key.0);
        }
        let (namespace, name) = (key.0.as_str(), key.1.as_str());
        self.is_well(&Object::new(Kind::AuthorizationPolicy, namespace, name));
    }

    /// All policies of a namespace; where it has too many, one that refuses everything there.
    fn tell_policies_of(&mut self, namespace: &Label) {
        let mut told = BTreeMap::new();
        for (at, (key, held)) in self.policies_in(namespace).enumerate() {
            if at == limits::POLICIES {
                let (namespace, name) = key.clone();
                told.insert(key.clone(), Arc::new(refusing(namespace, name, Selector::All)));
                break;
            }
            told.insert(key.clone(), held.policy.clone());
        }
        let first = (namespace.clone(), first_label());
        let of_namespace = self.told_policies.range(first..);
        let before = of_namespace.map(|(key, _)| key).take_while(|(of, _)| of == namespace);
        let gone: Vec<_> = before.filter(|key| !told.contains_key(*key)).cloned().collect();
        gone.iter().for_each(|key| drop(self.told_policies.remove(key)));
        for (key, policy) in told {
            if self.told_policies.get(&key) != Some(&policy) {
                self.told_policies.insert(key, policy);
            }
        }
    }

    /// The names of the policies that select this pod by its labels.
    pub(super) fn policies_of(&self, pod: &Pod) -> Vec<Label> {
        let WorkloadName { namespace, .. } = &pod.name;
        let of_namespace = self.policies_in(namespace).take(limits::POLICIES);
        let selecting = of_namespace.filter(|(_, held)| held.selects(pod));
        selecting.map(|((_, name), _)| name.clone()).collect()
    }

    pub(super) fn policies_in(
        &self,
        namespace: &Label,
    ) -> impl Iterator<Item = (&(Label, Label), &Held)> {
        let first = (namespace.clone(), first_label());
        self.policies.range(first..).take_while(move |((of, _), _)| of == namespace)
    }
}

fn selector(selected: Selected) -> (Selector, Option<BTreeMap<String, String>>) {
    match selected {
        Selected::All => (Selector::All, None),
        Selected::ServiceAccounts(accounts) => (Selector::ServiceAccounts(accounts), None),
        Selected::Labels(labels) => (Selector::Listing, Some(labels)),
    }
}

/// Stands for a policy that cannot be enforced.
fn refusing(namespace: Label, name: Label, selector: Selector) -> Policy {
    let rule = Rule { name: Some("cannot be enforced".to_owned()), from: None, ports: None };
    Policy { namespace, name, selector, action: Action::Deny, rules: vec![rule] }
}

/// No name comes before it: names begin with a letter or a digit.
fn first_label() -> Label {
    "0".parse().expect("a digit is a name")
}
