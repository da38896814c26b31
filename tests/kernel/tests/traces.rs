//! Spans of real connections, from real agents to a played collector: one that takes them, one that never
//! answers, and none.

#[path = "../../../userspace/traces/tests/support/collector.rs"]
mod collector;

use std::net::{SocketAddr, TcpListener};

use anyhow::{Context as _, Result};
use martlet_lab::{Agent, Mesh, Node, PORT, Stage, assert_refused};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde_json::json;

use collector::{Answer, Collector, Told, until};

const SEND: [&str; 4] = ["--then", "send", "--bytes", "1000"];
const ERROR: i32 = 2;
/// Where no policy lets anybody.
const CLOSED_PORT: u16 = 9090;

/// On the loopback interface of the node, where its agent is.
fn listener(node: &Node) -> Result<TcpListener> {
    Ok(node.run(|| TcpListener::bind("127.0.0.1:0"))??)
}

/// An agent that is told of a collector at this address.
fn traced(mesh: &Mesh, node: &Node, collector: SocketAddr) -> Result<Agent> {
    let mut file = mesh.node_file(node)?;
    if node.name() == "one" {
        // Otherwise the caller's agent refuses by itself, and the called one's hears nothing of it.
        file["policies"] = json!([]);
    }
    file["node"]["traces"] = json!({ "endpoint": format!("http://{collector}") });
    Agent::prepare_with(node, &file.to_string())
}

/// Both nodes have a collector of their own; agents are not started yet.
fn prepare() -> Result<Stage> {
    Stage::prepare("strict", |mesh| {
        mesh.policy(json!({
            "namespace": "shop",
            "name": "only-web",
            "action": "deny",
            "rules": [{ "name": "other-ports", "ports": [CLOSED_PORT] }],
        }));
    })
}

fn set() -> Result<(Stage, [Collector; 2])> {
    let mut stage = prepare()?;
    let mut collectors = Vec::new();
    for agent in [&mut stage.one, &mut stage.two] {
        let collector = Collector::start(listener(agent.node())?, Answer::Take);
        *agent = traced(&stage.mesh, agent.node(), collector.address())?;
        collectors.push(collector);
    }
    stage.launch()?;
    let collectors = collectors.try_into().ok().context("one for each of two nodes")?;
    Ok((stage, collectors))
}

/// The connection of this client, as the agent of `kind` has told it.
fn told(collector: &Collector, kind: SpanKind, from: &str) -> Told {
    let (address, port) = from.rsplit_once(':').unwrap_or_default();
    collector.wait_for(&format!("{kind:?} of {from}"), |told| {
        told.kind() == kind
            && told.says("client.address") == address
            && told.says("client.port") == port
    })
}

#[test]
fn both_agents_of_a_connection_tell_it_in_one_trace() -> Result<()> {
    let (mut stage, [one, two]) = set()?;
    let _server = stage.far.serve(&["--then", "echo"])?;
    // Nothing of it is refused to an agent that is confined.
    for agent in [&stage.one, &stage.two] {
        let unconfined = agent.get("/status")?["unconfined"].to_string();
        assert!(
            !unconfined.contains("seccomp") && !unconfined.contains("landlock"),
            "{unconfined}"
        );
    }
    let to = SocketAddr::new(stage.far.addresses()[0], PORT);
    let client = stage.caller.connect(to, &SEND)?;
    assert_eq!(client["finished"], true, "{client}");
    let from = client["local"].as_str().context("the client has an address")?;
    let caller = told(&one, SpanKind::Client, from);
    let callee = told(&two, SpanKind::Server, from);

    assert_eq!(caller.span.trace_id, callee.span.trace_id);
    assert_eq!(callee.span.parent_span_id, caller.span.span_id);
    assert_ne!(callee.span.span_id, caller.span.span_id);
    let record =
        stage.one.wait_for_record("the record", |record| record["source"]["address"] == *from)?;
    assert_eq!(record["id"], caller.says("martlet.connection.id").as_str());
    for (told, service, pod, node) in
        [(&caller, "cart", "caller", "one"), (&callee, "web", "far", "two")]
    {
        assert_eq!(
            (told.of("service.name"), told.of("service.namespace")),
            (service.into(), "shop".into())
        );
        assert_eq!(told.of("host.name"), node);
        assert_eq!(told.status(), (0, ""));
        assert_eq!(told.says("martlet.closed"), "finished");
        assert_eq!(told.says("martlet.protection"), "mutual_tls");
        assert_eq!(told.says("martlet.bytes_sent"), "1000");
        assert_eq!(told.says("tls.protocol.version"), "1.3");
        assert_eq!(told.says("martlet.source.identity"), stage.mesh.identity("shop", "cart"));
        assert_eq!(told.says("martlet.destination.identity"), stage.mesh.identity("shop", "web"));
        assert_eq!(told.says("martlet.source.workload.name"), "caller");
        assert_eq!(told.says("martlet.destination.workload.name"), "far");
        assert_eq!(told.says("server.address"), to.ip().to_string(), "{pod}");
        assert!(told.span.start_time_unix_nano < told.span.end_time_unix_nano);
    }
    // The last ones are sent before an agent ends.
    let client = stage.caller.connect(to, &SEND)?;
    let from = client["local"].as_str().context("the client has an address")?;
    stage.one.stop()?;
    let is_it = |told: &Told| from.ends_with(&format!(":{}", told.says("client.port")));
    assert!(one.told().iter().any(is_it), "{from}");
    Ok(())
}

