//! The story, act by act. An act fails if what it wants to show is not so.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use martlet_lab::{Pod, wait_for};
use serde_json::Value;

use crate::{
    facts::{Control, Denied, Facts, Latency, Outage, Protected},
    stage::{SERVICE, Stage},
    terminal::Terminal,
    wire::{Piece, Seen, watch},
};

/// Nodes, and so agents, by number.
const ONE: usize = 0;
const TWO: usize = 1;
const THREE: usize = 2;

/// How long an agent may take to serve again.
const RECOVERY: Duration = Duration::from_secs(20);

pub fn play(stage: &mut Stage, terminal: &mut Terminal) -> Result<Facts> {
    let control =
        terminal.step("before: curl to nginx from two nodes, no agent runs", || before(stage))?;
    terminal.step("an agent on each node; four pods are enrolled", || stage.start_agents())?;
    let protected = terminal.step("after: the same, by pod and by service address", || {
        let protected = after(stage)?;
        judge(protected.seen)?;
        Ok(protected)
    })?;
    let denied = terminal.step("a policy forbids one caller, and only that one", || {
        let denied = deny(stage)?;
        judge(denied.seen)?;
        Ok(denied)
    })?;
    let outage = terminal.step("an agent is killed with -9, and started again", || {
        let outage = kill(stage)?;
        judge(outage.seen)?;
        Ok(outage)
    })?;
    let latency = terminal.step("round trips, direct and through, in turns", || measure(stage))?;
    let (records, connections) = collect(stage)?;
    Ok(Facts { control, protected, denied, outage, latency, records, connections })
}

fn judge(seen: Seen) -> Result<()> {
    ensure!(seen.bytes > 0, "the sniffer saw nothing at all");
    let (secrets, bytes) = (seen.secrets, seen.in_clear);
    ensure!(seen.plaintext() == 0, "plaintext on the wire: {secrets} secrets, {bytes} bytes");
    Ok(())
}

/// The control: a sniffer that finds nothing here would prove nothing later.
fn before(stage: &mut Stage) -> Result<Control> {
    let to = stage.web_address();
    let secrets = stage.secrets.before.canaries.clone();
    let ((), capture) = watch(&stage.lab.wire().clone(), &secrets, || {
        for cart in &stage.carts {
            stage.secrets.before.errand()?.succeed(cart, &to.to_string())?;
        }
        Ok(())
    })?;
    let (seen, told) = (Seen::of(&capture, to.ip())?, stage.secrets.before.told());
    ensure!(seen.secrets == told, "the sniffer found {} of {told} secrets in clear", seen.secrets);
    Ok(Control { seen, told, request: Piece::request(&capture, to)? })
}

fn after(stage: &mut Stage) -> Result<Protected> {
    let (to, secrets) = (stage.web_address(), stage.secrets.after.canaries.clone());
    let before = stage.secrets.after.told();
    let ((), capture) = watch(&stage.lab.wire().clone(), &secrets, || {
        for cart in &stage.carts {
            for to in [to.to_string(), SERVICE.to_owned()] {
                stage.secrets.after.errand()?.succeed(cart, &to)?;
            }
        }
        Ok(())
    })?;
    let record = stage.agents[TWO].wait_for_record("mutual TLS", |record| {
        record["protection"] == "mutual_tls" && is_from(record, &stage.carts[0])
    })?;
    let told = stage.secrets.after.told() - before + 1;
    let (seen, pieces) = (Seen::of(&capture, to.ip())?, Piece::records(&capture, to)?);
    let protected = Protected::new(seen, told, pieces, &record)?;
    for (claimed, account) in [(&protected.client, "cart"), (&protected.server, "web")] {
        let expected = stage.identity(account);
        ensure!(*claimed == expected, "{expected} was recorded as {claimed}");
    }
    Ok(protected)
}

