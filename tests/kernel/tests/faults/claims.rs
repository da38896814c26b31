//! What a single fault shows, and what the suite's own eyes are worth.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use martlet_lab::{Agent, PORT, Stage, assert_refused, evidence, wait_for};
use nix::sys::signal::Signal;
use rand::{SeedableRng as _, rngs::StdRng};

use crate::{
    clock, trial,
    trial::{SECRETS, Trial, now},
};

const PATIENCE: Duration = Duration::from_secs(30);
/// Connecting, the handshake, and the hello each have ten seconds at most.
const DEADLINES: Duration = Duration::from_secs(40);
const YEARS: i64 = 30 * 365 * 86_400;

#[test]
fn without_enrollment_the_sniffer_sees_every_secret() -> Result<()> {
    let mut stage = Stage::prepare("strict", |_| {})?;
    for pod in [stage.caller.clone(), stage.near.clone(), stage.far.clone()] {
        stage.mesh.withdraw(&pod);
    }
    stage.one = Agent::prepare(&stage.mesh, &stage.one.node().clone())?;
    stage.two = Agent::prepare(&stage.mesh, &stage.two.node().clone())?;
    stage.launch()?;
    let mut trial = Trial::begin(
        stage,
        StdRng::seed_from_u64(0),
        trial::PATIENCE,
        trial::Watching::Everything,
    )?;
    // Nobody turns the address of a service.
    trial.across.remove(1);
    for patrol in trial.across.iter_mut().chain([&mut trial.near]) {
        let all = |outcomes: &[martlet_lab::Outcome]| {
            let answered = outcomes.iter().filter(|one| one.stays_open && one.is_success());
            answered.count() >= SECRETS / 5
        };
        wait_for(
            "every secret to be sent",
            PATIENCE,
            || Ok(all(patrol.outcomes()?).then_some(())),
        )?;
    }
    let seen = trial.secrets_seen()?;
    assert_eq!(seen, SECRETS);
    evidence(
        "without_enrollment_the_sniffer_sees_every_secret",
        &[("secrets", &SECRETS), ("seen", &seen)],
    )
}

#[test]
fn an_expired_agent_refuses_with_its_own_reason_and_recovers_by_itself() -> Result<()> {
    let mut stage = Stage::prepare("strict", |_| {})?;
    clock::with_own_clocks(&mut stage)?;
    stage.one.set_env("MARTLET_LEAF_SECONDS", "3");
    stage.launch()?;
    let mut trial = Trial::begin(
        stage,
        StdRng::seed_from_u64(0),
        trial::PATIENCE,
        trial::Watching::Everything,
    )?;
    trial.wait_for_service(0)?;
    // The authority has expired for it, too: what it has is not renewed.
    clock::set(&trial.stage.one, YEARS)?;
    for reporter in ["reporter=\"source\"", "reporter=\"destination\""] {
        wait_for("its own reason", PATIENCE, || {
            let labels = ["closed=\"own_certificate_expired\"", reporter];
            let refused = trial.stage.one.metric("martlet_connections_closed_total", &labels)?;
            Ok((refused > 0.0).then_some(()))
        })
        .with_context(|| format!("{reporter}: {:#?}", reasons(&trial.stage.one)))?;
    }
    let dead = now();
    for patrol in trial.across.iter_mut().chain([&mut trial.near]) {
        let is_refusal = |outcome: &martlet_lab::Outcome| outcome.error.is_some();
        patrol.wait_for("new connections to be refused", dead, is_refusal)?;
    }
    clock::set(&trial.stage.one, 0)?;
    let took = trial.wait_for_service(now())?;
    assert_eq!(trial.secrets_seen()?, 0);
    evidence(
        "an_expired_agent_refuses_with_its_own_reason_and_recovers_by_itself",
        &[("service back after", &format!("{} ms", took.as_millis()))],
    )
}

/// For a failure's message.
fn reasons(agent: &Agent) -> Vec<String> {
    let page = agent.admin("/metrics").map(|page| page.body).unwrap_or_default();
    let closed = page.lines().filter(|line| line.contains("connections_closed_total"));
    closed.map(str::to_owned).collect()
}

#[test]
fn who_calls_a_pod_whose_agent_hangs_is_refused_at_a_deadline() -> Result<()> {
    let stage = Stage::set("strict")?;
    let _server = stage.far.serve(&["--then", "echo"])?;
    stage.two.signal(Signal::SIGSTOP)?;
    let begun = Instant::now();
    let to = SocketAddr::new(stage.far.v4(), PORT);
    let client = stage.caller.connect(to, &["--then", "send", "--bytes", "100"])?;
    let took = begun.elapsed();
    assert_refused(&client);
    ensure!(took < DEADLINES, "refused after {took:?}");
    let record =
        stage.one.wait_for_record("the refusal", |record| record["reporter"] == "source")?;
    assert_eq!(record["closed"], "handshake_timed_out", "{record}");
    stage.two.signal(Signal::SIGCONT)?;
    assert_eq!(stage.caller.connect(to, &["--then", "send", "--bytes", "100"])?["received"], 100);
    evidence(
        "who_calls_a_pod_whose_agent_hangs_is_refused_at_a_deadline",
        &[("refused after", &format!("{} ms", took.as_millis()))],
    )
}
