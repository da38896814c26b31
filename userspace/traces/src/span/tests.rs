//! Records become spans that the public messages of OTLP can be read as.

use std::collections::BTreeMap;

use martlet_model::{ConnectionId, Ratio};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue as TheirKeyValue, any_value::Value as Theirs},
    trace::v1::{ResourceSpans as TheirSpans, Span as TheirSpan, span::SpanKind as Kind},
};
use prost::Message as _;

use super::*;

const ERROR: i32 = 2;

fn settings(are_pods: bool) -> Settings {
    Settings {
        collector: "http://collector:4317".parse().unwrap(),
        authorities: None,
        ratio: Ratio::ALL,
        node: "one".parse().unwrap(),
        are_pods,
        version: "0.1.0".to_owned(),
    }
}

fn party_of(address: &str, account: &str) -> Party {
    Party {
        address: Some(address.parse().unwrap()),
        identity: Some(format!("spiffe://demo.example/ns/shop/sa/{account}").parse().unwrap()),
        workload: Some(WorkloadName {
            namespace: "shop".parse().unwrap(),
            name: format!("{account}-0").parse().unwrap(),
        }),
    }
}

/// A connection of cart to web by way of a service.
fn record(reporter: Reporter) -> AccessRecord {
    AccessRecord {
        id: ConnectionId(0x1234),
        reporter,
        source: party_of("10.1.0.2:40000", "cart"),
        destination: party_of("10.2.0.3:8080", "web"),
        origin: (reporter == Reporter::Source).then(|| "10.96.0.10:80".parse().unwrap()),
        protection: Protection::MutualTls,
        tls: Some(TlsFacts {
            version: "TLSv1.3".into(),
            cipher: "TLS13_AES_128_GCM_SHA256".into(),
            key_exchange: "X25519MLKEM768".into(),
        }),
        warm: true,
        bytes_sent: 77,
        bytes_received: 4096,
        duration: Duration::from_micros(1500),
        closed: Closed::Finished,
        policy: None,
    }
}

fn ended() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// As whoever receives it reads it.
fn read(records: Vec<AccessRecord>, are_pods: bool) -> Vec<TheirSpans> {
    let all: Vec<_> = records.into_iter().map(|record| Ended { record, at: ended() }).collect();
    let bytes = request(&all, &settings(are_pods), || 7).encode_to_vec();
    ExportTraceServiceRequest::decode(bytes.as_slice()).unwrap().resource_spans
}

fn read_one(record: AccessRecord) -> TheirSpan {
    let mut all = read(vec![record], true);
    all.remove(0).scope_spans.remove(0).spans.remove(0)
}

fn said(attributes: &[TheirKeyValue]) -> BTreeMap<&str, String> {
    let text = |attribute: &TheirKeyValue| match attribute.value.clone().unwrap().value.unwrap() {
        Theirs::StringValue(text) => text,
        Theirs::IntValue(number) => number.to_string(),
        Theirs::BoolValue(truth) => truth.to_string(),
        other => panic!("{other:?}"),
    };
    attributes.iter().map(|attribute| (attribute.key.as_str(), text(attribute))).collect()
}

#[test]
fn the_two_agents_of_a_connection_say_one_trace() {
    let id = [0, 0, 0, 0, 0, 0, 0x12, 0x34];
    let (caller, callee) =
        (read_one(record(Reporter::Source)), read_one(record(Reporter::Destination)));
    assert_eq!((caller.kind(), callee.kind()), (Kind::Client, Kind::Server));
    for span in [&caller, &callee] {
        assert_eq!(span.trace_id, [[0; 8], id].concat());
        assert_eq!(span.name, "connection");
        assert_eq!(span.end_time_unix_nano, 1_800_000_000_000_000_000);
        assert_eq!(span.end_time_unix_nano - span.start_time_unix_nano, 1_500_000);
        assert_eq!(span.status.as_ref().unwrap().code, 0);
    }
    assert_eq!((caller.span_id.as_slice(), caller.parent_span_id.len()), (&id[..], 0));
    assert_eq!(callee.parent_span_id, id);
    assert_eq!(callee.span_id, 7_u64.to_be_bytes());
    assert_eq!((caller.flags, callee.flags), (0x101, 0x301));
}

#[test]
fn a_callee_that_never_heard_the_callers_name_for_it_names_no_parent() {
    for closed in [Closed::HandshakeFailed, Closed::PeerUntrusted, Closed::HandshakeTimedOut] {
        let early = AccessRecord { tls: None, closed, ..record(Reporter::Destination) };
        assert!(read_one(early).parent_span_id.is_empty(), "{closed}");
    }
    let bound = AccessRecord { closed: Closed::LimitReached, ..record(Reporter::Destination) };
    assert!(read_one(bound).parent_span_id.is_empty());
}

