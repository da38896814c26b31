//! How connections end: an end in one direction stays one, a reset stays a reset, and what cannot
//! be reached is an error in time. And what slow and large transfers do to the agents.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use martlet_lab::{
    Running, Stage, Way, assert_exchanged, assert_refused, assert_reset, is_long, wait_for,
};
use serde_json::Value;

/// Longer than every deadline of the agent for a new connection.
const DEADLINE: Duration = Duration::from_secs(25);

/// Both agents say why.
fn closed(stage: &Stage, client: &Value, way: &Way, expected: &str) -> Result<()> {
    for record in stage.records(client, &way.callee)? {
        assert_eq!(record["closed"], expected, "{record}");
        assert_eq!(record["protection"], "mutual_tls", "{record}");
    }
    Ok(())
}

#[test]
fn each_direction_finishes_by_itself() -> Result<()> {
    let stage = Stage::set("strict")?;
    // The late one sends its first byte only after the other has finished.
    for (there, here) in [("late", "send"), ("send", "late"), ("duplex", "duplex")] {
        for way in stage.ways() {
            let size = ["--bytes", "300000"];
            let server =
                way.callee.serve(&[&["--then", there, "--seed", "2"], &size[..]].concat())?;
            let client = stage.caller.connect(way.to, &[&["--then", here], &size[..]].concat())?;
            assert_exchanged(&client, &server.saw_nth(0)?);
            assert_eq!(client["received"], 300_000, "{there} {here} {way}");
            closed(&stage, &client, &way, "finished")?;
        }
    }
    Ok(())
}

#[test]
fn a_reset_by_the_caller_is_a_reset_at_the_callee() -> Result<()> {
    let stage = Stage::set("strict")?;
    for way in stage.ways() {
        let server = way.callee.serve(&["--then", "echo"])?;
        // Once the echo shows that the connection has come about.
        let arguments = ["--then", "reset", "--bytes", "1000", "--after", "1000"];
        let client = stage.caller.connect(way.to, &arguments)?;
        let seen = server.saw_nth(0)?;
        assert_eq!((&seen["read_error"], &seen["received"]), (&"ECONNRESET".into(), &1000.into()));
        closed(&stage, &client, &way, "reset_by_caller")?;
    }
    Ok(())
}

#[test]
fn a_reset_by_the_callee_is_a_reset_at_the_caller() -> Result<()> {
    let stage = Stage::set("strict")?;
    for way in stage.ways() {
        // Before the caller has finished, and after.
        for caller in [["reset", "--after", "5000"], ["duplex", "--after", "0"]] {
            let resets = ["--then", "reset", "--bytes", "1000", "--after", "10"];
            let server = way.callee.serve(&resets)?;
            let arguments = [&["--bytes", "10", "--then"], &caller[..]].concat();
            let client = stage.caller.connect(way.to, &arguments)?;
            assert_eq!(client["read_error"], "ECONNRESET", "{way} {client}");
            assert_eq!(server.saw_nth(0)?["received"], 10);
            closed(&stage, &client, &way, "reset_by_callee")?;
        }
    }
    Ok(())
}

#[test]
fn a_callee_that_resets_as_soon_as_it_accepts_is_a_reset_at_the_caller() -> Result<()> {
    let stage = Stage::set("strict")?;
    for way in stage.ways() {
        let server = way.callee.serve(&["--then", "reset", "--bytes", "1000"])?;
        let client = stage.caller.connect(way.to, &["--then", "late"])?;
        assert_reset(&client);
        server.saw_nth(0)?;
    }
    // The client may not have learned its own address, so they are counted: eight connections, half
    // of them to the same node, whose agent writes both records.
    for (agent, count) in [(&stage.one, 12), (&stage.two, 4)] {
        let records = wait_for("all records", DEADLINE, || {
            Ok(Some(agent.records()?).filter(|records| records.len() == count))
        })?;
        for record in records {
            assert_eq!(record["closed"], "reset_by_callee", "{record}");
        }
    }
    Ok(())
}

