//! Many connections: at once, and one after the other. What they cost is given back.

use std::time::Duration;

use anyhow::Result;
use martlet_lab::{Resources, Stage, is_long, wait_for};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(60);
const AT_ONCE: usize = 5000;

/// What both agents hold once no connection is open any more.
fn at_rest(stage: &Stage) -> Result<[Resources; 2]> {
    for agent in [&stage.one, &stage.two] {
        wait_for("all connections to have ended", PATIENCE, || {
            Ok((agent.get("/status")?["connections"] == 0).then_some(()))
        })?;
    }
    Ok([stage.one.resources()?, stage.two.resources()?])
}

/// Both agents have carried so many connections over lanes, and all have finished in order.
fn carried(stage: &Stage, count: usize) -> Result<()> {
    let labels = ["protection=\"mutual_tls\"", "closed=\"finished\""];
    for agent in [&stage.one, &stage.two] {
        wait_for("all records to be counted", PATIENCE, || {
            let closed = agent.metric("martlet_connections_closed_total", &labels)?;
            Ok((closed == count as f64).then_some(()))
        })?;
    }
    Ok(())
}

/// The second round may not need more than the first has left behind.
fn assert_flat(first: [Resources; 2], second: [Resources; 2]) {
    println!("after the first round {first:?}, after the second {second:?}");
    for (first, second) in first.into_iter().zip(second) {
        // Some idle lanes may be closing.
        assert!(second.files <= first.files + 64, "{first:?} {second:?}");
        assert!(second.threads <= first.threads + 4, "{first:?} {second:?}");
        let bound = first.resident_bytes + first.resident_bytes / 4 + (8 << 20);
        assert!(second.resident_bytes <= bound, "{first:?} {second:?}");
    }
}

#[test]
fn five_thousand_connections_at_once_are_all_answered() -> Result<()> {
    let stage = Stage::set("strict")?;
    let _server = stage.far.serve(&["--then", "echo", "--quiet"])?;
    let mut rounds = Vec::new();
    let [v4, v6] = &stage.direct_ways_to(&stage.far)[..] else { panic!("one way of each family") };
    // Idle lanes are kept for each address, so only the third round shows what is given back.
    for way in [v4, v6, v4] {
        let (to, count) = (way.to.to_string(), AT_ONCE.to_string());
        let arguments = ["crowd", "--to", &to, "--connections", &count];
        let crowd = stage.caller.probe(&arguments)?.run()?.json()?;
        println!("{crowd}");
        assert_eq!((&crowd["opened"], &crowd["echoed"]), (&AT_ONCE.into(), &AT_ONCE.into()));
        rounds.push(at_rest(&stage)?);
    }
    carried(&stage, 3 * AT_ONCE)?;
    assert_flat(rounds[1], rounds[2]);
    Ok(())
}

/// Few ports, so that even the short run needs each of them several times within a minute, for
/// which the kernel would keep it in TIME_WAIT.
const PORTS: &str = "40000 43999";

#[test]
fn short_connections_in_a_row_do_not_run_out_of_ports() -> Result<()> {
    let count = if is_long() { 100_000 } else { 20_000 };
    println!("{count} connections in a row over 4,000 ports (MARTLET_LONG=1 for 100,000)");
    let stage = Stage::set("strict")?;
    for pod in [&stage.caller, &stage.far] {
        pod.netns().set_sysctls(&[("ipv4/ip_local_port_range", PORTS)])?;
    }
    let mut rounds = Vec::new();
    // Whoever closes first has to remember the connection.
    for (closes, kind, way) in [
        ("client", "echo", &stage.ways_to(&stage.far)[0]),
        ("server", "once", &stage.ways_to(&stage.far)[2]),
    ] {
        assert!(way.is_v4());
        let _server = way.callee.serve(&["--then", kind, "--quiet"])?;
        let (to, half) = (way.to.to_string(), (count / 2).to_string());
        let arguments = ["row", "--to", &to, "--connections", &half, "--closes", closes];
        let row = stage.caller.probe(&arguments)?.run_within(Duration::from_secs(600))?.json()?;
        println!("{way}, {closes} closes: {row}");
        assert_eq!((row["done"].to_string(), &row["errors"]), (half, &json!({})));
        rounds.push(at_rest(&stage)?);
    }
    carried(&stage, count)?;
    assert_flat(rounds[0], rounds[1]);
    Ok(())
}
