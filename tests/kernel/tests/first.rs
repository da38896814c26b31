//! Pods whose processes dial from their first instruction, long before the agent has heard of them.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use martlet_lab::{
    Agent, Canaries, Finished, Lab, Mesh, Node, PORT, Pod, Running, Sniffer, evidence, is_long,
};
use serde_json::Value;

/// As many at a time as a small machine can start at once.
const WAVE: usize = 25;

/// How long a pod may take until it is answered: an agent looks for new ones every second.
const PATIENCE: Duration = Duration::from_secs(90);

/// A pod, and its process.
struct Dialing {
    pod: Pod,
    running: Running,
}

/// A canary of 32 printable characters, which the process gets as an argument.
fn says(canaries: &Canaries, number: usize) -> Result<String> {
    let canary = canaries.iter().nth(number).context("there is one for each pod")?;
    Ok(String::from_utf8(canary.to_vec())?)
}

fn dial(pod: Pod, to: SocketAddr, say: &str) -> Result<Dialing> {
    let to = to.to_string();
    let running = pod.probe(&["insist", "--to", &to, "--say", say])?.spawn()?;
    Ok(Dialing { pod, running })
}

/// Pods in the places of those of the wave before, each dialing as soon as it is there.
fn start(
    node: &Node,
    old: &[Pod],
    first: usize,
    to: SocketAddr,
    says: &[String],
) -> Result<Vec<Dialing>> {
    let make = |(place, say): (usize, &String)| {
        let name = format!("fresh-{}", first + place);
        let pod = match old.get(place) {
            Some(old) => old.replace(&name)?,
            None => node.pod(&name)?,
        };
        dial(pod, to, say)
    };
    says.iter().enumerate().map(make).collect()
}

fn outcome(finished: &Finished) -> Result<Value> {
    ensure!(finished.status.success(), "{finished:?}");
    finished.json()
}

/// Half of the ways: IPv4 and IPv6 in turns.
fn destination(callee: &Pod, wave: usize) -> SocketAddr {
    SocketAddr::new(callee.addresses()[wave % 2], PORT)
}

#[test]
fn pods_that_dial_from_their_first_instruction_are_refused_or_carried() -> Result<()> {
    let waves = if is_long() { 10_000 / WAVE } else { 8 };
    let pods = waves * WAVE;
    let lab = Lab::new()?;
    let (one, two) = (lab.node("one")?, lab.node("two")?);
    let (web, plain) = (two.pod("web")?, two.pod("plain")?);
    let _servers = (web.serve(&["--then", "once"])?, plain.serve(&["--then", "once"])?);
    let mut mesh = Mesh::new(&lab, "lab.martlet.dev")?;
    mesh.enroll(&web, "shop", "web", "strict");
    let mut first = Agent::start(&mesh, &one)?;
    let mut second = Agent::start(&mesh, &two)?;

    // The last one is the control's.
    let canaries = Canaries::printable(pods + 1);
    let sniffer = Sniffer::start([lab.wire(), one.netns(), two.netns()], &canaries)?;
    let (mut old, mut refusals) = (Vec::<Pod>::new(), 0);
    for wave in 0..waves {
        let range = wave * WAVE..(wave + 1) * WAVE;
        let says: Vec<_> = range.clone().map(|n| says(&canaries, n)).collect::<Result<_>>()?;
        let to = destination(&web, wave);
        let dialing = start(&one, &old, range.start, to, &says)?;
        old.iter().for_each(|pod| mesh.withdraw(pod));
        for dialing in &dialing {
            mesh.enroll(&dialing.pod, "shop", "cart", "strict");
        }
        second.reload(&mesh)?;
        first.reload(&mesh)?;
        old = Vec::with_capacity(WAVE);
        for Dialing { pod, running } in dialing {
            let seen = outcome(&running.wait(PATIENCE)?)?;
            assert_eq!(seen["answered"], true, "{}: {seen}", pod.name());
            assert_eq!(seen["first"], "EPERM", "{}: {seen}", pod.name());
            refusals += seen["errors"]["EPERM"].as_u64().context("there were refusals")?;
            old.push(pod);
        }
    }
    // A destination outside the mesh is nobody's business: the same in plaintext, and seen.
    let fresh = old[0].replace("control")?;
    let control = dial(fresh, SocketAddr::new(plain.v4(), PORT), &says(&canaries, pods)?)?;
    let control = outcome(&control.running.wait(PATIENCE)?)?;
    assert_eq!((&control["answered"], &control["first"]), (&true.into(), &Value::Null));

    let capture = sniffer.stop()?;
    assert_eq!(capture.found().iter().collect::<Vec<_>>(), [&pods], "only the control's");
    let plain_bytes: u64 = capture
        .flows()
        .filter(|flow| {
            web.addresses().iter().any(|ip| [flow.source.ip(), flow.destination.ip()].contains(ip))
        })
        .map(|flow| flow.not_tls)
        .sum();
    assert_eq!(plain_bytes, 0, "between enrolled pods");
    assert!(first.verdicts("connect", "refused_undecided")? >= refusals);
    evidence(
        "pods_that_dial_from_their_first_instruction_are_refused_or_carried",
        &[
            ("pods", &pods),
            ("dials refused before the enrollment", &refusals),
            ("canaries seen", &0),
            ("frames watched", &capture.frames()),
        ],
    )
}
