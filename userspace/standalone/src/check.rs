//! What must be true of a file beyond its shape. Every problem is noted and the rest is still
//! looked at, so that one run shows all of them.

mod controller;
mod federated;
mod outside;
mod policies;
mod services;
mod settings;
mod source;
mod text;
mod workloads;

use std::{collections::HashMap, hash::Hash, sync::Arc};

use martlet_model::{Directory, Label, LocalWorkload, WorkloadName};
use martlet_policy::PolicySet;

use crate::{
    file::File,
    limits,
    mark::{At, Mark},
    node_file::{NodeFile, Settings},
    problem::{Fault, Problem},
};

pub(crate) use controller::{controller, directory};

/// What was found so far.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    problems: Vec<Problem>,
    /// Those that were not kept.
    others: usize,
}

/// Where each key stood first.
struct Seen<K>(HashMap<K, Option<Mark>>);

pub(crate) fn file(file: &File, node: Option<&Label>) -> Result<NodeFile, Findings> {
    let mut findings = Findings::default();
    let found = &mut findings;
    let trust_domain = text::trust_domain(&file.trust_domain, found);
    let source = source::source(file, found);
    let settings = settings::settings(&file.node, node, file.trust_domain.mark, found);
    let own_node = settings.as_ref().map(|settings| &settings.name);
    let mut workloads =
        workloads::workloads(&file.workloads, trust_domain.as_ref(), own_node, found);
    let outside = outside::outside(file, &mut workloads.sources, found);
    if settings.as_ref().is_some_and(|settings| settings.prober.is_none()) {
        refuse_probes(&file.workloads, &workloads.local, found);
    }
    if let Some(settings) = &settings {
        refuse_long_sockets(&file.workloads, &workloads.local, settings, found);
    }
    let services = services::services(&file.services, &workloads.owners, found);
    let policies = policies::policies(&file.policies, found);

    // Both refuse what was noted above, without knowing its place.
    if findings.problems.is_empty()
        && let (Some(trust_domain), Some(source), Some(settings)) = (trust_domain, source, settings)
    {
        let directory = findings.keep(None, Directory::new(workloads.all, services));
        let policies = findings.keep(None, PolicySet::new(policies));
        if let (Some(directory), Some(policies)) = (directory, policies) {
            let (directory, policies) = (Arc::new(directory), Arc::new(policies));
            let local = workloads.local;
            return Ok(NodeFile {
                trust_domain,
                source,
                settings,
                local,
                outside,
                directory,
                policies,
            });
        }
    }
    Err(findings)
}

/// Of this node's workloads only: what is said of others is for their nodes.
fn refuse_probes(
    entries: &[At<crate::file::Workload>],
    local: &[LocalWorkload],
    found: &mut Findings,
) {
    for LocalWorkload { workload, .. } in local.iter().filter(|local| !local.probes.is_empty()) {
        let name = &workload.name;
        let mark = entry_of(name, entries).and_then(|entry| entry.probes.as_ref()?.mark);
        found.note(mark, Fault::ProberMissing { workload: name.clone() });
    }
}

/// The path is made of names, each of which may be right by itself.
fn refuse_long_sockets(
    entries: &[At<crate::file::Workload>],
    local: &[LocalWorkload],
    settings: &Settings,
    found: &mut Findings,
) {
    for LocalWorkload { workload, .. } in local.iter().filter(|local| local.workload_api) {
        let name = &workload.name;
        let mark = entry_of(name, entries).and_then(|entry| entry.workload_api.as_ref()?.mark);
        found.keep(mark, settings.workload_socket(name));
    }
}

fn entry_of<'a>(
    name: &WorkloadName,
    entries: &'a [At<crate::file::Workload>],
) -> Option<&'a crate::file::Workload> {
    let is_its = |entry: &&crate::file::Workload| {
        (entry.namespace.value.as_str(), entry.name.value.as_str())
            == (name.namespace.as_str(), name.name.as_str())
    };
    entries.iter().map(|entry| &entry.value).find(is_its)
}

impl Findings {
    fn note(&mut self, mark: Option<Mark>, fault: impl Into<Fault>) {
        match self.problems.len() < limits::MAX_PROBLEMS_KEPT {
            true => self.problems.push(Problem { mark, fault: fault.into() }),
            false => self.others += 1,
        }
    }

    /// The value, or a note of why there is none.
    fn keep<T>(&mut self, mark: Option<Mark>, result: Result<T, impl Into<Fault>>) -> Option<T> {
        result.map_err(|fault| self.note(mark, fault)).ok()
    }

    /// Notes a list that says nothing. What it was meant to say is not for us to guess.
    fn refuse_empty<T>(&mut self, key: &'static str, list: &At<Vec<T>>, instead: &'static str) {
        if list.value.is_empty() {
            self.note(list.mark, Fault::Empty { key, instead });
        }
    }

    /// The first problems in the file's order, and how many more there are.
    pub(crate) fn into_list(mut self) -> (Vec<Problem>, usize) {
        self.problems.sort_by_key(|problem| problem.mark);
        let unlisted = self.problems.len().saturating_sub(limits::MAX_PROBLEMS);
        self.problems.truncate(limits::MAX_PROBLEMS);
        (self.problems, unlisted + self.others)
    }
}

impl<K: Eq + Hash> Seen<K> {
    fn new() -> Self {
        Self(HashMap::new())
    }

    /// Notes a key that was there before; `what` names it.
    fn once(
        &mut self,
        key: K,
        what: impl Fn() -> String,
        mark: Option<Mark>,
        found: &mut Findings,
    ) {
        match self.0.entry(key) {
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(mark);
            }
            std::collections::hash_map::Entry::Occupied(entry) => {
                let first = entry.get().unwrap_or(Mark { line: 1, column: 1 });
                found.note(mark, Fault::Twice { what: what(), first });
            }
        }
    }
}
