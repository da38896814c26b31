//! `failure: open`: without an agent permissive pods connect in plaintext, which is counted, and
//! strict ones do not. While an agent lives, whatever its state, nothing is in plaintext.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use martlet_lab::{
    Agent, Canaries, PORT, Pod, Running, SERVICE_PORT, Server, Sniffer, Stage, assert_refused,
    evidence, find_binary, wait_for,
};
use martlet_tests_kernel::tamper::{self, Entries};
use nix::sys::signal::Signal;
use serde_json::Value;

const SEND: [&str; 4] = ["--then", "send", "--bytes", "1000"];
const PATIENCE: Duration = Duration::from_secs(20);
const CANARIES: usize = 10;

/// Permissive pods on two nodes that fail as `failure` says; `change` has the last word.
fn stage(failure: &str, change: impl FnOnce(&mut Stage)) -> Result<Stage> {
    let mut stage = Stage::prepare("permissive", |mesh| mesh.failure(failure))?;
    change(&mut stage);
    for agent in [&mut stage.one, &mut stage.two] {
        *agent = Agent::prepare(&stage.mesh, &agent.node().clone())?;
    }
    stage.launch()?;
    Ok(stage)
}

fn serve(pods: &[&Pod]) -> Result<Vec<Server>> {
    pods.iter().map(|pod| pod.serve(&["--then", "echo"])).collect()
}

fn on(pod: &Pod) -> [SocketAddr; 2] {
    pod.addresses().map(|ip| SocketAddr::new(ip, PORT))
}

/// Canaries, and a sniffer on every cable that looks for them.
struct Watch {
    file: String,
    sniffer: Sniffer,
}

impl Watch {
    fn begin(stage: &Stage) -> Result<Self> {
        let canaries = Canaries::random(CANARIES);
        let file = stage.lab.directory().join("canaries");
        canaries.write_to(&file)?;
        let namespaces = [stage.lab.wire(), stage.one.node().netns(), stage.two.node().netns()];
        let sniffer = Sniffer::start(namespaces, &canaries)?;
        Ok(Self { file: file.display().to_string(), sniffer })
    }

    /// Sends the canaries one by one, and waits for the echo of each.
    fn ask(&self, from: &Pod, to: SocketAddr) -> Result<Value> {
        let patience = ["--timeout-ms", "3000"];
        let ask = ["--then", "ask", "--canaries", &self.file];
        from.connect(to, &[&ask[..], &patience].concat())
    }

    fn flows(&self, from: &Pod, to: &Pod) -> Result<()> {
        for to in on(to) {
            let client = self.ask(from, to)?;
            let bytes = CANARIES * Canaries::LENGTH;
            let seen = (&client["received"], &client["finished"]);
            assert_eq!(seen, (&bytes.into(), &true.into()), "{to}: {client}");
        }
        Ok(())
    }

    fn is_refused(&self, from: &Pod, to: &Pod) -> Result<()> {
        for to in on(to) {
            assert_refused(&self.ask(from, to)?);
        }
        Ok(())
    }

    fn saw_all(self) -> Result<()> {
        assert_eq!(self.sniffer.stop()?.found().len(), CANARIES, "in the clear");
        Ok(())
    }

    fn saw_none(self) -> Result<()> {
        let capture = self.sniffer.stop()?;
        assert!(capture.found().is_empty(), "{} in the clear", capture.found().len());
        Ok(())
    }
}

/// A connection that asks once, waits, and asks again when its input ends.
fn hold(from: &Pod, to: SocketAddr) -> Result<Running> {
    let to = to.to_string();
    let arguments = ["crowd", "--to", &to, "--connections", "1", "--until-input-ends"];
    let mut running = from.probe(&arguments)?.with_input().spawn()?;
    let first = running.wait_until_listening()?;
    assert_eq!(first["echoed"], 1, "{first}");
    Ok(running)
}

fn ask_again(mut held: Running) -> Result<Value> {
    held.close_input();
    held.wait(PATIENCE)?.json()
}

/// What the node's ledger says of TCP from one pod to another, summed.
fn counted(agent: &Agent, from: &Pod, to: &Pod, column: &str) -> Result<(u64, u64)> {
    let coverage = agent.get("/coverage")?;
    let is = |end: &Value, pod: &Pod| end["workload"]["name"] == pod.name();
    let pairs = coverage["pairs"].as_array().context("there are pairs")?;
    let pair = pairs.iter().find(|pair| is(&pair["from"], from) && is(&pair["to"], to));
    let number = |unit: &str| pair.and_then(|pair| pair[column][unit].as_u64()).unwrap_or(0);
    Ok((number("connections"), number("bytes")))
}

