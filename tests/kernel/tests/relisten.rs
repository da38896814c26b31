//! An application that does not ask for SO_REUSEADDR listens again at its port as soon as its
//! clients are done, as it could without Martlet: idle lanes, which have its address and port, leave.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result};
use martlet_lab::{Agent, PORT, Pod, Running, Stage, assert_exchanged, assert_refused, wait_for};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Generous, and far from the 30 s after which a caller closes an idle lane.
const SOON: Duration = Duration::from_secs(10);
const SEND: [&str; 4] = ["--then", "send", "--bytes", "1000"];
/// `TCP_LISTEN` as `/proc/net/tcp` prints it.
const LISTEN: &str = "0A";

/// The far ends and states of the lanes at a port of a pod, whatever their state, as the kernel
/// prints them.
fn lanes(pod: &Pod, port: u16) -> Result<Vec<(String, String)>> {
    let read =
        || ["tcp", "tcp6"].map(|name| fs::read_to_string(format!("/proc/thread-self/net/{name}")));
    let mut found = Vec::new();
    for table in pod.run(read)? {
        for line in table?.lines().skip(1) {
            let mut fields = line.split_ascii_whitespace().skip(1);
            let mut next = || fields.next().context("a line of the kernel's table");
            let (local, remote, state) = (next()?, next()?, next()?);
            let (own, of) = local.split_once(':').context("an address and a port")?;
            // What the agent has dialed, and its own end of that, is inside the pod.
            let is_lane = u16::from_str_radix(of, 16)? == port && !remote.starts_with(own);
            if is_lane && state != LISTEN {
                found.push((remote.to_owned(), state.to_owned()));
            }
        }
    }
    Ok(found)
}

fn one_idle_lane(pod: &Pod, port: u16) -> Result<(String, String)> {
    let mut lanes = lanes(pod, port)?;
    assert_eq!(lanes.len(), 1, "one lane stands: {lanes:?}");
    Ok(lanes.remove(0))
}

fn no_lane_soon(pod: &Pod, port: u16) -> Result<()> {
    wait_for("the lanes to leave", SOON, || Ok(lanes(pod, port)?.is_empty().then_some(())))
        .with_context(|| format!("{:?}", lanes(pod, port)))
}

fn listen(pod: &Pod, at: SocketAddr, more: &[&str]) -> Result<(Running, Value)> {
    let at = at.to_string();
    let arguments = [&["reopen", "--listen", &at], more].concat();
    let mut running = pod.probe(&arguments)?.with_input().spawn()?;
    let line = running.wait_until_listening()?;
    Ok((running, line))
}

/// The line with this number that the application has printed.
fn line(application: &mut Running, number: usize) -> Result<Value> {
    application.wait_for_stdout("a line", SOON, |text| {
        let complete = &text[..text.rfind('\n')? + 1];
        serde_json::from_str(complete.lines().nth(number)?).ok()
    })
}

/// One call to the end, known to both agents.
fn call(
    stage: &Stage,
    pod: &Pod,
    to: SocketAddr,
    application: &mut Running,
    number: usize,
) -> Result<()> {
    let client = stage.caller.connect(to, &SEND)?;
    assert_exchanged(&client, &line(application, number)?);
    for record in stage.records(&client, pod)? {
        assert_eq!(
            (&record["closed"], &record["protection"]),
            (&"finished".into(), &"mutual_tls".into())
        );
    }
    Ok(())
}

/// Every thread of it: they stop one after the other.
fn is_stopped(agent: &Agent) -> Result<bool> {
    let tasks = format!("/proc/{}/task", agent.pid().context("the agent runs")?);
    for task in fs::read_dir(tasks)? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        if !status.contains("State:\tT") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What to listen on, and where that is called.
fn cases(pod: &Pod) -> Vec<(SocketAddr, SocketAddr)> {
    let [v4, v6] = pod.addresses();
    let (any4, any6) = (IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED));
    let at = |ip: IpAddr| SocketAddr::new(ip, PORT);
    [(v4, v4), (v6, v6), (any4, v4), (any6, v4), (any6, v6)].map(|(a, b)| (at(a), at(b))).into()
}

#[test]
fn an_application_without_reuseaddr_listens_again_while_a_lane_is_idle() -> Result<()> {
    let stage = Stage::set("strict")?;
    let (mut within, mut started) = (Vec::new(), Vec::new());
    for pod in [&stage.near, &stage.far] {
        for (bound, to) in cases(pod) {
            let insists = ["--insist-ms", "10000"];
            // In the same process, within microseconds.
            let (mut first, _) = listen(pod, bound, &[&insists[..], &["--again"]].concat())?;
            call(&stage, pod, to, &mut first, 1)?;
            one_idle_lane(pod, PORT)?;
            first.close_input();
            within.push(line(&mut first, 2)?["taken_us"].as_u64().context("a time")?);
            call(&stage, pod, to, &mut first, 3)?;
            first.wait(SOON)?.success()?;
            // In the next process.
            let (mut second, listening) = listen(pod, bound, &insists)?;
            started.push(listening["taken_us"].as_u64().context("a time")?);
            call(&stage, pod, to, &mut second, 1)?;
            drop(second);
            no_lane_soon(pod, PORT)?;
        }
    }
    println!("the port was taken for {within:?} us after close(), {started:?} us after a start");
    Ok(())
}

