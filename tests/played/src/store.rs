//! The objects, as JSON, and what became of them lately.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use serde_json::{Map, Value, json};

use crate::{faults::Faults, path::Collection};

/// Changes of a kind that are remembered; who watches from before them begins anew.
const CHANGES: usize = 10_000;

#[derive(Default)]
pub struct Store {
    version: u64,
    lives: u64,
    kinds: BTreeMap<(String, String), Kind>,
    /// Nothing is known any more of what came before it.
    expired: u64,
    /// Lists that are half read, by what continues them: their version and what is left.
    rests: HashMap<String, (u64, Vec<Arc<str>>)>,
    pub faults: Faults,
    pub tokens: HashMap<String, Value>,
}

#[derive(Default)]
struct Kind {
    objects: BTreeMap<(String, String), Arc<str>>,
    changes: VecDeque<Change>,
    /// The same, of this kind.
    since: u64,
}

#[derive(Clone)]
pub struct Change {
    pub version: u64,
    pub kind: &'static str,
    pub object: Arc<str>,
}

impl Store {
    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn get(&self, of: &Collection, namespace: &str, name: &str) -> Option<Value> {
        let kind = self.kinds.get(&of.key())?;
        let text = kind.objects.get(&(namespace.to_owned(), name.to_owned()))?;
        Some(serde_json::from_str(text).unwrap())
    }

    /// What stands then. What is the same as before is no change.
    pub fn set(&mut self, of: &Collection, mut object: Value) -> Value {
        let before = self.get(of, namespace(&object), name(&object));
        object["apiVersion"] = json!(of.api_version());
        object["kind"] = json!(singular(&of.plural));
        let metadata = &mut object["metadata"];
        match &before {
            Some(before) => {
                for given in ["uid", "creationTimestamp", "resourceVersion"] {
                    metadata[given] = before["metadata"][given].clone();
                }
            }
            None => {
                self.lives += 1;
                metadata["uid"] = json!(format!("00000000-0000-4000-8000-{:012}", self.lives));
                metadata["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
        }
        if before.as_ref() == Some(&object) {
            return object;
        }
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let key = (namespace(&object).to_owned(), name(&object).to_owned());
        let text: Arc<str> = object.to_string().into();
        let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
        let version = self.version;
        let of = self.kinds.entry(of.key()).or_default();
        of.objects.insert(key, text.clone());
        of.remember(Change { version, kind, object: text });
        object
    }

    pub fn remove(&mut self, of: &Collection, namespace: &str, name: &str) -> Option<Value> {
        let mut object = self.get(of, namespace, name)?;
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let (version, text) = (self.version, object.to_string().into());
        let of = self.kinds.entry(of.key()).or_default();
        of.objects.remove(&(namespace.to_owned(), name.to_owned()));
        of.remember(Change { version, kind: "DELETED", object: text });
        Some(object)
    }

    /// What was told last of a kind cannot be read.
    pub fn garble(&mut self, of: &Collection) {
        let kind = self.kinds.get_mut(&of.key());
        if let Some(change) = kind.and_then(|kind| kind.changes.back_mut()) {
            change.object = "{ \"metadata\": }".into();
        }
    }

    pub fn expire(&mut self) {
        self.version += 1;
        self.rests.clear();
        self.expired = self.version;
        self.kinds.values_mut().for_each(|kind| kind.changes.clear());
    }

    /// All of a namespace, or of all of them.
    pub fn list(&self, of: &Collection, within: Option<&str>) -> (u64, Vec<Arc<str>>) {
        let kind = self.kinds.get(&of.key());
        let all = kind.iter().flat_map(|kind| &kind.objects);
        let all = all.filter(|((namespace, _), _)| within.is_none_or(|one| one == namespace));
        (self.version, all.map(|(_, text)| text.clone()).collect())
    }

    /// Keeps what is left of a list: what continues it.
    pub fn keep_rest(&mut self, version: u64, rest: Vec<Arc<str>>) -> String {
        let token = format!("{version}-{}", rest.len());
        self.rests.insert(token.clone(), (version, rest));
        token
    }

    pub fn rest(&self, token: &str) -> Option<(u64, Vec<Arc<str>>)> {
        self.rests.get(token).cloned()
    }

    /// What became of a kind after a version; `None`: that is not known any more, or is to come.
    pub fn since(&self, of: &Collection, version: u64) -> Option<Vec<Change>> {
        let kind = self.kinds.get(&of.key());
        if version < self.expired || kind.is_some_and(|kind| version < kind.since) {
            return None;
        }
        let Some(kind) = kind else { return Some(Vec::new()) };
        let first = kind.changes.partition_point(|change| change.version <= version);
        Some(kind.changes.range(first..).cloned().collect())
    }
}

impl Kind {
    fn remember(&mut self, change: Change) {
        self.changes.push_back(change);
        if self.changes.len() > CHANGES
            && let Some(oldest) = self.changes.pop_front()
        {
            self.since = oldest.version;
        }
    }
}

/// What a patch of these makes of an object: what is null goes, what is an object is merged.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    for (key, value) in patch {
        match value {
            Value::Null => drop(target.as_object_mut().unwrap().remove(key)),
            _ => merge(&mut target[key], value),
        }
    }
}

pub fn namespace(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or_default()
}

pub fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// Of the kinds that the product asks for.
pub fn singular(plural: &str) -> String {
    let known = [
        ("namespaces", "Namespace"),
        ("pods", "Pod"),
        ("services", "Service"),
        ("nodes", "Node"),
        ("endpointslices", "EndpointSlice"),
        ("authorizationpolicies", "AuthorizationPolicy"),
        ("trustbundles", "TrustBundle"),
        ("meshconfigs", "MeshConfig"),
        ("configmaps", "ConfigMap"),
        ("secrets", "Secret"),
        ("leases", "Lease"),
        ("events", "Event"),
        ("tokenreviews", "TokenReview"),
    ];
    let found = known.iter().find(|(known, _)| *known == plural);
    found.map_or(plural, |(_, singular)| singular).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_keeps_what_is_not_named_and_takes_away_what_is_null() {
        let mut object = json!({ "a": { "b": 1, "c": 2 }, "d": [1] });
        merge(&mut object, &json!({ "a": { "b": null, "e": { "f": 3 } }, "d": [2] }));
        assert_eq!(object, json!({ "a": { "c": 2, "e": { "f": 3 } }, "d": [2] }));
    }

    #[test]
    fn a_change_can_be_watched_from_any_version_that_has_not_expired() {
        let (mut store, of) = (Store::default(), Collection::new("v1", "pods"));
        for name in ["a", "b"] {
            store.set(&of, json!({ "metadata": { "namespace": "n", "name": name } }));
        }
        store.remove(&of, "n", "a");
        let kinds = |store: &Store, version| {
            let since = store.since(&of, version);
            since.map(|all| all.iter().map(|change| change.kind).collect::<Vec<_>>())
        };
        assert_eq!(kinds(&store, 1), Some(vec!["ADDED", "DELETED"]));
        store.expire();
        assert_eq!(kinds(&store, 3), None);
        assert_eq!(kinds(&store, 4), Some(vec![]));
    }
}