#[test]
fn a_refused_connection_is_an_error_with_its_reason() -> Result<()> {
    let (stage, [one, two]) = set()?;
    let everywhere = [PORT, CLOSED_PORT]
        .map(|port| stage.far.addresses().map(|address| SocketAddr::new(address, port)));
    let _server = stage.far.serve_on(&everywhere.concat(), &["--then", "echo"])?;
    for address in stage.far.addresses() {
        assert_refused(&stage.caller.connect(SocketAddr::new(address, CLOSED_PORT), &SEND)?);
    }
    let is_denied = |told: &Told| told.says("martlet.closed") == "denied";
    let [caller, callee] = [&one, &two].map(|told| told.wait_for("refusal", is_denied));
    assert_eq!((caller.kind(), callee.kind()), (SpanKind::Client, SpanKind::Server));
    for told in [&caller, &callee] {
        let (code, message) = told.status();
        assert_eq!(code, ERROR);
        assert!(message.starts_with("denied: ") && message.contains("only-web"), "{message}");
        assert_eq!(told.says("error.type"), "denied");
        assert_eq!(told.says("server.port"), CLOSED_PORT.to_string());
    }
    let is_callees = |told: &Told| told.span.trace_id == callee.span.trace_id;
    assert_eq!(callee.span.parent_span_id, one.wait_for("caller", is_callees).span.span_id);
    let to = SocketAddr::new(stage.far.addresses()[0], PORT);
    assert_eq!(stage.caller.connect(to, &SEND)?["finished"], true);
    let finished = one.wait_for("one that is not", |told| !is_denied(told));
    assert_eq!(finished.status().0, 0);
    Ok(())
}

/// Of the two one is not there, and the other one never answers.
#[test]
fn connections_go_on_while_no_collector_takes_their_spans() -> Result<()> {
    let mut stage = prepare()?;
    let absent = listener(stage.one.node())?.local_addr()?;
    let hanging = Collector::start(listener(stage.two.node())?, Answer::Nothing);
    stage.one = traced(&stage.mesh, &stage.one.node().clone(), absent)?;
    stage.two = traced(&stage.mesh, &stage.two.node().clone(), hanging.address())?;
    stage.launch()?;
    let _server = stage.far.serve(&["--then", "echo"])?;
    let connect = || -> Result<()> {
        for ip in stage.far.addresses() {
            let client = stage.caller.connect(SocketAddr::new(ip, PORT), &SEND)?;
            assert_eq!(client["finished"], true, "{client}");
        }
        Ok(())
    };
    for agent in [&stage.one, &stage.two] {
        connect()?;
        until("span that is lost", || {
            let cause = ["cause=\"undelivered\""];
            let lost = agent.metric("martlet_spans_dropped_total", &cause).unwrap_or(0.0);
            if lost > 0.0 { Ok(()) } else { Err(agent.log()) }
        });
        assert_eq!(agent.metric("martlet_spans_exported_total", &[])?, 0.0);
        let lines = agent.log().matches("the collector does not take spans").count();
        assert_eq!(lines, 1, "it is said once: {}", agent.log());
        assert_eq!(agent.metric("martlet_records_dropped_total", &["cause=\"queue\""])?, 0.0);
    }
    assert!(hanging.connections() > 0);
    connect()
}

#[test]
fn without_a_collector_in_the_node_file_nothing_is_dialled() -> Result<()> {
    let mut stage = prepare()?;
    // Where agents of OpenTelemetry look by themselves, if they are told nothing.
    let usual = |agent: &Agent| -> Result<Collector> {
        let listener = agent.node().run(|| TcpListener::bind("127.0.0.1:4317"))??;
        Ok(Collector::start(listener, Answer::Take))
    };
    let collectors = [usual(&stage.one)?, usual(&stage.two)?];
    stage.launch()?;
    let _server = stage.far.serve(&["--then", "echo"])?;
    let to = SocketAddr::new(stage.far.addresses()[0], PORT);
    let client = stage.caller.connect(to, &SEND)?;
    assert_eq!(client["finished"], true, "{client}");
    stage.records(&client, &stage.far)?;
    for agent in [&stage.one, &stage.two] {
        assert_eq!(agent.metric("martlet_spans_exported_total", &[])?, 0.0);
        assert!(!agent.log().contains("connections are traced"));
    }
    stage.one.stop()?;
    stage.two.stop()?;
    assert!(collectors.iter().all(|collector| collector.connections() == 0));
    Ok(())
}