fn deny(stage: &mut Stage) -> Result<Denied> {
    let (to, secrets) = (stage.web_address(), stage.secrets.after.canaries.clone());
    let before = stage.secrets.after.told();
    let (said, capture) = watch(&stage.lab.wire().clone(), &secrets, || {
        stage.secrets.after.errand()?.succeed(&stage.guest, &to.to_string())?;
        stage.forbid_guests()?;
        let said = stage.secrets.after.errand()?.fail(&stage.guest, &to.to_string())?;
        for cart in &stage.carts {
            stage.secrets.after.errand()?.succeed(cart, &to.to_string())?;
        }
        Ok(said)
    })?;
    let record = stage.agents[THREE]
        .wait_for_record("the refusal", |record| record["closed"] == "denied")?;
    ensure!(is_from(&record, &stage.guest), "another one was denied: {record}");
    let policy = record["policy"].as_str().context("the record names no policy")?.to_owned();
    ensure!(policy.contains("no-guests"), "the record names another policy: {policy}");
    Ok(Denied {
        seen: Seen::of(&capture, to.ip())?,
        told: stage.secrets.after.told() - before,
        identity: stage.identity("guest"),
        policy,
        said,
    })
}

fn kill(stage: &mut Stage) -> Result<Outage> {
    let (to, secrets) = (stage.web_address(), stage.secrets.after.canaries.clone());
    let before = stage.secrets.after.told();
    let ((said, refused_after, serves_after), capture) =
        watch(&stage.lab.wire().clone(), &secrets, || {
            stage.agents[TWO].kill()?;
            let errand = stage.secrets.after.errand()?;
            let begun = Instant::now();
            let said = errand.fail(&stage.carts[0], &to.to_string())?;
            let refused_after = begun.elapsed();
            let begun = Instant::now();
            stage.agents[TWO].launch()?;
            let errand = stage.secrets.after.errand()?;
            wait_for("the restarted agent to serve", RECOVERY, || {
                Ok(errand.succeed(&stage.carts[0], &to.to_string()).ok())
            })?;
            Ok((said, refused_after, begun.elapsed()))
        })?;
    stage.agents[TWO].wait_until_ready()?;
    Ok(Outage {
        seen: Seen::of(&capture, to.ip())?,
        told: stage.secrets.after.told() - before,
        said,
        refused_after,
        serves_after,
    })
}

/// The same program, node and wire; one destination is enrolled and the other one is not.
fn measure(stage: &Stage) -> Result<[Latency; 2]> {
    let [direct, through] = stage.echo_addresses().map(|address| address.to_string());
    let arguments = ["latency", "--rounds", "5000", "--to", &direct, "--to", &through];
    let probe = stage.carts[0].probe(&arguments)?;
    let told = probe.run()?;
    let lines = told.json()?;
    Ok([Latency::of(&lines["latency"][0])?, Latency::of(&lines["latency"][1])?])
}

/// All records in the order of time, and the number of connections that mutual TLS protected.
fn collect(stage: &Stage) -> Result<(Vec<Value>, usize)> {
    // The one whose round trips were measured is told of last.
    let measured = stage.echo_addresses()[1].to_string();
    stage.agents[TWO].wait_for_record("the measured connection", |record| {
        record["destination"]["address"] == measured.as_str()
    })?;
    let mut records = Vec::new();
    for node in [ONE, TWO, THREE] {
        records.extend(stage.agents[node].records()?);
    }
    records.sort_by(|a, b| a["time"].as_str().cmp(&b["time"].as_str()));
    let is_protected = |record: &&Value| {
        record["reporter"] == "destination" && record["protection"] == "mutual_tls"
    };
    let connections = records.iter().filter(is_protected).count();
    Ok((records, connections))
}

fn is_from(record: &Value, pod: &Pod) -> bool {
    let source = format!("{}:", pod.v4());
    record["source"]["address"].as_str().is_some_and(|address| address.starts_with(&source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_alone_passes() {
        assert!(judge(Seen { secrets: 0, bytes: 100, in_clear: 0 }).is_ok());
    }

    #[test]
    fn a_secret_a_byte_in_clear_and_a_silent_wire_do_not_pass() {
        for seen in [
            Seen { secrets: 1, bytes: 100, in_clear: 0 },
            Seen { secrets: 0, bytes: 100, in_clear: 1 },
            Seen { secrets: 0, bytes: 0, in_clear: 0 },
        ] {
            assert!(judge(seen).is_err(), "{seen:?}");
        }
    }
}
