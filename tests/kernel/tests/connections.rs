//! Unmodified programs in enrolled pods reach each other, whatever way they connect; each end sees
//! the other as it would without a mesh. What is not enrolled is not touched.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};
use martlet_lab::{
    Agent, Canaries, Netns, PORT, Pod, Sniffer, Stage, Way, address, assert_exchanged,
    assert_refused, wait_for,
};
use serde_json::Value;

/// What a client sends to an echo server and gets back.
const SEND: [&str; 4] = ["--then", "send", "--bytes", "100000"];

fn refused(stage: &Stage, way: &Way) -> Result<()> {
    assert_refused(&stage.caller.connect(way.to, &SEND)?);
    Ok(())
}

/// All records that any agent has written about a connection from this address.
fn records_of(stage: &Stage, from: SocketAddr) -> Result<Vec<Value>> {
    let mut records = stage.one.records()?;
    records.extend(stage.two.records()?);
    records.retain(|record| address(&record["source"]["address"]) == Some(from));
    Ok(records)
}

/// Exchanges over one way, and checks what both ends and both agents say.
fn carried(stage: &Stage, way: &Way, how: &[&str]) -> Result<()> {
    let server = way.callee.serve(&["--then", "echo", "--fastopen"])?;
    let client = stage.caller.connect(way.to, &[how, &SEND].concat())?;
    let from = address(&client["local"]).context("the client has no address")?;
    let seen = server.saw(from)?;
    assert_exchanged(&client, &seen);
    assert_eq!(from.ip(), way.caller, "getsockname of the caller: {client}");
    assert_eq!(address(&client["peer"]), Some(way.to), "getpeername of the caller: {client}");
    assert_eq!(address(&seen["peer"]), Some(from), "getpeername of the callee: {seen}");
    assert_eq!(address(&seen["local"]), Some(way.endpoint), "getsockname of the callee: {seen}");
    for record in stage.records(&client, &way.callee)? {
        assert_eq!(record["closed"], "finished", "{record}");
        assert_eq!(record["protection"], "mutual_tls", "{record}");
        assert_eq!(record["bytes_sent"], 100_000, "{record}");
        assert_eq!(record["bytes_received"], 100_000, "{record}");
        assert_eq!(address(&record["destination"]["address"]), Some(way.endpoint), "{record}");
    }
    Ok(())
}

#[test]
fn every_way_between_pods_looks_untouched_to_both_ends() -> Result<()> {
    let stage = Stage::set("strict")?;
    for way in stage.ways() {
        carried(&stage, &way, &[]).with_context(|| format!("{way}"))?;
    }
    Ok(())
}

#[test]
fn every_kind_of_connect_is_carried() -> Result<()> {
    let stage = Stage::set("strict")?;
    for how in ["nonblocking", "fastopen", "fastopen-connect", "io-uring", "mapped"] {
        for way in stage.ways().iter().filter(|way| how != "mapped" || way.is_v4()) {
            carried(&stage, way, &["--how", how]).with_context(|| format!("{how}, {way}"))?;
        }
    }
    Ok(())
}

#[test]
fn a_client_with_mptcp_is_carried_but_sees_the_agent_as_its_peer() -> Result<()> {
    let stage = Stage::set("strict")?;
    for way in stage.ways() {
        let server = way.callee.serve(&["--then", "echo"])?;
        let client = stage.caller.connect(way.to, &[&["--how", "mptcp"], &SEND[..]].concat())?;
        let from = address(&client["local"]).context("the client has no address")?;
        let seen = server.saw(from)?;
        assert_exchanged(&client, &seen);
        // The kernel does not run the hook for MPTCP sockets: the known gap.
        let peer = address(&client["peer"]).context("the client has no peer")?;
        assert_eq!(peer.ip(), way.caller, "{client}");
        assert_eq!(address(&seen["peer"]), Some(from), "{seen}");
        for record in stage.records(&client, &way.callee)? {
            assert_eq!(record["protection"], "mutual_tls", "{record}");
        }
    }
    Ok(())
}

#[test]
fn a_bound_source_address_and_port_are_what_the_server_and_the_records_see() -> Result<()> {
    let stage = Stage::set("strict")?;
    // One that a steered connection could have been turned to, and one far from it.
    for (number, way) in stage.ways().iter().enumerate() {
        for port in [600 + number as u16, 40_000 + number as u16] {
            let from = SocketAddr::new(way.caller, port).to_string();
            carried(&stage, way, &["--from", &from]).with_context(|| format!("{from}, {way}"))?;
            assert_eq!(records_of(&stage, from.parse()?)?.len(), 2);
        }
    }
    Ok(())
}

