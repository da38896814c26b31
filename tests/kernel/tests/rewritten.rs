//! A pod that may change its own packets turns around what the agent gives to its application.

use std::{fs, net::IpAddr, process::Command};

use anyhow::{Context as _, Result, ensure};
use martlet_lab::{Canaries, Pod, Sniffer, Stage};

/// Sends what carries payload from the agent to an application of the pod to somebody else.
fn turn_to(pod: &Pod, goal: IpAddr) -> Result<()> {
    let own = pod.v4();
    let rules = pod.directory()?.join("rules");
    fs::write(
        &rules,
        format!(
            "flush ruleset
            table ip turn {{
                chain out {{
                    type route hook output priority 0
                    ip saddr {own} ip daddr {own} tcp sport 512-1023 ip length > 60 ip daddr set {goal}
                }}
            }}"
        ),
    )?;
    let output = pod.run(|| Command::new("nft").arg("-f").arg(&rules).output())?;
    let output = output.context("running nft")?;
    ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Asks while the answer is turned; gives how many canaries of the answer were on the wire.
fn turned(stage: &Stage, goal: IpAddr) -> Result<usize> {
    turn_to(&stage.caller, goal)?;
    let answers = Canaries::random(1);
    let [asked, answered] = ["asked", "answered"].map(|name| stage.lab.directory().join(name));
    Canaries::random(1).write_to(&asked)?;
    answers.write_to(&answered)?;
    let [asked, answered] = [asked, answered].map(|path| path.display().to_string());
    let way = &stage.direct_ways_to(&stage.far)[0];
    let _server = way.callee.serve(&["--then", "answer", "--canaries", &answered])?;
    let sniffer = Sniffer::start([stage.lab.wire()], &answers)?;
    let ask = ["--then", "ask", "--canaries", &asked, "--replies", &answered];
    let client = stage.caller.connect(way.to, &[&ask[..], &["--timeout-ms", "1000"]].concat())?;
    assert_eq!((&client["connected"], &client["received"]), (&true.into(), &0.into()), "{client}");
    Ok(sniffer.stop()?.found().len())
}

/// What the pod has got itself is its own to give away, but not to an enrolled pod, and not as if it
/// were the agent's.
#[test]
fn what_the_agent_gives_an_application_leaves_its_pod_for_no_enrolled_pod() -> Result<()> {
    let stage = Stage::set("strict")?;
    assert_eq!(turned(&stage, stage.outside.v4())?, 1, "the rules turn nothing");
    assert_eq!(turned(&stage, stage.far.v4())?, 0);
    Ok(())
}
