//! What a record says, in the words of OpenTelemetry's semantic conventions.
//!
//! | what | is |
//! |---|---|
//! | trace | the connection's ID, which both agents know from the lane's OPEN |
//! | the caller's span | kind client, named by the connection's ID |
//! | the called workload's | kind server; the caller's is its parent |
//! | resource | the workload on whose behalf the agent speaks |

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use martlet_model::{
    AccessRecord, Closed, Party, Protection, Reporter, SpiffeId, TlsFacts, WorkloadName,
};

use crate::{
    exporter::{Ended, Settings},
    message::{
        AnyValue, ExportRequest, KeyValue, Resource, ResourceSpans, Scope, ScopeSpans, Span,
        SpanKind, Status, StatusCode, any_value::Value,
    },
};

const NAME: &str = "connection";
const SCOPE: &str = "martlet";
/// Of connections whose workload is not known.
const AGENT: &str = "martlet-agent";

/// That it is sampled (W3C Trace Context), and that the next flag says something.
const SAMPLED: u32 = 0x101;
/// The parent is another process's.
const PARENT_ELSEWHERE: u32 = 0x200;

/// `random` gives names for spans that nobody else has to know.
pub fn request(
    ended: &[Ended],
    settings: &Settings,
    mut random: impl FnMut() -> u64,
) -> ExportRequest {
    let mut of_workloads: HashMap<_, Vec<Span>> = HashMap::new();
    for Ended { record, at } in ended {
        let own = own(record);
        let key = (own.identity.as_ref(), own.workload.as_ref());
        of_workloads.entry(key).or_default().push(span(record, *at, random()));
    }
    let scope = Scope { name: SCOPE.to_owned(), version: settings.version.clone() };
    let of_one = |((identity, workload), spans)| ResourceSpans {
        resource: Some(resource(identity, workload, settings)),
        scope_spans: vec![ScopeSpans { scope: Some(scope.clone()), spans }],
    };
    ExportRequest { resource_spans: of_workloads.into_iter().map(of_one).collect() }
}

fn own(record: &AccessRecord) -> &Party {
    match record.reporter {
        Reporter::Source => &record.source,
        Reporter::Destination => &record.destination,
    }
}

fn resource(
    identity: Option<&SpiffeId>,
    workload: Option<&WorkloadName>,
    settings: &Settings,
) -> Resource {
    let mut said = Attributes::default();
    match identity.and_then(SpiffeId::workload_names) {
        Some((namespace, account)) => {
            said.text("service.name", account);
            said.text("service.namespace", namespace);
        }
        None => said.text("service.name", AGENT),
    }
    if settings.are_pods {
        said.text("k8s.node.name", settings.node.as_str());
        if let Some(WorkloadName { namespace, name }) = workload {
            said.text("k8s.namespace.name", namespace.as_str());
            said.text("k8s.pod.name", name.as_str());
        }
    } else {
        said.text("host.name", settings.node.as_str());
    }
    Resource { attributes: said.0 }
}

fn span(record: &AccessRecord, ended: SystemTime, random: u64) -> Span {
    let id = record.id.0.to_be_bytes();
    let is_caller = record.reporter == Reporter::Source;
    let parent = if !is_caller && is_shared(record) { id.to_vec() } else { Vec::new() };
    let flags = if parent.is_empty() { SAMPLED } else { SAMPLED | PARENT_ELSEWHERE };
    let began = ended.checked_sub(record.duration).unwrap_or(ended);
    Span {
        trace_id: [[0; 8], id].concat(),
        span_id: if is_caller { id.to_vec() } else { random.max(1).to_be_bytes().to_vec() },
        parent_span_id: parent,
        name: NAME.to_owned(),
        kind: if is_caller { SpanKind::Client } else { SpanKind::Server }.into(),
        start_time_unix_nano: nanos(began),
        end_time_unix_nano: nanos(ended),
        attributes: attributes(record),
        status: Some(status(record)),
        flags,
    }
}

