//! The plugin of the container network asks all the time while agents take over from each other.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use martlet_cni::{
    agent,
    limits::ANSWER_TIMEOUT,
    message::{Answer, Arrival, Ask, PodName, SOCKET},
};
use martlet_lab::{Stage, evidence, is_long, wait_for};

use super::{PATIENCE, door::silent_successor, traffic::Traffic};

/// Runtimes make several pods at once.
const ASKERS: u8 = 4;

/// What has become of one that asks.
#[derive(Default)]
struct Asked {
    count: usize,
    slowest: Duration,
    failed: Vec<String>,
}

/// Asks for one pod after the other, each of which goes again at once.
fn ask_until(stop: &AtomicBool, socket: &Path, number: u8) -> Result<Asked> {
    let netns = File::open("/proc/self/ns/net").context("opening a network namespace")?;
    let mut asked = Asked::default();
    while !stop.load(Ordering::Acquire) {
        let sandbox = format!("{number}-{}", asked.count);
        let pod = PodName {
            namespace: "shop".to_owned(),
            name: format!("pod-{sandbox}"),
            uid: Some(format!("uid-{sandbox}")),
        };
        let arrival = Arrival {
            sandbox: sandbox.clone(),
            netns: "/proc/self/ns/net".into(),
            pod: Some(pod),
            addresses: vec![[203, 0, 113, number].into()],
            is_exempt: false,
        };
        let began = Instant::now();
        match agent::ask(socket, &Ask::Arrives(arrival), Some(&netns), ANSWER_TIMEOUT) {
            Ok(Answer::Go) => {}
            Ok(Answer::No { why }) => asked.failed.push(format!("no: {why}")),
            Err(error) => asked.failed.push(error.to_string()),
        }
        asked.slowest = asked.slowest.max(began.elapsed());
        asked.count += 1;
        // It need not be heard.
        let _ = agent::ask(socket, &Ask::Leaves { sandbox }, None, ANSWER_TIMEOUT);
    }
    Ok(asked)
}

fn socket(stage: &Stage) -> PathBuf {
    stage.two.socket().with_file_name(SOCKET)
}

#[test]
fn a_pod_that_arrives_during_a_takeover_is_answered_and_never_refused_or_lost() -> Result<()> {
    let mut stage = Stage::set("strict")?;
    let mut traffic = Traffic::start(&stage)?;
    let (stop, socket) = (AtomicBool::new(false), socket(&stage));
    let rounds = if is_long() { 30 } else { 6 };
    let mut held = Vec::new();
    let asked = thread::scope(|scope| -> Result<Vec<Asked>> {
        let ask = |number| {
            let (stop, socket) = (&stop, &socket);
            scope.spawn(move || ask_until(stop, socket, number))
        };
        let askers: Vec<_> = (1..=ASKERS).map(ask).collect();
        let replaced = (0..rounds).try_for_each(|_| {
            held.push(stage.two.succeed()?);
            anyhow::Ok(())
        });
        stop.store(true, Ordering::Release);
        let asked = askers.into_iter().map(|asker| match asker.join() {
            Ok(asked) => asked,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        let asked = asked.collect();
        replaced.and(asked)
    })?;
    let failed: Vec<_> = asked.iter().flat_map(|asked| &asked.failed).collect();
    let count: usize = asked.iter().map(|asked| asked.count).sum();
    ensure!(failed.is_empty(), "{} of {count}: {failed:?}", failed.len());
    ensure!(
        asked.iter().all(|asked| asked.count > rounds),
        "all of them were answered again and again"
    );
    traffic.goes_on("after all of it")?;
    traffic.end()?;
    for before in held {
        before.wait(PATIENCE)?.success()?;
    }
    let slowest = asked.iter().map(|asked| asked.slowest).max().unwrap_or_default();
    evidence(
        "a_pod_that_arrives_during_a_takeover_is_answered_and_never_refused_or_lost",
        &[
            ("agents replaced", &rounds),
            ("pods that arrived meanwhile", &count),
            ("refused or lost", &0),
            ("slowest answer", &format!("{} ms", slowest.as_millis())),
        ],
    )
}

#[test]
fn a_pod_that_arrives_while_a_successor_is_given_up_is_answered_by_who_was_there() -> Result<()> {
    let mut stage = Stage::set("strict")?;
    let (stop, socket) = (AtomicBool::new(false), socket(&stage));
    let asked = thread::scope(|scope| -> Result<Asked> {
        let asker = scope.spawn(|| ask_until(&stop, &socket, 1));
        let given_up = (0..5).try_for_each(|round| -> Result<()> {
            drop(silent_successor(&stage.two)?);
            wait_for("the agent to go on", PATIENCE, || {
                let back = stage.two.log().matches("this one goes on").count();
                Ok((back > round).then_some(()))
            })
        });
        stop.store(true, Ordering::Release);
        let asked = match asker.join() {
            Ok(asked) => asked,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        given_up.and(asked)
    })?;
    let Asked { count, failed, .. } = asked;
    ensure!(failed.is_empty(), "{} of {count}: {failed:?}", failed.len());
    // Without an agent nobody answers, and that is no yes.
    stage.two.stop()?.success()?;
    let ask = Ask::Leaves { sandbox: "x".to_owned() };
    ensure!(agent::ask(&socket, &ask, None, ANSWER_TIMEOUT).is_err());
    Ok(())
}