/// The sender fills every buffer on the way, finds that nobody reads, and resets. The lane is full,
/// so the reason may not get through; then the lane is cut, which is a reset all the same.
fn stalled(stage: &Stage, way: &Way, port: u16, resetter: &str) -> Result<()> {
    let sends = ["--then", "reset", "--bytes", "100000000", "--timeout-ms", "300"];
    let stalls = ["--then", "stall", "--timeout-ms", "15000"];
    let is_caller = resetter == "reset_by_caller";
    let (there, here) =
        if is_caller { (&stalls[..], &sends[..]) } else { (&sends[..], &stalls[..]) };
    let to = SocketAddr::new(way.endpoint.ip(), port);
    let server = way.callee.serve_on(&[to], there)?;
    let client = stage.caller.connect(to, here)?;
    let seen = server.saw_nth(0)?;
    let (sender, staller) = if is_caller { (&client, &seen) } else { (&seen, &client) };
    assert_eq!(sender["write_error"], "EAGAIN", "{sender}");
    assert_reset(staller);
    let [source, destination] = stage.records(&client, &way.callee)?;
    let (near, far) = if is_caller { (source, destination) } else { (destination, source) };
    assert_eq!(near["closed"], resetter, "{near}");
    assert!([resetter, "lane_broken"].contains(&far["closed"].as_str().unwrap_or("")), "{far}");
    Ok(())
}

#[test]
fn a_reset_reaches_an_end_that_is_not_reading() -> Result<()> {
    let stage = Stage::set("strict")?;
    let ways = [stage.direct_ways_to(&stage.near), stage.direct_ways_to(&stage.far)].concat();
    // All at a time: each takes as long as a farewell may.
    thread::scope(|scope| {
        let mut running = Vec::new();
        for way in &ways {
            for (port, resetter) in [(8081, "reset_by_caller"), (8082, "reset_by_callee")] {
                let stage = &stage;
                running.push(scope.spawn(move || {
                    stalled(stage, way, port, resetter).with_context(|| format!("{way} {resetter}"))
                }));
            }
        }
        running.into_iter().try_for_each(|case| case.join().expect("every case ends"))
    })
}

#[test]
fn a_server_that_closes_at_once_is_an_orderly_end() -> Result<()> {
    let stage = Stage::set("strict")?;
    for way in stage.ways() {
        let _server = way.callee.serve(&["--then", "close"])?;
        let client = stage.caller.connect(way.to, &["--then", "late", "--bytes", "0"])?;
        assert_eq!(
            (&client["received"], &client["finished"]),
            (&0.into(), &true.into()),
            "{client}"
        );
        closed(&stage, &client, &way, "finished")?;
    }
    Ok(())
}

#[test]
fn a_port_on_which_nobody_listens_is_refused_at_once() -> Result<()> {
    for mode in ["strict", "permissive"] {
        let stage = Stage::set(mode)?;
        for way in stage.ways() {
            let begun = Instant::now();
            for how in ["blocking", "nonblocking", "fastopen", "io-uring"] {
                let client = stage
                    .caller
                    .connect(way.to, &["--how", how, "--then", "duplex", "--bytes", "10"])?;
                assert_refused(&client);
            }
            assert!(begun.elapsed() < DEADLINE, "{mode} {way}");
            let record = stage
                .one
                .wait_for_record("the refusal", |record| record["origin"] == way.to.to_string())?;
            assert_eq!(record["closed"], "dial_refused", "{record}");
            assert_eq!(record["bytes_sent"], 0, "{record}");
        }
    }
    Ok(())
}

/// New connections to a pod whose cable is cut, and to one that is gone altogether.
#[test]
fn a_destination_that_is_gone_is_an_error_within_the_deadline() -> Result<()> {
    let stage = Stage::set("strict")?;
    let _servers = [stage.near.serve(&["--then", "echo"])?, stage.far.serve(&["--then", "echo"])?];
    let attempt = |way: &Way| {
        let to = way.to.to_string();
        let arguments = ["connect", "--to", &to, "--then", "send", "--bytes", "10"];
        stage.caller.probe(&arguments)?.spawn()
    };
    let all_fail = |pods: &str| -> Result<()> {
        // All at a time: some take as long as the deadline allows.
        let begun = Instant::now();
        let attempts: Vec<_> =
            stage.ways().into_iter().map(|way| Ok((attempt(&way)?, way))).collect::<Result<_>>()?;
        for (attempt, way) in attempts {
            let client =
                attempt.wait(DEADLINE).with_context(|| format!("{pods}: {way}"))?.json()?;
            assert_ne!(client["finished"], true, "{pods}: {way} {client}");
            assert_eq!(client["received"].as_u64().unwrap_or(0), 0, "{pods}: {way} {client}");
            let record = stage.one.wait_for_record_within("the failure", DEADLINE, |record| {
                record["origin"] == way.to.to_string() && record["closed"] != "finished"
            })?;
            let closed = record["closed"].as_str().unwrap_or_default();
            assert!(["dial_unreachable", "dial_timed_out"].contains(&closed), "{record}");
        }
        println!("{pods}: all failed after {:?}", begun.elapsed());
        Ok(())
    };
    for pod in [&stage.near, &stage.far] {
        pod.set_connected(false)?;
    }
    all_fail("cut off")?;
    for pod in [&stage.near, &stage.far] {
        pod.remove()?;
    }
    all_fail("removed")
}