/// Whether the caller certainly knows the connection by the same ID. A callee that refuses before it has
/// read an OPEN has made one up, and some refusals may come before and after.
fn is_shared(record: &AccessRecord) -> bool {
    record.tls.is_some() && !matches!(record.closed, Closed::LimitReached | Closed::LaneViolation)
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// A reset is an application's way to end a connection; everything else that is not an end in order is
/// somebody's fault.
fn is_failure(closed: Closed) -> bool {
    !matches!(closed, Closed::Finished | Closed::ResetByCaller | Closed::ResetByCallee)
}

fn status(record: &AccessRecord) -> Status {
    if !is_failure(record.closed) {
        return Status { message: String::new(), code: StatusCode::Unset.into() };
    }
    let message = match &record.policy {
        Some(policy) => format!("{}: {policy}", record.closed),
        None => record.closed.to_string(),
    };
    Status { message, code: StatusCode::Error.into() }
}

fn attributes(record: &AccessRecord) -> Vec<KeyValue> {
    let mut said = Attributes::default();
    ends(record, &mut said);
    party("source", &record.source, &mut said);
    party("destination", &record.destination, &mut said);
    said.text("martlet.connection.id", &record.id.to_string());
    said.text("martlet.protection", record.protection.as_str());
    said.text("martlet.closed", record.closed.as_str());
    if is_failure(record.closed) {
        said.text("error.type", record.closed.as_str());
    }
    if let Some(policy) = &record.policy {
        said.text("martlet.policy", policy);
    }
    if record.closed != Closed::PlaintextUnwanted {
        // Otherwise it never was the agent's: what it carried is not known.
        said.number("martlet.bytes_sent", record.bytes_sent);
        said.number("martlet.bytes_received", record.bytes_received);
    }
    if let Some(facts) = &record.tls {
        tls(facts, &mut said);
        said.truth("martlet.lane.warm", record.warm);
    }
    said.0
}

/// Addresses by role, as conventions have them: for a caller the server is what its application asked for,
/// and the peer what was reached.
fn ends(record: &AccessRecord, said: &mut Attributes) {
    let (source, reached) = (record.source.address, record.destination.address);
    let (server, peer) = match record.reporter {
        Reporter::Source => (record.origin.or(reached), reached),
        Reporter::Destination => (reached, source),
    };
    said.address("client", source);
    said.address("server", server);
    if record.protection != Protection::Internal {
        said.address("network.peer", peer);
    }
    said.text("network.transport", "tcp");
    if let Some(address) = peer.or(source) {
        said.text("network.type", if address.is_ipv4() { "ipv4" } else { "ipv6" });
    }
}

fn party(which: &str, party: &Party, said: &mut Attributes) {
    if let Some(identity) = &party.identity {
        said.text(&format!("martlet.{which}.identity"), identity.as_str());
    }
    if let Some(WorkloadName { namespace, name }) = &party.workload {
        said.text(&format!("martlet.{which}.workload.namespace"), namespace.as_str());
        said.text(&format!("martlet.{which}.workload.name"), name.as_str());
    }
}

fn tls(facts: &TlsFacts, said: &mut Attributes) {
    said.text("tls.protocol.name", "tls");
    said.text("tls.protocol.version", facts.version.trim_start_matches("TLSv"));
    said.text("tls.cipher", &facts.cipher);
    said.text("tls.curve", &facts.key_exchange);
}

#[derive(Default)]
struct Attributes(Vec<KeyValue>);

impl Attributes {
    fn text(&mut self, key: &str, value: &str) {
        self.say(key, Value::StringValue(value.to_owned()));
    }

    fn number(&mut self, key: &str, value: u64) {
        self.say(key, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)));
    }

    fn truth(&mut self, key: &str, value: bool) {
        self.say(key, Value::BoolValue(value));
    }

    fn address(&mut self, role: &str, address: Option<SocketAddr>) {
        if let Some(address) = address {
            self.text(&format!("{role}.address"), &address.ip().to_string());
            self.number(&format!("{role}.port"), address.port().into());
        }
    }

    fn say(&mut self, key: &str, value: Value) {
        let value = Some(AnyValue { value: Some(value) });
        self.0.push(KeyValue { key: key.to_owned(), value });
    }
}

#[cfg(test)]
mod tests;
