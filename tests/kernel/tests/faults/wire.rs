//! Packets between enrolled pods that are lost between the nodes: some of them, or all.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use martlet_lab::{Node, Pod};
use rand::RngExt as _;

use crate::trial::{Struck, Trial, now};

const LOSS: Duration = Duration::from_millis(300);
const PARTITION: Duration = Duration::from_millis(400);
const NFT: &str = "/usr/sbin/nft";

pub fn loss(trial: &mut Trial) -> Result<Struck> {
    let percent = trial.rng.random_range(5..60);
    dropping(trial, percent, LOSS)
}

pub fn partition(trial: &mut Trial) -> Result<Struck> {
    dropping(trial, 100, PARTITION)
}

/// Both directions at once, on one node.
fn dropping(trial: &mut Trial, percent: u32, at_most: Duration) -> Result<Struck> {
    let victim = trial.any();
    let node = trial.agent(victim).node().clone();
    let pods = [&trial.stage.caller, &trial.stage.far];
    nft(&node, &rules(pods, percent))?;
    trial.hold(at_most)?;
    // Traffic goes on all the time, so this does not take long.
    martlet_lab::wait_for("packets to be lost", at_most * 20, || {
        let listed = nft(&node, "list table inet martlet_fault\n")?;
        let counts = listed.split("packets ").skip(1);
        let lost = counts.filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok());
        Ok((lost.sum::<u64>() > 0).then_some(()))
    })?;
    nft(&node, "delete table inet martlet_fault\n")?;
    Ok(Struck { ended: now(), spared_near: true })
}

fn rules(pods: [&Pod; 2], percent: u32) -> String {
    let chance = match percent {
        100 => "counter drop".to_owned(),
        _ => format!("numgen random mod 100 < {percent} counter drop"),
    };
    let mut rules = String::new();
    for (family, number) in [("ip", 0), ("ip6", 1)] {
        let pods = pods.map(|pod| pod.addresses()[number].to_string()).join(", ");
        rules += &format!("{family} saddr {{ {pods} }} {family} daddr {{ {pods} }} {chance}\n");
    }
    format!(
        "table inet martlet_fault {{ chain wire {{\n\
         type filter hook forward priority 0;\n{rules}}}\n}}\n"
    )
}

fn nft(node: &Node, commands: &str) -> Result<String> {
    let file = node.directory()?.join("commands.nft");
    std::fs::write(&file, commands).context("writing commands for nft")?;
    let done = node.command(NFT).arg("-f").arg(&file).run()?;
    ensure!(done.status.success(), "{commands}{}", done.stderr);
    Ok(done.stdout)
}
