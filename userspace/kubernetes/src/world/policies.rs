//! Policies, and which pods each selects.
//!
//! A policy that cannot be enforced as it is written is not left out: to leave out a refusal is to
//! allow. It refuses every connection to what it selects until it is corrected, and says so.

use std::{collections::BTreeMap, sync::Arc};

use martlet_model::{Label, WorkloadName};
use martlet_policy::{Action, Policy, Rule, Selector};

use super::{Kind, Object, World};
use crate::{
    api::{PolicyObject, Selected},
    limits,
    seen::Pod,
};

#[derive(Debug)]
pub(super) struct Held {
    policy: Arc<Policy>,
    /// `None`: all of the namespace.
    labels: Option<BTreeMap<String, String>>,
}

impl Held {
    fn selects(&self, pod: &Pod) -> bool {
        let has = |(key, value): (&String, &String)| pod.labels.get(key) == Some(value);
        self.labels.as_ref().is_some_and(|labels| labels.iter().all(has))
    }
}

impl World {
    pub fn set_policy(&mut self, object: &PolicyObject) {
        let (namespace, name) = match object.names() {
            Ok(names) => names,
            Err(problem) => {
                let object = Object::new(Kind::AuthorizationPolicy, &object.namespace(), "");
                return self.note(object, vec![problem]);
            }
        };
        let at = Object::new(Kind::AuthorizationPolicy, namespace.as_str(), name.as_str());
        let (held, problems) = match object.read() {
            Ok(read) => {
                let (selector, labels) = selector(read.selected);
                let (action, rules) = (read.action, read.rules);
                let policy = Policy {
                    namespace: namespace.clone(),
                    name: name.clone(),
                    selector,
                    action,
                    rules,
                };
                (Held { policy: Arc::new(policy), labels }, vec![])
            }
            Err((selected, problem)) => {
                let (selector, labels) = selector(selected);
                let policy = refusing(namespace.clone(), name.clone(), selector);
                (Held { policy: Arc::new(policy), labels }, vec![problem])
            }
        };
        self.note(at, problems);
        let key = (namespace.clone(), name);
        match self.policies.get_mut(&key) {
            Some(before) if before.policy == held.policy => before.labels = held.labels,
            _ => drop(self.policies.insert(key, held)),
        }
        self.decide_pods_in(&namespace);
    }

    pub fn remove_policy(&mut self, key: &(Label, Label)) {
        if self.policies.remove(key).is_some() {
            self.decide_pods_in(&key.0);
        }
        let (namespace, name) = (key.0.as_str(), key.1.as_str());
        self.note(Object::new(Kind::AuthorizationPolicy, namespace, name), vec![]);
    }

    /// All policies; of a namespace with too many, one that refuses everything there.
    pub(super) fn told_policies(&self) -> Vec<Arc<Policy>> {
        let mut told = Vec::new();
        let mut of_namespace = 0;
        let mut namespace = None;
        for ((of, name), held) in &self.policies {
            match namespace == Some(of) {
                true => of_namespace += 1,
                false => (namespace, of_namespace) = (Some(of), 1),
            }
            if of_namespace <= limits::POLICIES {
                told.push(held.policy.clone());
            } else if of_namespace == limits::POLICIES + 1 {
                told.push(Arc::new(refusing(of.clone(), name.clone(), Selector::All)));
            }
        }
        told
    }

    /// The names of the policies that select this pod by its labels.
    pub(super) fn policies_of(&self, pod: &Pod) -> Vec<Label> {
        let WorkloadName { namespace, .. } = &pod.name;
        let first = (namespace.clone(), first_label());
        let of_namespace = self.policies.range(first..).take_while(|((of, _), _)| of == namespace);
        let selecting = of_namespace.take(limits::POLICIES).filter(|(_, held)| held.selects(pod));
        selecting.map(|((_, name), _)| name.clone()).collect()
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
