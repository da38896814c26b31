//! An agent's life: killed, started again, stopped, told something new, and on a kernel that lacks
//! something. In between, connections between enrolled pods are refused and never plain.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result};
use martlet_lab::{
    Canaries, PORT, Pod, Response, Running, SERVICE_PORT, Sniffer, Stage, address,
    assert_exchanged, assert_refused, wait_for,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const SEND: [&str; 4] = ["--then", "send", "--bytes", "1000"];
const PATIENCE: Duration = Duration::from_secs(20);
const MODES: [&str; 2] = ["strict", "permissive"];

fn on(pod: &Pod) -> [SocketAddr; 2] {
    pod.addresses().map(|ip| SocketAddr::new(ip, PORT))
}

/// Both families.
fn flows(from: &Pod, to: &Pod) -> Result<()> {
    for to in on(to) {
        let client = from.connect(to, &SEND)?;
        assert_eq!(
            (&client["received"], &client["finished"]),
            (&1000.into(), &true.into()),
            "{client}"
        );
    }
    Ok(())
}

fn is_refused(from: &Pod, to: &Pod, canary: &str) -> Result<()> {
    for to in on(to) {
        // Sent at once by whoever takes the connection, if anybody does.
        assert_refused(&from.connect(to, &["--then", "ask", "--canaries", canary])?);
    }
    Ok(())
}

/// A connection that asks once, waits, and asks again when its input ends.
struct Live(Running);

impl Live {
    fn open(from: &Pod, to: SocketAddr) -> Result<Live> {
        let to = to.to_string();
        let arguments = ["crowd", "--to", &to, "--connections", "1", "--until-input-ends"];
        let mut running = from.probe(&arguments)?.with_input().spawn()?;
        let first = running.wait_until_listening()?;
        assert_eq!(first["echoed"], 1, "{first}");
        Ok(Live(running))
    }

    /// Asks again, and finds that the connection was ended.
    fn expect_closed(self) -> Result<()> {
        let seen = self.ask_again()?;
        // By its own agent, or by the other one: whoever became strict first.
        let errors = ["ECONNRESET", "ECONNABORTED"].map(|name| seen["errors"][name] == 1);
        assert!(seen["echoed"] == 0 && errors.contains(&true), "{seen}");
        Ok(())
    }

    /// What it saw when it asked again.
    fn ask_again(mut self) -> Result<Value> {
        self.0.close_input();
        self.0.wait(PATIENCE)?.json()
    }
}

/// Canaries in a file, and a sniffer on every cable that looks for them.
fn watched(stage: &Stage) -> Result<(String, Sniffer)> {
    let canaries = Canaries::random(10);
    let file = stage.lab.directory().join("canaries");
    canaries.write_to(&file)?;
    let namespaces = [stage.lab.wire(), stage.one.node().netns(), stage.two.node().netns()];
    Ok((file.display().to_string(), Sniffer::start(namespaces, &canaries)?))
}

fn saw_no_canary(sniffer: Sniffer) -> Result<()> {
    let capture = sniffer.stop()?;
    assert!(capture.found().is_empty(), "{} in plaintext", capture.found().len());
    Ok(())
}

#[test]
fn without_the_far_agent_its_pods_are_refused_and_never_plain_while_all_else_flows() -> Result<()> {
    for mode in MODES {
        let mut stage = Stage::set(mode)?;
        let pods = [&stage.caller, &stage.near, &stage.far, &stage.outside].map(Pod::clone);
        let _servers = pods.each_ref().map(|pod| pod.serve(&["--then", "echo"]));
        let [caller, near, far, outside] = pods;
        flows(&caller, &far)?;
        stage.two.kill()?;
        let (canary, sniffer) = watched(&stage)?;
        is_refused(&caller, &far, &canary).context("to the pod without an agent")?;
        is_refused(&far, &caller, &canary).context("from the pod without an agent")?;
        saw_no_canary(sniffer)?;
        flows(&caller, &near).context("enrolled pods of the other node")?;
        flows(&stage.stranger, &outside).context("neither is enrolled")?;
        flows(&far, &outside).context("to a pod that is not enrolled")?;
        if mode == "permissive" {
            flows(&stage.stranger, &far).context("plaintext that permissive lets in")?;
        }
        started_again_it_serves(&mut stage)?;
    }
    Ok(())
}

fn started_again_it_serves(stage: &mut Stage) -> Result<()> {
    let begun = Instant::now();
    stage.two.launch()?;
    let to = SocketAddr::new(stage.far.v4(), PORT);
    wait_for("the restarted agent to serve", PATIENCE, || {
        Ok((stage.caller.connect(to, &SEND)?["finished"] == true).then_some(()))
    })?;
    println!("a restarted agent served after {:?}", begun.elapsed());
    stage.two.wait_until_ready()?;
    let status = stage.two.get("/status")?;
    let hooks = status["hooks"].as_array().context("the status has no hooks")?;
    assert!(!hooks.is_empty());
    for hook in hooks {
        assert_eq!((&hook["attached"], &hook["adopted"]), (&true.into(), &true.into()), "{hook}");
    }
    flows(&stage.caller, &stage.far)?;
    flows(&stage.far, &stage.caller)
}

#[test]
fn without_its_own_agent_a_pod_is_refused_by_enrolled_pods_and_reaches_all_others() -> Result<()> {
    for mode in MODES {
        let mut stage = Stage::set(mode)?;
        let pods = [&stage.near, &stage.far, &stage.outside].map(Pod::clone);
        let _servers = pods.each_ref().map(|pod| pod.serve(&["--then", "echo"]));
        let live = Live::open(&stage.caller, SocketAddr::new(stage.far.v4(), PORT))?;
        stage.one.kill()?;
        let (canary, sniffer) = watched(&stage)?;
        let [near, far, outside] = pods;
        is_refused(&stage.caller, &near, &canary)?;
        is_refused(&stage.caller, &far, &canary)?;
        saw_no_canary(sniffer)?;
        flows(&stage.caller, &outside)?;
        assert_eq!(live.ask_again()?["echoed"], 0, "what the agent carried is gone with it");
        let record = stage
            .two
            .wait_for_record("the broken lane", |record| record["closed"] == "lane_broken")?;
        assert_eq!(record["reporter"], "destination", "{record}");
    }
    Ok(())
}

#[test]
fn a_stopping_agent_serves_until_what_was_open_ends_and_leaves_its_pods_closed() -> Result<()> {
    for mode in MODES {
        let mut stage = Stage::set(mode)?;
        let _server = stage.far.serve(&["--then", "echo"])?;
        let live = on(&stage.far).map(|to| Live::open(&stage.caller, to));
        stage.two.signal(Signal::SIGTERM)?;
        wait_for("the agent to be stopping", PATIENCE, || {
            Ok(stage.two.log().contains("stopping when what is open has ended").then_some(()))
        })?;
        // No other agent would.
        for _ in 0..10 {
            flows(&stage.caller, &stage.far).context("while it waits for what is open")?;
        }
        assert!(stage.two.is_running(), "it waits for what is open");
        for live in live {
            let seen = live?.ask_again()?;
            assert_eq!(seen["echoed"], 1, "{seen}");
        }
        stage.two.wait_for_end()?.success()?;
        let (canary, sniffer) = watched(&stage)?;
        is_refused(&stage.caller, &stage.far, &canary).context("stopping is not uninstalling")?;
        saw_no_canary(sniffer)?;
        assert_eq!(stage.far.netns().sysctl("ipv4/tcp_tw_reuse")?, "1");
    }
    Ok(())
}

#[test]
fn workloads_and_services_come_and_go_with_the_node_file() -> Result<()> {
    let mut stage = Stage::set("strict")?;
    let server = stage.far.serve(&["--then", "echo"])?;
    let (stranger, far) = (stage.stranger.clone(), stage.far.clone());
    let service: SocketAddr = ("10.96.77.1".parse::<std::net::IpAddr>()?, SERVICE_PORT).into();
    for _ in 0..2 {
        for to in on(&far) {
            assert_eq!(stranger.connect(to, &SEND)?["error"], "ECONNREFUSED");
        }
        let (mesh, before) = (stage.mesh.clone(), server.seen().len());
        stage.mesh.enroll(&stranger, "shop", "cart", "strict");
        let endpoint = SocketAddr::new(far.v4(), PORT).to_string();
        stage.mesh.service("shop", "added", "10.96.77.1", SERVICE_PORT, &[endpoint]);
        stage.reload()?;
        for (number, to) in on(&far).into_iter().chain([service]).enumerate() {
            let client = stranger.connect(to, &SEND)?;
            assert_exchanged(&client, &server.saw_nth(before + number)?);
            let from = address(&client["local"]).context("the client has no address")?;
            let record = stage.two.wait_for_record("the new workload", |record| {
                address(&record["source"]["address"]) == Some(from)
            })?;
            assert_eq!(record["protection"], "mutual_tls", "{record}");
            assert_eq!(record["source"]["workload"]["name"], "stranger", "{record}");
        }
        stage.mesh = mesh;
        stage.reload()?;
        let gone = stranger.connect(service, &["--connect-timeout-ms", "300"])?;
        assert_eq!(gone["connected"], false, "{gone}");
    }
    flows(&stage.caller, &far)
}

#[test]
fn what_is_open_goes_on_when_its_pods_are_enrolled_unless_strict_and_when_they_are_withdrawn()
-> Result<()> {
    for mode in MODES {
        let mut stage = Stage::prepare(mode, |_| {})?;
        let _server = stage.far.serve(&["--then", "echo"])?;
        let plain = on(&stage.far).map(|to| Live::open(&stage.caller, to));
        stage.launch()?;
        flows(&stage.caller, &stage.far)?;
        for plain in plain {
            match mode {
                "strict" => plain?.expect_closed()?,
                _ => assert_eq!(plain?.ask_again()?["echoed"], 1, "from before the enrolment"),
            }
        }
        let carried = on(&stage.far).map(|to| Live::open(&stage.caller, to));
        for pod in [stage.caller.clone(), stage.far.clone()] {
            stage.mesh.withdraw(&pod);
        }
        stage.reload()?;
        flows(&stage.caller, &stage.far)?;
        for carried in carried {
            assert_eq!(carried?.ask_again()?["echoed"], 1, "from before the withdrawal");
        }
    }
    Ok(())
}

#[test]
fn a_broken_node_file_changes_nothing_and_the_status_says_why() -> Result<()> {
    let mut stage = Stage::set("strict")?;
    let _server = stage.far.serve(&["--then", "echo"])?;
    let good = std::fs::read_to_string(stage.two.file())?;
    let before = stage.two.get("/status")?;
    let live = Live::open(&stage.caller, SocketAddr::new(stage.far.v4(), PORT))?;
    let unknown = good.replace("workloads:", "wrokloads:");
    let line = 1 + good.lines().position(|l| l.starts_with("workloads:")).context("workloads")?;
    for (text, expected) in [
        (unknown.as_str(), format!("{line}:1")),
        ("trustDomain: [", String::new()),
        ("", String::new()),
    ] {
        let error = stage.two.reload_text(text).expect_err("a broken file is refused");
        let status = stage.two.get("/status")?;
        assert_eq!(status["configuration"], before["configuration"], "{status}");
        let said = status["configuration_error"].as_str().context("the status says nothing")?;
        assert!(said.contains(&expected) && error.to_string().contains(said), "{said}");
        assert_eq!(status["ready"], true, "{status}");
        flows(&stage.caller, &stage.far)?;
    }
    assert_eq!(live.ask_again()?["echoed"], 1);
    stage.two.reload_text(&good)?;
    assert_eq!(stage.two.get("/status")?["configuration_error"], Value::Null);
    Ok(())
}

#[test]
fn a_live_connection_that_policy_denies_is_reset_and_others_go_on() -> Result<()> {
    let mut stage = Stage::set("strict")?;
    let server = stage.far.serve(&["--then", "echo"])?;
    let denied = on(&stage.far).map(|to| Live::open(&stage.caller, to));
    let allowed = on(&stage.far).map(|to| Live::open(&stage.near, to));
    let cart = stage.mesh.identity("shop", "cart");
    stage.mesh.policy(json!({
        "namespace": "shop", "name": "no-more", "action": "deny",
        "rules": [{ "name": "cart", "from": { "identities": [cart] } }],
    }));
    stage.reload()?;
    for (denied, ip) in denied.into_iter().zip(stage.caller.addresses()) {
        for agent in [&stage.one, &stage.two] {
            let record = agent.wait_for_record("the lapsed permit", |record| {
                record["closed"] == "permit_lapsed"
                    && address(&record["source"]["address"]).is_some_and(|from| from.ip() == ip)
            })?;
            assert_eq!(record["bytes_sent"], 32, "{record}");
        }
        let seen = denied?.ask_again()?;
        assert_eq!(
            (&seen["echoed"], &seen["errors"]["ECONNRESET"]),
            (&0.into(), &1.into()),
            "{seen}"
        );
    }
    for number in 0..2 {
        assert_eq!(server.saw_nth(number)?["read_error"], "ECONNRESET");
    }
    for allowed in allowed {
        assert_eq!(allowed?.ask_again()?["echoed"], 1);
    }
    Ok(())
}

/// Of every leaf certificate in use, by its serial number.
fn expiries(stage: &Stage) -> Result<BTreeMap<String, u64>> {
    let mut all = BTreeMap::new();
    for agent in [&stage.one, &stage.two] {
        let certificates = agent.get("/certificates")?;
        for leaf in certificates["leaves"].as_array().context("there are no leaves")? {
            let leaf = &leaf["chain"][0];
            let not_after = leaf["not_after"].as_u64().context("a leaf has no end")?;
            all.insert(leaf["serial"].to_string(), not_after);
        }
    }
    Ok(all)
}

#[test]
fn certificates_are_renewed_without_touching_live_connections() -> Result<()> {
    let mut stage = Stage::prepare("strict", |_| {})?;
    stage.one.set_env("MARTLET_LEAF_SECONDS", "5");
    stage.two.set_env("MARTLET_LEAF_SECONDS", "5");
    stage.launch()?;
    let _server = stage.far.serve(&["--then", "echo"])?;
    let live = on(&stage.far).map(|to| Live::open(&stage.caller, to));
    let first = expiries(&stage)?;
    assert_eq!(first.len(), 3, "one for each enrolled pod: {first:?}");
    wait_for("every first certificate to expire", PATIENCE, || {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
        Ok(first.values().all(|not_after| *not_after < now).then_some(()))
    })?;
    let now = expiries(&stage)?;
    assert!(now.keys().all(|serial| !first.contains_key(serial)), "{first:?} {now:?}");
    flows(&stage.caller, &stage.far).context("a new connection")?;
    for live in live {
        let asked = live?.ask_again()?;
        assert_eq!(asked["echoed"], 1, "{asked}");
    }
    Ok(())
}

const FEATURES: [&str; 9] = [
    "linux-5.15",
    "btf",
    "cgroup-v2",
    "cgroup-sock-addr",
    "sock-ops",
    "sk-lookup",
    "sk-storage",
    "sockhash",
    "sched-cls",
];

#[test]
fn an_agent_without_a_needed_feature_is_not_ready_and_names_it() -> Result<()> {
    for feature in FEATURES {
        let mut stage = Stage::prepare("strict", |_| {})?;
        stage.one.set_env("MARTLET_WITHOUT_FEATURES", feature);
        stage.one.launch()?;
        let ready: Response = wait_for("the agent to answer", PATIENCE, || {
            anyhow::ensure!(stage.one.is_running(), "it has ended: {}", stage.one.log());
            Ok(stage.one.admin("/readyz").ok())
        })?;
        assert_eq!(ready.status, 503, "{feature}: {ready:?}");
        assert!(ready.body.contains(feature), "{feature}: {ready:?}");
        let status = stage.one.get("/status")?;
        assert_eq!(status["ready"], false, "{status}");
        assert!(status["not_ready"].to_string().contains(feature), "{status}");
    }
    Ok(())
}

#[test]
fn a_withdrawn_pods_sysctl_is_what_it_was() -> Result<()> {
    let mut stage = Stage::prepare("strict", |_| {})?;
    let reuse = |pod: &Pod| pod.netns().sysctl("ipv4/tcp_tw_reuse");
    let before = reuse(&stage.far)?;
    assert_ne!(before, "1");
    stage.launch()?;
    assert_eq!(reuse(&stage.far)?, "1");
    // The note about the old value outlives the agent.
    stage.two.kill()?;
    assert_eq!(reuse(&stage.far)?, "1");
    stage.two.restart()?;
    let far = stage.far.clone();
    stage.mesh.withdraw(&far);
    stage.reload()?;
    assert_eq!(reuse(&far)?, before);
    assert_eq!(reuse(&stage.caller)?, "1");
    let _server = far.serve(&["--then", "echo"])?;
    flows(&stage.stranger, &far)
}
