//! An authority's files and a node file that are bad, gone, or another's.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use martlet_lab::{Agent, Mesh, Stage, wait_for};
use nix::sys::signal::Signal;
use rand::RngExt as _;

use crate::trial::{Struck, Trial, Victim, now};

const PATIENCE: Duration = Duration::from_secs(20);
const HOLD: Duration = Duration::from_millis(100);
const FILES: [&str; 3] = ["root.crt", "issuer.crt", "issuer.key"];

/// To be done before the agents start: each one gets a copy of the authority's files.
pub fn with_own_authorities(stage: &mut Stage) -> Result<()> {
    let shared = stage.mesh.authority().clone();
    let mut copy_for = |agent: &Agent| -> Result<Agent> {
        let own = agent.node().directory()?.join("authority");
        fs::create_dir_all(&own)?;
        for name in FILES {
            fs::copy(shared.join(name), own.join(name))
                .with_context(|| format!("copying {name}"))?;
        }
        stage.mesh.set_authority(own);
        Agent::prepare(&stage.mesh, agent.node())
    };
    let (one, two) = (copy_for(&stage.one)?, copy_for(&stage.two)?);
    stage.mesh.set_authority(shared);
    (stage.one, stage.two) = (one, two);
    Ok(())
}

/// Told to read them, the agent keeps what it has and says so; started anew, it has nothing and
/// does not run.
pub fn bad_authority(trial: &mut Trial) -> Result<Struck> {
    let victim = trial.any();
    let directory = authority_of(trial.agent(victim))?;
    let name = FILES[trial.rng.random_range(0..FILES.len())];
    let path = directory.join(name);
    let good = fs::read(&path).context("reading a good file")?;
    match trial.rng.random_range(0..4) {
        0 => fs::remove_file(&path)?,
        1 => fs::write(&path, "")?,
        2 => fs::write(&path, &good[..trial.rng.random_range(1..good.len() - 40)])?,
        _ => fs::write(&path, trial.rng.random::<[u8; 32]>())?,
    }
    let agent = trial.agent(victim);
    let said = complaints(agent);
    agent.signal(Signal::SIGHUP)?;
    wait_for("the agent to complain", PATIENCE, || Ok((complaints(agent) > said).then_some(())))?;
    let bad = now();
    trial.wait_for_service(bad).context("with what it has")?;
    let is_restarted = trial.rng.random_ratio(1, 4);
    if is_restarted {
        trial.agent(victim).kill()?;
        trial.agent(victim).launch()?;
        let ended = trial.agent(victim).wait_for_end()?;
        ensure!(!ended.status.success() && ended.stderr.contains("authority"), "{}", ended.stderr);
    }
    fs::write(&path, good).context("putting the good file back")?;
    // Of a key that others may read the agent wants to know nothing.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    if is_restarted {
        trial.agent(victim).launch()?;
    }
    let ended = now();
    match is_restarted {
        true => trial.agent(victim).wait_until_ready()?,
        false => trial.agent(victim).signal(Signal::SIGHUP)?,
    }
    Ok(Struck { ended, spared_near: victim == Victim::Callee })
}

fn complaints(agent: &Agent) -> usize {
    agent.log().matches("the authority's files were not taken").count()
}

fn authority_of(agent: &Agent) -> Result<PathBuf> {
    Ok(agent.node().directory()?.join("authority"))
}

/// Two agents that trust different roots refuse each other, and say why.
pub fn another_root(trial: &mut Trial) -> Result<Struck> {
    let victim = trial.any();
    let directory = authority_of(trial.agent(victim))?;
    let kept = directory.with_extension("kept");
    fs::rename(&directory, &kept)?;
    make_authority(&trial.stage.mesh, &directory)?;
    let before = untrusted(trial)?;
    trial.agent(victim).signal(Signal::SIGHUP)?;
    wait_for("strangers to be refused", PATIENCE, || {
        Ok((untrusted(trial)? > before).then_some(()))
    })?;
    trial.hold(HOLD)?;
    fs::remove_dir_all(&directory)?;
    fs::rename(&kept, &directory)?;
    trial.agent(victim).signal(Signal::SIGHUP)?;
    // What the other root has proven ends when the agent looks, which may be during the next fault.
    Ok(Struck { ended: now(), spared_near: false })
}

fn make_authority(mesh: &Mesh, at: &std::path::Path) -> Result<()> {
    let mut init = std::process::Command::new(martlet_lab::find_binary("martlet")?);
    init.args(["authority", "init"]).arg(at).args(["--trust-domain", mesh.trust_domain()]);
    let output = init.output().context("running `martlet authority init`")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// How many connections both agents have refused because of the other's root.
fn untrusted(trial: &Trial) -> Result<f64> {
    let mut all = 0.0;
    for agent in [&trial.stage.one, &trial.stage.two] {
        for reason in ["closed=\"peer_untrusted\"", "closed=\"refused_by_peer\""] {
            all += agent.metric("martlet_connections_closed_total", &[reason])?;
        }
    }
    Ok(all)
}

/// The old one stays in use.
pub fn bad_node_file(trial: &mut Trial) -> Result<Struck> {
    let victim = trial.any();
    let kind = trial.rng.random_range(0..5);
    let noise: [u8; 32] = trial.rng.random();
    let agent = trial.agent(victim);
    let (path, before) = (agent.file(), agent.get("/status")?);
    let good = fs::read(&path).context("reading the node file")?;
    let bad = match kind {
        0 => Vec::new(),
        1 => noise.to_vec(),
        2 => good[..good.len() / 2].to_vec(),
        3 => vec![b'#'; 64 << 20],
        _ => [good.as_slice(), b"surprise: true\n"].concat(),
    };
    let began = now();
    match noise[0] % 6 {
        0 => fs::remove_file(&path)?,
        _ => fs::write(&path, bad)?,
    }
    agent.signal(Signal::SIGHUP)?;
    wait_for("the agent to refuse the file", PATIENCE, || {
        let status = agent.get("/status")?;
        ensure!(status["configuration"] == before["configuration"], "it took the file: {status}");
        Ok(status["configuration_error"].is_string().then_some(()))
    })?;
    trial.hold(HOLD)?;
    fs::write(&path, good).context("putting the good file back")?;
    let agent = trial.agent(victim);
    wait_for("the good file to be taken", PATIENCE, || {
        Ok(agent.get("/status")?["configuration_error"].is_null().then_some(()))
    })?;
    nothing_was_interrupted(trial)?;
    Ok(Struck { ended: began, spared_near: true })
}

pub fn nothing_was_interrupted(trial: &mut Trial) -> Result<()> {
    for patrol in trial.patrols_of(Victim::Caller) {
        let name = patrol.name().to_owned();
        let failed = patrol.outcomes()?.iter().find(|outcome| outcome.error.is_some());
        ensure!(failed.is_none(), "{name}: {failed:?}");
    }
    Ok(())
}
