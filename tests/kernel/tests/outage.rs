//! A day without a controller, by clocks that are set from hour to hour: two nodes whose agents die
//! now and then meanwhile.

use anyhow::{Context as _, Result};
use martlet_lab::{
    Agent, Canaries, Capture, Clock, Cluster, Lab, Pod, Sniffer, assert_exchanged, assert_refused,
    evidence, wait_for,
};
use serde_json::Value;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
/// What a certificate of a workload lives.
const LIFE: i64 = 24 * HOUR;
const WAIT: std::time::Duration = std::time::Duration::from_secs(30);
const SECRETS: usize = 32;

/// Two nodes with one clock, and somebody who listens on the wire.
struct Day {
    cluster: Cluster,
    clock: Clock,
    secrets: String,
    sniffer: Sniffer,
    _lab: Lab,
}

impl Day {
    fn begin() -> Result<Day> {
        let lab = Lab::new()?;
        let clock = Clock::in_file(&lab.directory().join("clock"))?;
        clock.set(0)?;
        let mut cluster = Cluster::prepare(&lab, "a", 2)?;
        cluster.controller.set_clock(&clock);
        for agent in &mut cluster.agents {
            agent.set_clock(&clock);
            agent.launch()?;
        }
        cluster.agents.iter_mut().try_for_each(Agent::wait_until_ready)?;
        let (path, canaries) = (lab.directory().join("secrets"), Canaries::random(SECRETS));
        canaries.write_to(&path)?;
        let sniffer = Sniffer::start([lab.wire()], &canaries)?;
        let secrets = path.display().to_string();
        Ok(Day { cluster, clock, secrets, sniffer, _lab: lab })
    }

    /// Each pod asks the other over a connection of its own. Returns how many were served.
    fn expect_service(&self, when: &str) -> Result<u64> {
        for (from, to) in self.ways() {
            let server = to.serve(&["--then", "echo"])?;
            let client = self.ask(from, to)?;
            let local = client["local"].as_str().context(when.to_owned())?.parse()?;
            assert_exchanged(&client, &server.saw(local).context(when.to_owned())?);
            assert_eq!(client["received"], SECRETS as u64 * 32, "{when}: {client}");
        }
        Ok(2)
    }

    /// Nobody reaches anybody, for this reason and no other.
    fn expect_refusals(&self, reason: &str) -> Result<u64> {
        for (from, to) in self.ways() {
            let _server = to.serve(&["--then", "echo"])?;
            let agent = self.cluster.agent(from.name())?;
            let count = || {
                let labels = [&*format!("closed=\"{reason}\""), "reporter=\"source\""];
                agent.metric("martlet_connections_closed_total", &labels)
            };
            let before = count()?;
            assert_refused(&self.ask(from, to)?);
            assert_eq!(count()?, before + 1.0, "{from:?}");
        }
        Ok(2)
    }

    fn ask(&self, from: &Pod, to: &Pod) -> Result<Value> {
        from.connect(to.application(), &["--then", "ask", "--canaries", &self.secrets])
    }

    fn ways(&self) -> [(&Pod, &Pod); 2] {
        let [one, two] = self.cluster.pods.as_slice() else { unreachable!("there are two pods") };
        [(one, two), (two, one)]
    }

    /// The serial number of its workload's certificate.
    fn serial(&self, node: &str) -> Result<String> {
        let certificates = self.cluster.agent(node)?.get("/certificates")?;
        let serial = certificates["leaves"][0]["chain"][0]["serial"].as_str();
        Ok(serial.with_context(|| format!("{certificates:#}"))?.to_owned())
    }

    fn expect_other_certificates(&self, than: &[String; 2]) -> Result<()> {
        for (node, serial) in ["a1", "a2"].iter().zip(than) {
            wait_for(&format!("another certificate for {node}"), 2 * WAIT, || {
                Ok(self.serial(node).ok().filter(|now| now != serial).map(drop))
            })?;
        }
        Ok(())
    }

    /// What a node's agent says about its own workload.
    fn workload(&self, node: &str) -> Result<Value> {
        let workloads = self.cluster.agent(node)?.get("/workloads")?;
        let mut all = workloads["workloads"].as_array().context("there are workloads")?.iter();
        let own = all.find(|workload| workload["name"]["name"] == node);
        Ok(own.context("there is no such workload")?.clone())
    }

    fn end(self) -> Result<Capture> {
        self.sniffer.stop()
    }
}