#[test]
fn one_source_port_leads_to_two_destinations_at_once() -> Result<()> {
    let stage = Stage::set("strict")?;
    for (first, second) in
        stage.direct_ways_to(&stage.near).iter().zip(stage.direct_ways_to(&stage.far))
    {
        let from = SocketAddr::new(first.caller, 40_500).to_string();
        // Held open: both ends wait for the other to finish.
        let _server = first.callee.serve(&["--then", "receive"])?;
        let to = first.to.to_string();
        let arguments = ["connect", "--to", &to, "--from", &from, "--then", "receive"];
        let _held = stage.caller.probe(&arguments)?.spawn()?;
        wait_for("the first connection", std::time::Duration::from_secs(10), || {
            let live = stage.one.get("/connections")?;
            let live = live["connections"].as_array().context("no list of connections")?;
            let is_first = |c: &Value| address(&c["source"]["address"]) == from.parse().ok();
            Ok(live.iter().any(is_first).then_some(()))
        })?;
        carried(&stage, &second, &["--from", &from])?;
    }
    Ok(())
}

#[test]
fn a_socket_bound_to_a_device_is_carried() -> Result<()> {
    let stage = Stage::set("strict")?;
    for way in stage.ways() {
        carried(&stage, &way, &["--device", "eth0"]).with_context(|| format!("{way}"))?;
    }
    Ok(())
}

#[test]
fn writes_of_one_byte_and_of_64_kib_arrive_whole() -> Result<()> {
    let stage = Stage::set("strict")?;
    for way in stage.ways() {
        for (chunk, bytes) in [("1", "20000"), ("65536", "8388608")] {
            let size = ["--bytes", bytes, "--chunk", chunk];
            let server =
                way.callee.serve(&[&["--then", "duplex", "--seed", "2"], &size[..]].concat())?;
            let client =
                stage.caller.connect(way.to, &[&["--then", "duplex"], &size[..]].concat())?;
            assert_exchanged(&client, &server.saw_nth(0)?);
            assert_eq!(client["received"].to_string(), bytes, "{client}");
        }
    }
    Ok(())
}

#[test]
fn a_pod_reaches_itself_by_its_own_address_without_an_agent() -> Result<()> {
    let stage = Stage::set("strict")?;
    let server = stage.far.serve(&["--then", "echo"])?;
    for ip in stage.far.addresses() {
        let to = SocketAddr::new(ip, PORT);
        let client = stage.far.connect(to, &SEND)?;
        let from = address(&client["local"]).context("the client has no address")?;
        let seen = server.saw(from)?;
        assert_exchanged(&client, &seen);
        assert_eq!(address(&client["peer"]), Some(to));
        assert_eq!(records_of(&stage, from)?, [] as [Value; 0]);
    }
    assert_eq!(stage.two.verdicts("connect", "passed_own_address")?, 2);
    assert_eq!(stage.two.verdicts("connect", "steered")?, 0);
    Ok(())
}

#[test]
fn an_application_that_listened_before_the_agents_came_is_reached() -> Result<()> {
    let mut stage = Stage::prepare("strict", |_| {})?;
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT));
    let servers =
        [stage.near.serve_on(&[any], &["--then", "echo"])?, stage.far.serve(&["--then", "echo"])?];
    stage.launch()?;
    for (callee, server) in [&stage.near, &stage.far].into_iter().zip(&servers) {
        for way in stage.ways_to(callee) {
            let client = stage.caller.connect(way.to, &SEND)?;
            let from = address(&client["local"]).context("the client has no address")?;
            assert_exchanged(&client, &server.saw(from)?);
        }
    }
    Ok(())
}

#[test]
fn an_application_on_loopback_only_is_reached_from_inside_its_pod_only() -> Result<()> {
    for mode in ["strict", "permissive"] {
        let stage = Stage::set(mode)?;
        let loopback = [
            SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT),
            SocketAddr::new(Ipv6Addr::LOCALHOST.into(), PORT),
        ];
        let echo = |pod: &Pod| pod.serve_on(&loopback, &["--then", "echo"]);
        let _servers = [echo(&stage.near)?, echo(&stage.far)?];
        for way in stage.ways() {
            refused(&stage, &way).with_context(|| format!("{mode}, {way}"))?;
        }
        for to in loopback {
            let client = stage.far.connect(to, &SEND)?;
            assert_eq!((&client["received"], &client["finished"]), (&100_000.into(), &true.into()));
        }
    }
    Ok(())
}