fn kill(stage: &mut Stage) -> Result<()> {
    stage.one.kill()?;
    stage.two.kill()?;
    Ok(())
}

#[test]
fn without_agents_permissive_pods_connect_in_plaintext_and_each_connection_is_counted() -> Result<()>
{
    let mut stage = stage("open", |_| {})?;
    let pods = [&stage.caller, &stage.near, &stage.far].map(Pod::clone);
    let [caller, near, far] = pods.each_ref();
    let _servers = serve(&[near, far])?;
    let status = stage.one.get("/status")?;
    assert_eq!((&status["fails_open"], &status["ready"]), (&true.into(), &true.into()));
    assert!(stage.one.log().contains("this node fails open"), "it is said aloud");
    let living = Watch::begin(&stage)?;
    living.flows(caller, near)?;
    living.flows(caller, far)?;
    living.saw_none()?;

    kill(&mut stage)?;
    let alone = Watch::begin(&stage)?;
    alone.flows(caller, near).context("on the same node")?;
    alone.flows(caller, far).context("on another node")?;
    alone.saw_all()?;
    let held = [hold(caller, on(far)[0])?, hold(caller, on(far)[1])?];

    stage.launch()?;
    let back = Watch::begin(&stage)?;
    back.flows(caller, near)?;
    back.flows(caller, far)?;
    back.saw_none().context("as soon as the agents are back")?;
    let bytes = (CANARIES * Canaries::LENGTH) as u64;
    // To the other node: two that have ended, and two that are held.
    for (agent, opened, accepted) in [(&stage.one, 6, 2), (&stage.two, 0, 4)] {
        assert_eq!(agent.verdicts("connect", "passed_failed_open")?, opened);
        assert_eq!(agent.verdicts("lookup", "passed_failed_open")?, accepted);
        for (direction, count) in [("outbound", opened), ("inbound", accepted)] {
            let told = agent.metric("martlet_failed_open_connections_total", &[direction])?;
            assert!((told - count as f64).abs() < 0.5, "{direction}: {told}");
        }
        let said = format!("opened={opened} accepted={accepted}");
        assert!(agent.log().contains(&said), "{said} in {}", agent.log());
        let (connections, carried) = counted(agent, caller, far, "plaintext")?;
        assert_eq!(connections, 4);
        assert!(carried > 2 * bytes, "{carried} bytes of plaintext");
        assert_eq!(counted(agent, caller, far, "unseen")?, (0, 0));
    }
    assert_eq!(counted(&stage.one, caller, near, "plaintext")?.0, 2, "once, where it arrives");

    // What began in plaintext goes on, until an end of it is strict.
    let [first, second] = held;
    assert_eq!(ask_again(first)?["echoed"], 1, "it goes on in a permissive pod");
    stage.mesh.enroll(far, "shop", "web", "strict");
    stage.reload()?;
    stage.two.wait_for_record("the reset", |record| record["closed"] == "plaintext_unwanted")?;
    let seen = ask_again(second)?;
    assert_eq!(seen["echoed"], 0, "{seen}");
    Ok(())
}

#[test]
fn a_strict_pod_is_closed_both_ways_on_nodes_that_fail_open() -> Result<()> {
    let mut stage = stage("open", |stage| {
        let (far, stranger) = (stage.far.clone(), stage.stranger.clone());
        stage.mesh.enroll(&far, "shop", "web", "strict");
        stage.mesh.enroll(&stranger, "shop", "vault", "strict");
    })?;
    let pods = [&stage.caller, &stage.near, &stage.far, &stage.stranger].map(Pod::clone);
    let [caller, near, far, vault] = pods.each_ref();
    let _servers = serve(&[caller, near, far, vault])?;
    stage.one.kill()?;
    let watch = Watch::begin(&stage)?;
    watch.is_refused(caller, far).context("to a strict pod whose agent lives")?;
    stage.two.kill()?;
    for strict in [far, vault] {
        watch.is_refused(caller, strict).context("to a strict pod")?;
        watch.is_refused(strict, caller).context("from a strict pod")?;
    }
    watch.is_refused(far, vault)?;
    for way in stage.ways_to(far).into_iter().filter(|way| way.to.port() == SERVICE_PORT) {
        assert_refused(&watch.ask(caller, way.to)?);
    }
    watch.saw_none()?;
    let control = Watch::begin(&stage)?;
    control.flows(caller, near).context("permissive pods of the same node")?;
    control.saw_all()?;
    evidence(
        "a_strict_pod_is_closed_both_ways_on_nodes_that_fail_open",
        &[("canaries on the wire", &0)],
    )
}

