//! From a table and what changed in it to the messages for one node.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use martlet_model::{Label, WorkloadName};
use prost::Message as _;

use super::{Changed, Table};
use crate::{
    Telling, limits,
    message::{
        Local, Malformed, here_to, local_to, name_to, outside_to, policy_name_to, policy_to,
        service_to, settings_to, trust_to, workload_to,
    },
    proto,
};

/// What messages are to say.
#[derive(Debug, Clone, Copy)]
pub enum Scope<'a> {
    /// Everything.
    Full,
    /// What has changed since this version.
    Since(u64, &'a Changed),
}

/// At least one; the last one is `complete`.
pub fn messages(
    table: &Table,
    node: &Label,
    instance: u64,
    version: u64,
    scope: Scope<'_>,
) -> Result<Vec<proto::ToAgent>, Malformed> {
    let (base, full) = match scope {
        Scope::Full => (0, true),
        Scope::Since(base, _) => (base, false),
    };
    let head = proto::ToAgent { instance, version, base, full, ..Default::default() };
    let mut chunks = Chunks::new(head);
    match scope {
        Scope::Full => {
            say_common(table, &mut chunks);
            let all = table.locals.keys().chain(table.outside.keys());
            say_own(table, node, all, &mut chunks)?;
            say_here_and_now(table, node, &mut chunks);
        }
        Scope::Since(_, changed) => say(table, node, changed, &mut chunks)?,
    }
    Ok(chunks.finish())
}

/// A table as it was told whole, as far as all nodes are told the same: encoded once, for all that
/// are told everything as long as not much has changed since.
#[derive(Debug)]
pub struct Whole {
    pub version: u64,
    encoded: Vec<Bytes>,
    /// What is on each node, by name.
    own: HashMap<Label, BTreeSet<WorkloadName>>,
}

impl Whole {
    pub fn of(table: &Table, version: u64) -> Self {
        let mut chunks = Chunks::new(proto::ToAgent::default());
        say_common(table, &mut chunks);
        let encoded = chunks.all().into_iter().map(|chunk| chunk.encode_to_vec().into()).collect();
        let mut own: HashMap<Label, BTreeSet<_>> = HashMap::new();
        let locals = table.locals.keys().filter_map(|name| Some((table.node_of(name)?, name)));
        let outside = table.outside.iter().map(|(name, one)| (&one.node, name));
        for (node, name) in locals.chain(outside) {
            own.entry(node.clone()).or_default().insert(name.clone());
        }
        Self { version, encoded, own }
    }

    /// Everything that is in the table now, for one node; `changed`: since it was this.
    pub fn messages(
        &self,
        table: &Table,
        node: &Label,
        instance: u64,
        version: u64,
        changed: &Changed,
    ) -> Result<Vec<Telling>, Malformed> {
        let head = proto::ToAgent { instance, version, full: true, ..Default::default() };
        let whole = self.encoded.iter();
        let mut told: Vec<_> =
            whole.map(|part| Telling { said: head.clone(), encoded: part.clone() }).collect();
        let mut chunks = Chunks::new(head);
        // Who hears of something twice in a version takes what was said last.
        say_common_changes(table, changed, &mut chunks);
        let own = self.own.get(node).into_iter().flatten();
        let later = changed.locals.iter().chain(&changed.outside).filter(|(of, _)| of == node);
        let own: BTreeSet<_> = own.chain(later.map(|(_, name)| name)).collect();
        say_own(table, node, own, &mut chunks)?;
        say_here_and_now(table, node, &mut chunks);
        told.extend(chunks.finish().into_iter().map(Telling::from));
        Ok(told)
    }
}

/// What all nodes are told.
fn say_common(table: &Table, chunks: &mut Chunks) {
    for workload in table.workloads.values() {
        chunks.with(workload_to(workload), |open, one| open.workloads.push(one));
    }
    for service in table.services.values() {
        chunks.with(service_to(service), |open, one| open.services.push(one));
    }
    for policy in table.policies.values() {
        chunks.with(policy_to(policy), |open, one| open.policies.push(one));
    }
}

