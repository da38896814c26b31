//! The same where the agents follow a controller, which listens to one of a node at a time.

use anyhow::{Context as _, Result, ensure};
use martlet_lab::{Cluster, Lab, wait_for};

use super::{PATIENCE, traffic::Traffic};

#[test]
fn the_successor_follows_the_controller_and_the_predecessor_hears_whom_it_cuts_off() -> Result<()> {
    let lab = Lab::new()?;
    let mut cluster = Cluster::start(&lab, "a", 2)?;
    let [one, two] = &cluster.pods[..] else { unreachable!("there are two pods") };
    let servers = vec![two.serve(&["--then", "echo", "--quiet"])?];
    let mut traffic = Traffic::between(&[(one, two.application())], servers)?;
    let before = cluster.agent_mut("a2")?.succeed()?;
    traffic.goes_on("after the takeover")?;
    wait_for("the successor to follow the controller", PATIENCE, || {
        let controller = cluster.agent("a2")?.get("/status")?["controller"].clone();
        Ok(controller["away"].is_null().then_some(()))
    })?;
    ensure!(!before.stderr().contains("certificate renewed"), "{}", before.stderr());
    let log = cluster.agent("a2")?.log();
    ensure!(log.contains("certificate of the earlier process taken over"), "{log}");
    // Of what the predecessor still carries too.
    let cut = ["trust", "quarantine", "workload", "shop/a1"];
    cluster.controller.martlet_text(&cut)?;
    let reset = traffic.wait_for_resets()?;
    ensure!(reset > 0, "what it carried was ended");
    before.wait(PATIENCE)?.success()?;
    let agent = cluster.agent_mut("a2")?;
    ensure!(agent.is_running(), "{}", agent.log());
    agent.stop()?.success().map(drop).context("the successor stops as any other")
}

#[test]
fn without_a_controller_an_agent_is_replaced_and_serves_with_what_is_kept() -> Result<()> {
    let lab = Lab::new()?;
    let mut cluster = Cluster::start(&lab, "a", 2)?;
    let [one, two] = &cluster.pods[..] else { unreachable!("there are two pods") };
    let servers = vec![two.serve(&["--then", "echo", "--quiet"])?];
    let mut traffic = Traffic::between(&[(one, two.application())], servers)?;
    cluster.controller.kill()?;
    let held = ["a1", "a2"].map(|name| cluster.agent_mut(name)?.succeed());
    traffic.goes_on("after both agents were replaced without a controller")?;
    traffic.end()?;
    for before in held {
        before?.wait(PATIENCE)?.success()?;
    }
    Ok(())
}