/// Readers that take 6.5 MB in a second, one at each end; the senders would send all at once if they
/// could.
#[test]
fn slow_readers_do_not_grow_the_agents() -> Result<()> {
    let seconds: u64 = if is_long() { 60 } else { 10 };
    println!("slow readers for {seconds} s (MARTLET_LONG=1 for a minute)");
    let rate = 6_500_000;
    let (rate_text, bytes) = (rate.to_string(), (rate * seconds).to_string());
    let sends = ["--then", "send", "--bytes", &bytes];
    let reads = ["--then", "receive", "--read-rate", &rate_text];
    let stage = Stage::set("strict")?;
    let way = &stage.direct_ways_to(&stage.far)[0];
    let ports = [8081, 8082].map(|port| SocketAddr::new(way.endpoint.ip(), port));
    let resident = || -> Result<Vec<u64>> {
        let agents = [&stage.one, &stage.two];
        agents.iter().map(|agent| Ok(agent.resources()?.resident_bytes)).collect()
    };
    // What the first connection costs is not what is looked for.
    let warmup = way.callee.serve(&["--then", "echo"])?;
    stage.caller.connect(way.to, &["--then", "duplex", "--bytes", "30000000"])?;
    drop(warmup);
    let before = resident()?;
    let servers =
        [way.callee.serve_on(&ports[..1], &reads)?, way.callee.serve_on(&ports[1..], &sends)?];
    let start = |to: SocketAddr, arguments: &[&str]| {
        let to = to.to_string();
        stage.caller.probe(&[&["connect", "--to", &to], arguments].concat())?.spawn()
    };
    let mut clients = vec![start(ports[0], &sends)?, start(ports[1], &reads)?];
    let mut most = before.clone();
    wait_for("both transfers", Duration::from_secs(seconds + 60), || {
        let now = resident()?;
        most.iter_mut().zip(now).for_each(|(most, now)| *most = now.max(*most));
        let is_running = clients.iter_mut().any(Running::is_running);
        Ok((!is_running).then_some(()))
    })?;
    for (client, server) in clients.into_iter().zip(&servers) {
        let (client, seen) = (client.wait(DEADLINE)?.json()?, server.saw_nth(0)?);
        assert_exchanged(&client, &seen);
        let moved = [&client["received"], &seen["received"]].map(Value::to_string);
        assert!(moved.contains(&bytes), "{client} {seen}");
        closed(&stage, &client, way, "finished")?;
    }
    let grown: Vec<_> = most.iter().zip(&before).map(|(most, before)| most - before).collect();
    println!("resident before {before:?}, grown by at most {grown:?}");
    assert!(grown.iter().all(|grown| *grown < 16 << 20), "{before:?} {most:?}");
    Ok(())
}

#[test]
fn a_gibibyte_each_way_at_once_arrives_whole() -> Result<()> {
    let bytes = (1_u64 << 30).to_string();
    let stage = Stage::set("strict")?;
    for way in stage.direct_ways_to(&stage.far) {
        let begun = Instant::now();
        let server = way.callee.serve(&["--then", "duplex", "--bytes", &bytes, "--seed", "2"])?;
        let client = stage.caller.connect(way.to, &["--then", "duplex", "--bytes", &bytes])?;
        assert_exchanged(&client, &server.saw_nth(0)?);
        assert_eq!(client["received"].to_string(), bytes);
        closed(&stage, &client, &way, "finished")?;
        println!("{way}: {:?}", begun.elapsed());
    }
    Ok(())
}