#[test]
fn for_a_day_without_a_controller_all_are_served_then_refused_and_never_plain() -> Result<()> {
    let mut day = Day::begin()?;
    let mut served = day.expect_service("with the controller")?;
    let serials = [day.serial("a1")?, day.serial("a2")?];
    day.cluster.controller.kill()?;
    let mut restarts = 0;
    for hour in 1..24 {
        day.clock.set(hour * HOUR)?;
        if hour % 5 == 0 {
            let agent = day.cluster.agent_mut(if hour % 2 == 0 { "a1" } else { "a2" })?;
            agent.kill()?;
            agent.restart().with_context(|| format!("hour {hour}"))?;
            restarts += 1;
        }
        served += day.expect_service(&format!("hour {hour}"))?;
        assert_eq!([day.serial("a1")?, day.serial("a2")?], serials, "hour {hour}");
    }
    day.clock.set(LIFE - 5 * MINUTE)?;
    served += day.expect_service("five minutes before they expire")?;
    let mut refused = 0;
    for late in [MINUTE, HOUR, 6 * HOUR] {
        day.clock.set(LIFE + late)?;
        refused += day.expect_refusals("own_certificate_expired")?;
    }
    // What has expired is not taken over by another process, which has nothing then.
    let agent = day.cluster.agent_mut("a1")?;
    agent.kill()?;
    agent.launch()?;
    let why = wait_for("the workload to wait for a certificate", WAIT, || {
        let Ok(workload) = day.workload("a1") else { return Ok(None) };
        Ok(workload["reason"].as_str().map(str::to_owned))
    })?;
    assert!(why.contains("certificate"), "{why}");
    for (from, to) in day.ways() {
        let _server = to.serve(&["--then", "echo"])?;
        assert_refused(&day.ask(from, to)?);
        refused += 1;
    }
    // It is back, and what has expired is renewed without waiting for its turn.
    day.cluster.controller.launch()?;
    day.expect_other_certificates(&serials)?;
    wait_for("the pod to be enrolled again", WAIT, || {
        Ok((day.workload("a1")?["state"] == "steered").then_some(()))
    })?;
    served += day.expect_service("with the controller again")?;
    let found = day.end()?.found().len();
    assert_eq!(found, 0, "secrets on the wire");
    evidence(
        "for_a_day_without_a_controller_all_are_served_then_refused_and_never_plain",
        &[
            ("hours", &24),
            ("restarts of agents", &restarts),
            ("connections served", &served),
            ("failed", &0),
            ("refused after the day", &refused),
            ("secrets on the wire", &found),
        ],
    )
}

#[test]
fn certificates_that_are_half_their_age_when_the_controller_goes_last_for_the_other_half()
-> Result<()> {
    let mut day = Day::begin()?;
    // Just before they are renewed.
    day.clock.set(LIFE / 2 - 10 * MINUTE)?;
    let serials = [day.serial("a1")?, day.serial("a2")?];
    day.expect_service("with the controller")?;
    day.cluster.controller.kill()?;
    for hour in [13, 16, 19, 22] {
        day.clock.set(hour * HOUR)?;
        let agent = day.cluster.agent_mut("a1")?;
        agent.kill()?;
        agent.restart().with_context(|| format!("hour {hour}"))?;
        day.expect_service(&format!("hour {hour}"))?;
        assert_eq!([day.serial("a1")?, day.serial("a2")?], serials, "hour {hour}");
    }
    // Back before anything expires: all are renewed when their pause is over, five minutes at most.
    day.cluster.controller.launch()?;
    for agent in &day.cluster.agents {
        wait_for("the controller to be back", 2 * WAIT, || {
            Ok(agent.get("/status")?["controller"]["away"].is_null().then_some(()))
        })?;
    }
    day.clock.set(22 * HOUR + 6 * MINUTE)?;
    day.expect_other_certificates(&serials)?;
    day.expect_service("with the controller again")?;
    assert_eq!(day.end()?.found().len(), 0);
    Ok(())
}

#[test]
fn a_nodes_clock_that_is_far_from_its_controllers_is_reported_and_one_that_is_near_is_not()
-> Result<()> {
    let lab = Lab::new()?;
    let clock = Clock::in_file(&lab.directory().join("clock"))?;
    let mut cluster = Cluster::prepare(&lab, "a", 1)?;
    cluster.agents[0].set_clock(&clock);
    // Either side of the limit of 30 s, by more than what a slow machine makes uncertain.
    for (seconds, is_too_far) in [(45, true), (10, false), (-45, true)] {
        clock.set(seconds)?;
        let agent = &mut cluster.agents[0];
        agent.restart().with_context(|| format!("{seconds} s"))?;
        let report = wait_for("the clock to be measured", WAIT, || {
            let status = agent.get("/status")?;
            let clock = &status["controller"]["clock"];
            Ok(clock.is_object().then(|| clock.clone()))
        })?;
        let (ahead, within) = (&report["ahead_ms"], &report["within_ms"]);
        let off = (ahead.as_i64().context("a number")? - seconds * 1000).unsigned_abs();
        assert!(off <= within.as_u64().context("a number")? + 20, "{report}");
        let metric = agent.metric("martlet_clock_ahead_seconds", &[])?;
        assert!((metric - seconds as f64).abs() < 5.0, "{metric} for {seconds}");
        let said = agent.log().matches("this node's clock is").count();
        assert_eq!(said, usize::from(is_too_far), "{}", agent.log());
        let socket = agent.socket().display().to_string();
        let martlet = agent.node().command(martlet_lab::find_binary("martlet")?);
        let shown = martlet.args(["status", "--socket", &socket]).run()?.success()?;
        assert_eq!(shown.contains("which is too far"), is_too_far, "{shown}");
        wait_for("the controller to hear of it", WAIT, || {
            let nodes = cluster.controller.martlet(&["nodes", "--output", "json"])?;
            let ahead = nodes["nodes"][0]["clock"]["ahead_ms"].as_i64();
            let is_it = ahead.is_some_and(|ahead| (ahead - seconds * 1000).abs() < 5000);
            Ok(is_it.then_some(()))
        })?;
        let shown = cluster.controller.martlet_text(&["nodes"])?;
        assert_eq!(shown.contains("which is too far"), is_too_far, "{shown}");
        cluster.agents[0].stop()?;
    }
    Ok(())
}