#[test]
fn what_the_node_file_said_last_holds_without_an_agent() -> Result<()> {
    let mut stage = stage("open", |_| {})?;
    let pods = [&stage.caller, &stage.near, &stage.far].map(Pod::clone);
    let [caller, near, far] = pods.each_ref();
    let _servers = serve(&[near, far])?;
    stage.mesh.failure("closed");
    stage.reload()?;
    assert_eq!(stage.one.get("/status")?["fails_open"], false);
    kill(&mut stage)?;
    let closed = Watch::begin(&stage)?;
    closed.is_refused(caller, near)?;
    closed.is_refused(caller, far)?;
    closed.saw_none()?;
    // Closed at its start, and opened by a reload.
    for agent in [&mut stage.one, &mut stage.two] {
        *agent = Agent::prepare(&stage.mesh, &agent.node().clone())?;
    }
    stage.launch()?;
    stage.mesh.failure("open");
    stage.reload()?;
    // In order this time.
    stage.one.stop()?;
    stage.two.stop()?;
    let open = Watch::begin(&stage)?;
    open.flows(caller, near)?;
    open.flows(caller, far)?;
    open.saw_all()
}

#[test]
fn while_an_agent_hangs_or_is_alone_its_pods_send_nothing_in_plaintext() -> Result<()> {
    let mut stage = stage("open", |_| {})?;
    let pods = [&stage.caller, &stage.near, &stage.far].map(Pod::clone);
    let [caller, near, far] = pods.each_ref();
    let servers = serve(&[near, far])?;
    for agent in [&stage.one, &stage.two] {
        agent.signal(Signal::SIGSTOP)?;
    }
    let watch = Watch::begin(&stage)?;
    for to in [on(near)[0], on(far)[1]] {
        let client = watch.ask(caller, to)?;
        assert_eq!(client["received"].as_u64().unwrap_or(0), 0, "it waits: {client}");
    }
    for agent in [&stage.one, &stage.two] {
        agent.signal(Signal::SIGCONT)?;
    }
    wait_for("the agents to go on", PATIENCE, || {
        Ok((caller.connect(on(far)[0], &SEND)?["finished"] == true).then_some(()))
    })?;
    stage.two.kill()?;
    watch.is_refused(caller, far).context("its own agent lives")?;
    watch.saw_none()?;
    stage.two.launch()?;
    stage.two.wait_until_ready()?;
    stage.one.kill()?;
    let (before, met) = (servers[1].seen().len(), Watch::begin(&stage)?);
    for to in on(far) {
        // The other agent wants mutual TLS: what it gets is an alert (RFC 8446, section 6), and no
        // record of TLS is as short with anything in it.
        let client = met.ask(caller, to)?;
        assert!(client["received"].as_u64().is_some_and(|bytes| bytes <= 7), "{client}");
    }
    assert_eq!(servers[1].seen().len(), before, "nothing is delivered");
    Ok(())
}

#[test]
fn a_pod_that_is_made_while_no_agent_lives_stays_closed_where_the_node_fails_open() -> Result<()> {
    let mut stage = stage("open", |_| {})?;
    let near = stage.near.clone();
    let _server = near.serve(&["--then", "echo"])?;
    stage.one.kill()?;
    let late = stage.one.node().pod("late")?;
    for to in on(&near) {
        assert_eq!(late.connect(to, &SEND)?["error"], "EPERM");
    }
    Watch::begin(&stage)?.flows(&stage.caller, &near)
}

#[test]
fn a_removed_sign_of_life_is_put_back_and_the_warning_stands() -> Result<()> {
    let stage = stage("open", |_| {})?;
    let version = tamper::version(&stage.one.node().pin())?;
    let alive = Entries::open(&version.join("maps").join("ALIVE"))?;
    let failure = Entries::open(&version.join("maps").join("FAILURE"))?;
    let key = 0_u32.to_ne_bytes();
    alive.remove(&key)?;
    failure.remove(&key)?;
    wait_for("both to be put back", PATIENCE, || {
        let is_back = alive.keys()?.len() == 1 && failure.keys()?.contains(&key.to_vec());
        Ok(is_back.then_some(()))
    })?;
    wait_for("both to be reported", PATIENCE, || {
        let repairs = stage.one.get("/status")?["repairs"].to_string();
        let said = ["ALIVE: the agent's socket was removed", "FAILURE: the entry 0 was removed"];
        Ok(said.iter().all(|said| repairs.contains(said)).then_some(()))
    })?;
    let mut martlet = std::process::Command::new(find_binary("martlet")?);
    let said = martlet.arg("status").arg("--socket").arg(stage.one.socket()).output()?;
    let said = String::from_utf8(said.stdout)?;
    assert!(said.contains("failure: open"), "{said}");
    let check = stage.one.get("/check")?.to_string();
    assert!(check.contains("`failure: open` is in effect"), "{check}");
    Ok(())
}