#[test]
fn all_that_a_record_says_is_in_its_span() {
    let span = read_one(record(Reporter::Source));
    let wanted = [
        ("client.address", "10.1.0.2"),
        ("client.port", "40000"),
        ("server.address", "10.96.0.10"),
        ("server.port", "80"),
        ("network.peer.address", "10.2.0.3"),
        ("network.peer.port", "8080"),
        ("network.transport", "tcp"),
        ("network.type", "ipv4"),
        ("martlet.source.identity", "spiffe://demo.example/ns/shop/sa/cart"),
        ("martlet.source.workload.namespace", "shop"),
        ("martlet.source.workload.name", "cart-0"),
        ("martlet.destination.identity", "spiffe://demo.example/ns/shop/sa/web"),
        ("martlet.destination.workload.namespace", "shop"),
        ("martlet.destination.workload.name", "web-0"),
        ("martlet.connection.id", "0000000000001234"),
        ("martlet.protection", "mutual_tls"),
        ("martlet.closed", "finished"),
        ("martlet.bytes_sent", "77"),
        ("martlet.bytes_received", "4096"),
        ("martlet.lane.warm", "true"),
        ("tls.protocol.name", "tls"),
        ("tls.protocol.version", "1.3"),
        ("tls.cipher", "TLS13_AES_128_GCM_SHA256"),
        ("tls.curve", "X25519MLKEM768"),
    ];
    let wanted = BTreeMap::from(wanted.map(|(key, value)| (key, value.to_owned())));
    assert_eq!(said(&span.attributes), wanted);
}

#[test]
fn a_callees_peer_is_the_caller_and_the_server_itself() {
    let span = read_one(record(Reporter::Destination));
    let said = said(&span.attributes);
    assert_eq!((&*said["server.address"], &*said["server.port"]), ("10.2.0.3", "8080"));
    assert_eq!(
        (&*said["network.peer.address"], &*said["network.peer.port"]),
        ("10.1.0.2", "40000")
    );
}

#[test]
fn a_refusal_is_an_error_with_its_reason_and_a_reset_is_none() {
    let policy = Some("shop/only-cart, rule \"cart\"".to_owned());
    let denied = AccessRecord { closed: Closed::Denied, policy, ..record(Reporter::Destination) };
    let span = read_one(denied);
    let status = span.status.clone().unwrap();
    assert_eq!(status.code, ERROR);
    assert_eq!(status.message, "denied: shop/only-cart, rule \"cart\"");
    let said = said(&span.attributes);
    assert_eq!((&*said["error.type"], &*said["martlet.closed"]), ("denied", "denied"));
    for closed in Closed::ALL {
        let span = read_one(AccessRecord { closed: *closed, ..record(Reporter::Source) });
        let is_error = span.status.unwrap().code == ERROR;
        assert!(is_error || !closed.is_refusal(), "{closed}");
        let in_order = [Closed::Finished, Closed::ResetByCaller, Closed::ResetByCallee];
        assert_eq!(is_error, !in_order.contains(closed), "{closed}");
    }
}

#[test]
fn what_is_not_known_is_left_out() {
    let bare = AccessRecord {
        source: Party::default(),
        destination: Party::default(),
        origin: None,
        protection: Protection::None,
        tls: None,
        closed: Closed::PlaintextUnwanted,
        ..record(Reporter::Destination)
    };
    let span = read_one(bare);
    let keys: Vec<_> = said(&span.attributes).into_keys().collect();
    let wanted = [
        "error.type",
        "martlet.closed",
        "martlet.connection.id",
        "martlet.protection",
        "network.transport",
    ];
    assert_eq!(keys, wanted);
}

#[test]
fn spans_are_of_the_workload_on_whose_behalf_the_agent_speaks() {
    let records =
        vec![record(Reporter::Source), record(Reporter::Destination), record(Reporter::Source)];
    let mut all = read(records, true);
    all.sort_by_key(|spans| spans.scope_spans[0].spans.len());
    let counts: Vec<_> = all.iter().map(|spans| spans.scope_spans[0].spans.len()).collect();
    assert_eq!(counts, [1, 2]);
    let resource = said(&all[1].resource.as_ref().unwrap().attributes);
    let wanted = [
        ("k8s.namespace.name", "shop"),
        ("k8s.node.name", "one"),
        ("k8s.pod.name", "cart-0"),
        ("service.name", "cart"),
        ("service.namespace", "shop"),
    ];
    assert_eq!(resource, BTreeMap::from(wanted.map(|(key, value)| (key, value.to_owned()))));
    assert_eq!(all[1].scope_spans[0].scope.as_ref().unwrap().name, "martlet");
}

#[test]
fn what_is_no_pod_is_not_called_one() {
    let all = read(vec![record(Reporter::Source)], false);
    let resource = said(&all[0].resource.as_ref().unwrap().attributes);
    assert_eq!(resource["host.name"], "one");
    assert!(!resource.keys().any(|key| key.starts_with("k8s.")), "{resource:?}");
}