/// Which of these are on the node, and what runs there.
fn say_own<'a>(
    table: &Table,
    node: &Label,
    names: impl IntoIterator<Item = &'a WorkloadName>,
    chunks: &mut Chunks,
) -> Result<(), Malformed> {
    for name in names {
        if let Some(one) = table.locals.get(name).filter(|local| is_on(table, local, node)) {
            chunks.with(local_to(one)?, |open, one| open.locals.push(one));
        }
        if let Some(one) = table.outside.get(name).filter(|one| one.node == *node) {
            chunks.with(outside_to(one)?, |open, one| open.outside.push(one));
        }
    }
    Ok(())
}

fn say_here_and_now(table: &Table, node: &Label, chunks: &mut Chunks) {
    if let Some(trust) = &table.trust {
        chunks.with(trust_to(trust), |open, one| open.trust = Some(one));
    }
    if table.failure.is_some() {
        say_settings(table, chunks);
    }
    if table.zones.contains_key(node) {
        say_here(table, node, chunks);
    }
}

fn say_here(table: &Table, node: &Label, chunks: &mut Chunks) {
    chunks.with(here_to(table.zones.get(node)), |open, one| open.here = Some(one));
}

fn say_settings(table: &Table, chunks: &mut Chunks) {
    chunks.with(settings_to(table.failure), |open, one| open.settings = Some(one));
}

fn say_common_changes(table: &Table, changed: &Changed, chunks: &mut Chunks) {
    for name in &changed.workloads {
        match table.workloads.get(name) {
            Some(one) => chunks.with(workload_to(one), |open, one| open.workloads.push(one)),
            None => chunks.with(name_to(name), |open, one| open.workloads_removed.push(one)),
        }
    }
    for address in &changed.services {
        match table.services.get(address) {
            Some(one) => chunks.with(service_to(one), |open, one| open.services.push(one)),
            None => {
                chunks.with(address.to_string(), |open, one| open.services_removed.push(one));
            }
        }
    }
    for name in &changed.policies {
        match table.policies.get(name) {
            Some(one) => chunks.with(policy_to(one), |open, one| open.policies.push(one)),
            None => chunks.with(policy_name_to(name), |open, one| open.policies_removed.push(one)),
        }
    }
}

fn say(
    table: &Table,
    node: &Label,
    changed: &Changed,
    chunks: &mut Chunks,
) -> Result<(), Malformed> {
    say_common_changes(table, changed, chunks);
    for (_, name) in changed.locals.iter().filter(|(of, _)| of == node) {
        match table.locals.get(name).filter(|local| is_on(table, local, node)) {
            Some(one) => chunks.with(local_to(one)?, |open, one| open.locals.push(one)),
            None => chunks.with(name_to(name), |open, one| open.locals_removed.push(one)),
        }
    }
    for (_, name) in changed.outside.iter().filter(|(of, _)| of == node) {
        match table.outside.get(name).filter(|one| one.node == *node) {
            Some(one) => chunks.with(outside_to(one)?, |open, one| open.outside.push(one)),
            None => chunks.with(name_to(name), |open, one| open.outside_removed.push(one)),
        }
    }
    if changed.trust
        && let Some(trust) = &table.trust
    {
        chunks.with(trust_to(trust), |open, one| open.trust = Some(one));
    }
    if changed.settings {
        say_settings(table, chunks);
    }
    if changed.zones.contains(node) {
        say_here(table, node, chunks);
    }
    Ok(())
}

fn is_on(table: &Table, local: &Local, node: &Label) -> bool {
    table.node_of(&local.name) == Some(node)
}

/// Messages of some size.
struct Chunks {
    done: Vec<proto::ToAgent>,
    open: proto::ToAgent,
    head: proto::ToAgent,
    bytes: usize,
}

impl Chunks {
    fn new(head: proto::ToAgent) -> Self {
        Self { done: Vec::new(), open: head.clone(), head, bytes: 0 }
    }

    fn with<T: prost::Message>(&mut self, item: T, put: impl FnOnce(&mut proto::ToAgent, T)) {
        if self.bytes >= limits::CHUNK_BYTES {
            self.done.push(std::mem::replace(&mut self.open, self.head.clone()));
            self.bytes = 0;
        }
        // With its tag and length.
        self.bytes += item.encoded_len() + 8;
        put(&mut self.open, item);
    }

    fn finish(mut self) -> Vec<proto::ToAgent> {
        self.open.complete = true;
        self.all()
    }

    fn all(mut self) -> Vec<proto::ToAgent> {
        self.done.push(self.open);
        self.done
    }
}