#[test]
fn while_the_agent_does_not_hear_of_it_the_port_stays_taken() -> Result<()> {
    let stage = Stage::set("strict")?;
    let at = SocketAddr::new(stage.far.v4(), PORT);
    let (mut first, _) = listen(&stage.far, at, &[])?;
    call(&stage, &stage.far, at, &mut first, 1)?;
    one_idle_lane(&stage.far, PORT)?;
    stage.two.signal(Signal::SIGSTOP)?;
    wait_for("the agent to be stopped", SOON, || Ok(is_stopped(&stage.two)?.then_some(())))?;
    first.kill()?;
    let failed = listen(&stage.far, at, &[]).map(|_| ());
    stage.two.signal(Signal::SIGCONT)?;
    let error = format!("{:#}", failed.expect_err("the lane has the port"));
    assert!(error.contains("Address already in use"), "{error}");
    let (mut second, _) = listen(&stage.far, at, &["--insist-ms", "10000"])?;
    call(&stage, &stage.far, at, &mut second, 1)
}

#[test]
fn a_port_on_which_nobody_listens_any_more_leaves_the_lanes_of_another_alone() -> Result<()> {
    let stage = Stage::set("strict")?;
    let [first, second] = [8081, 8082].map(|port| SocketAddr::new(stage.far.v4(), port));
    let (mut ends, _) = listen(&stage.far, first, &[])?;
    let stays = stage.far.serve_on(&[second], &["--then", "echo"])?;
    call(&stage, &stage.far, first, &mut ends, 1)?;
    let client = stage.caller.connect(second, &SEND)?;
    assert_exchanged(&client, &stays.saw_nth(0)?);
    stage.records(&client, &stage.far)?;
    let before = one_idle_lane(&stage.far, second.port())?;
    one_idle_lane(&stage.far, first.port())?;
    ends.kill()?;
    no_lane_soon(&stage.far, first.port())?;
    assert_eq!(one_idle_lane(&stage.far, second.port())?, before);
    let client = stage.caller.connect(second, &SEND)?;
    for record in stage.records(&client, &stage.far)? {
        assert_eq!(record["warm"], true, "{record}");
    }
    Ok(())
}

#[test]
fn a_stream_goes_on_to_its_end_though_nobody_listens_any_more_and_its_lane_is_not_kept()
-> Result<()> {
    let stage = Stage::set("strict")?;
    let exchange = ["--then", "duplex", "--bytes", "20000000"];
    for way in stage.direct_ways_to(&stage.far) {
        let (mut server, _) =
            listen(&stage.far, way.endpoint, &[&["--early"], &exchange[..]].concat())?;
        let client = stage.caller.connect(way.to, &exchange)?;
        assert_exchanged(&client, &line(&mut server, 1)?);
        assert_eq!(client["received"], 20_000_000, "{client}");
        no_lane_soon(&stage.far, PORT)?;
        assert_refused(&stage.caller.connect(way.to, &SEND)?);
    }
    Ok(())
}

#[test]
fn a_slow_reader_gets_all_that_was_sent_by_an_application_that_has_ended() -> Result<()> {
    let stage = Stage::set("strict")?;
    let sends = ["--then", "late", "--bytes", "3000000"];
    let reads = ["--then", "send", "--bytes", "10", "--read-rate", "2000000"];
    for way in stage.direct_ways_to(&stage.far) {
        let (mut server, _) = listen(&stage.far, way.endpoint, &sends)?;
        server.close_input();
        let client = stage.caller.connect(way.to, &reads)?;
        assert_exchanged(&client, &line(&mut server, 1)?);
        assert_eq!((&client["received"], &client["finished"]), (&3_000_000.into(), &true.into()));
        for record in stage.records(&client, &way.callee)? {
            assert_eq!(record["closed"], "finished", "{record}");
        }
        server.wait(SOON)?.success()?;
        no_lane_soon(&stage.far, PORT)?;
    }
    Ok(())
}

/// A lane on which the called agent has refused is closed by the caller, too: who closes first keeps
/// its port for a minute.
#[test]
fn a_refused_caller_does_not_keep_the_application_from_listening_again() -> Result<()> {
    let mut stage = Stage::set("strict")?;
    let at = SocketAddr::new(stage.far.v4(), PORT);
    let (first, _) = listen(&stage.far, at, &[])?;
    stage.mesh.policy(serde_json::json!({
        "namespace": "shop", "name": "closed", "action": "deny", "rules": [{ "name": "nobody" }],
    }));
    // Only the called agent hears of it, or nothing would be dialed.
    stage.two.reload(&stage.mesh)?;
    let client = stage.caller.connect(at, &SEND)?;
    assert_refused(&client);
    stage.one.wait_for_record("the refusal", |record| record["closed"] == "denied")?;
    no_lane_soon(&stage.far, PORT)?;
    first.kill()?;
    listen(&stage.far, at, &[])?;
    Ok(())
}