/// The lanes that are open have the application's own address and port. They may leave when it ends
/// (`relisten.rs`), and while it runs they are used again.
#[test]
fn an_application_can_be_started_again_while_lanes_are_open() -> Result<()> {
    let stage = Stage::set("strict")?;
    for way in stage.direct_ways_to(&stage.near).iter().chain(&stage.direct_ways_to(&stage.far)) {
        for _ in 0..3 {
            let server = way.callee.serve(&["--then", "echo"])?;
            let mut number = 0;
            wait_for("a lane to be used again", std::time::Duration::from_secs(10), || {
                let client = stage.caller.connect(way.to, &SEND)?;
                assert_exchanged(&client, &server.saw_nth(number)?);
                number += 1;
                let [record, _] = stage.records(&client, &way.callee)?;
                Ok((record["warm"] == true).then_some(()))
            })?;
        }
    }
    Ok(())
}

#[test]
fn an_application_is_reached_by_the_families_that_it_listens_on() -> Result<()> {
    let stage = Stage::set("strict")?;
    let any: SocketAddr = (Ipv6Addr::UNSPECIFIED, PORT).into();
    for callee in [&stage.near, &stage.far] {
        let ways = stage.direct_ways_to(callee);
        for (listen, reached) in [
            (ways[0].to, [true, false]),
            (ways[1].to, [false, true]),
            ((Ipv4Addr::UNSPECIFIED, PORT).into(), [true, false]),
            (any, [true, true]),
        ] {
            let server = callee.serve_on(&[listen], &["--then", "echo"])?;
            for (way, is_reached) in ways.iter().zip(reached) {
                if !is_reached {
                    refused(&stage, way).with_context(|| format!("on {listen}, {way}"))?;
                    continue;
                }
                let client = stage.caller.connect(way.to, &SEND)?;
                let from = address(&client["local"]).context("the client has no address")?;
                let seen = server.saw(from)?;
                assert_exchanged(&client, &seen);
                assert_eq!(address(&seen["peer"]), Some(from), "on {listen}: {seen}");
                let [record, _] = stage.records(&client, callee)?;
                assert_eq!(record["protection"], "mutual_tls", "on {listen}: {record}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_server_that_speaks_first_is_heard_by_a_silent_client() -> Result<()> {
    let stage = Stage::set("strict")?;
    for way in stage.ways() {
        let server = way.callee.serve(&["--then", "send", "--bytes", "15", "--seed", "3"])?;
        // Says nothing, not even that it has finished, until the server has.
        let client = stage.caller.connect(way.to, &["--then", "late"])?;
        assert_exchanged(&client, &server.saw_nth(0)?);
        assert_eq!(client["received"], 15, "{client}");
    }
    Ok(())
}

/// Exchanges in the clear, and checks that the four-tuple on the wire is the application's own.
fn untouched(from: &Pod, to: &Pod, agents: [&Agent; 2], wire: &Netns) -> Result<()> {
    let server = to.serve(&["--then", "echo"])?;
    for ip in to.addresses() {
        let to = SocketAddr::new(ip, PORT);
        let sniffer = Sniffer::start([wire], &Canaries::random(0))?;
        let client = from.connect(to, &SEND)?;
        let source = address(&client["local"]).context("the client has no address")?;
        let seen = server.saw(source)?;
        assert_exchanged(&client, &seen);
        assert_eq!(address(&client["peer"]), Some(to));
        assert_eq!(address(&seen["peer"]), Some(source));
        let capture = sniffer.stop()?;
        for flow in [(source, to), (to, source)] {
            let flow = capture.flow(flow.0, flow.1).with_context(|| format!("no flow {flow:?}"))?;
            assert_eq!((flow.payload, flow.not_tls), (100_000, 100_000), "{flow:?}");
        }
        assert_eq!(capture.flows().count(), 2, "{:#?}", capture.flows().collect::<Vec<_>>());
        for agent in agents {
            let of_this = |record: &Value| address(&record["source"]["address"]) == Some(source);
            assert!(!agent.records()?.iter().any(of_this), "{:#?}", agent.records()?);
        }
    }
    Ok(())
}

#[test]
fn what_is_not_enrolled_is_untouched_whoever_it_talks_to() -> Result<()> {
    let stage = Stage::set("permissive")?;
    let agents = [&stage.one, &stage.two];
    let wire = stage.lab.wire();
    untouched(&stage.stranger, &stage.outside, agents, wire).context("neither is enrolled")?;
    assert_eq!(stage.one.verdicts("connect", "passed_outside_mesh")?, 0, "not even looked at");
    untouched(&stage.caller, &stage.outside, agents, wire).context("only the caller is")?;
    assert_eq!(stage.one.verdicts("connect", "passed_outside_mesh")?, 2);
    untouched(&stage.stranger, &stage.far, agents, wire).context("only the callee is")?;
    assert_eq!(stage.two.verdicts("lookup", "passed_plaintext")?, 2);
    for agent in agents {
        assert_eq!(agent.verdicts("connect", "steered")?, 0);
        assert_eq!(agent.verdicts("lookup", "to_inbound")?, 0);
    }
    Ok(())
}
