//! From a table and what changed in it to the messages for one node.

use martlet_model::Label;

use super::{Changed, Table};
use crate::{
    limits,
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
    let mut chunks = Chunks { done: Vec::new(), open: head.clone(), head, bytes: 0 };
    match scope {
        Scope::Full => say_all(table, node, &mut chunks)?,
        Scope::Since(_, changed) => say(table, node, changed, &mut chunks)?,
    }
    Ok(chunks.finish())
}

fn say_all(table: &Table, node: &Label, chunks: &mut Chunks) -> Result<(), Malformed> {
    for workload in table.workloads.values() {
        chunks.with(workload_to(workload), |open, one| open.workloads.push(one));
    }
    for service in table.services.values() {
        chunks.with(service_to(service), |open, one| open.services.push(one));
    }
    for policy in table.policies.values() {
        chunks.with(policy_to(policy), |open, one| open.policies.push(one));
    }
    for local in table.locals.values().filter(|local| is_on(table, local, node)) {
        chunks.with(local_to(local)?, |open, one| open.locals.push(one));
    }
    for one in table.outside.values().filter(|one| one.node == *node) {
        chunks.with(outside_to(one)?, |open, one| open.outside.push(one));
    }
    if let Some(trust) = &table.trust {
        chunks.with(trust_to(trust), |open, one| open.trust = Some(one));
    }
    if table.failure.is_some() {
        say_settings(table, chunks);
    }
    if table.zones.contains_key(node) {
        say_here(table, node, chunks);
    }
    Ok(())
}

fn say_here(table: &Table, node: &Label, chunks: &mut Chunks) {
    chunks.with(here_to(table.zones.get(node)), |open, one| open.here = Some(one));
}

fn say_settings(table: &Table, chunks: &mut Chunks) {
    chunks.with(settings_to(table.failure), |open, one| open.settings = Some(one));
}

fn say(
    table: &Table,
    node: &Label,
    changed: &Changed,
    chunks: &mut Chunks,
) -> Result<(), Malformed> {
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
        self.done.push(self.open);
        self.done
    }
}
