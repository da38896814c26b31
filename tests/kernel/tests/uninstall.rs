//! `martlet-agent uninstall` leaves the node as an agent has found it; stopping an agent does not.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use martlet_lab::{
    Agent, Finished, PORT, Pod, Running, Server, Stage, assert_refused, find_binary, wait_for,
};
use martlet_tests_kernel::tamper::{self, Object};

const PATIENCE: Duration = Duration::from_secs(20);
const SEND: [&str; 4] = ["--then", "send", "--bytes", "10"];

/// All that an agent can change on a node and in its pods.
fn state(stage: &Stage) -> Result<BTreeSet<String>> {
    let node = stage.two.node();
    let mut all = BTreeSet::new();
    for arguments in [
        &["tc", "qdisc", "show"][..],
        &["tc", "filter", "show", "dev", "pod1", "ingress"],
        &["tc", "filter", "show", "dev", "pod1", "egress"],
        &["ip", "-d", "link", "show"],
        &["ip", "route", "show", "table", "all"],
    ] {
        let shown = node.command(arguments[0]).args(&arguments[1..]).run()?.success()?;
        all.extend(shown.lines().map(|line| format!("{arguments:?}: {line}")));
    }
    for pod in [&stage.far, &stage.outside] {
        let value = pod.netns().sysctl("ipv4/tcp_tw_reuse")?;
        all.insert(format!("{} tcp_tw_reuse {value}", pod.name()));
    }
    files(node.pin().parent().context("a bpffs")?, &mut all)?;
    files(&node.directory()?, &mut all)?;
    Ok(all)
}

/// But for what the user's own are: the node file and the access log.
fn files(directory: &Path, into: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if name != "node.yaml" && name != "access.log" && !path.ends_with("bpf/one") {
            into.insert(path.display().to_string());
            if path.is_dir() {
                files(&path, into)?;
            }
        }
    }
    Ok(())
}

fn uninstall(agent: &Agent, arguments: &[&str]) -> Result<Finished> {
    let program = agent.node().command(find_binary("martlet-agent")?).arg("uninstall");
    program.arg("--config").arg(agent.file()).args(arguments).run()
}

fn to(pod: &Pod) -> String {
    SocketAddr::new(pod.v4(), PORT).to_string()
}

/// An enrolled pod of node two that serves, and what its node was before there was an agent.
struct Scene {
    stage: Stage,
    before: BTreeSet<String>,
    _server: Server,
}

impl Scene {
    fn set(change: impl FnOnce(&mut Stage)) -> Result<Self> {
        let mut stage = Stage::prepare("permissive", |_| {})?;
        change(&mut stage);
        let server = stage.far.serve(&["--then", "echo"])?;
        let before = state(&stage)?;
        stage.launch()?;
        let scene = Self { stage, before, _server: server };
        scene.flows()?;
        Ok(scene)
    }

    fn flows(&self) -> Result<()> {
        let to = SocketAddr::new(self.stage.far.v4(), PORT);
        let client = self.stage.stranger.connect(to, &["--then", "send", "--bytes", "1000"])?;
        assert_eq!(client["received"], 1000, "{client}");
        Ok(())
    }

    fn pin(&self) -> PathBuf {
        self.stage.two.node().pin()
    }

    /// Nothing differs, and none of these is in the kernel.
    fn is_as_before(&self, objects: &[Object]) -> Result<()> {
        assert_eq!(state(&self.stage)?, self.before);
        wait_for("the kernel to free what was Martlet's", PATIENCE, || {
            let left = objects.iter().filter(|object| object.exists()).count();
            Ok((left == 0).then_some(()))
        })
    }
}

#[test]
fn after_uninstall_the_diff_is_empty_and_live_plaintext_goes_on() -> Result<()> {
    let mut scene = Scene::set(|_| {})?;
    let to = to(&scene.stage.far);
    let crowd = ["crowd", "--to", &to, "--connections", "1", "--until-input-ends"];
    let mut live: Running = scene.stage.stranger.probe(&crowd)?.with_input().spawn()?;
    live.wait_until_listening()?;
    let near = SocketAddr::new(scene.stage.near.v4(), PORT);
    let _near = scene.stage.near.serve(&["--then", "echo"])?;
    assert_eq!(scene.stage.far.connect(near, &SEND)?["received"], 10);
    let objects = tamper::objects(&scene.pin())?;
    assert!(objects.len() > 20, "programs, maps and links: {}", objects.len());

    let refused = uninstall(&scene.stage.two, &[])?;
    assert!(refused.stderr.contains("an agent is running"), "{}", refused.stderr);
    assert!(refused.success().is_err());
    assert!(scene.stage.two.is_running());

    scene.stage.two.stop()?.success()?;
    let installed = state(&scene.stage)?;
    let planned = uninstall(&scene.stage.two, &["--dry-run"])?.success()?;
    assert!(planned.contains("would remove: link"), "{planned}");
    assert_eq!(state(&scene.stage)?, installed, "a dry run changes nothing");
    assert!(objects.iter().all(Object::exists), "stopping is not uninstalling");
    assert_refused(&scene.stage.far.connect(near, &SEND)?);

    let said = uninstall(&scene.stage.two, &[])?.success()?;
    assert!(said.contains("removed: map") && said.contains("tcp_tw_reuse"), "{said}");
    scene.is_as_before(&objects)?;
    scene.flows()?;
    live.close_input();
    let asked = live.wait(PATIENCE)?.json()?;
    assert_eq!(asked["echoed"], 1, "what was open in plaintext goes on: {asked}");
    let again = uninstall(&scene.stage.two, &[])?.success()?;
    assert!(again.contains("nothing of Martlet's"), "{again}");
    Ok(())
}

#[test]
fn a_crashed_agent_that_used_filters_leaves_nothing_after_uninstall() -> Result<()> {
    let mut scene = Scene::set(|stage| stage.two.set_env("MARTLET_WITHOUT_FEATURES", "tcx"))?;
    let objects = tamper::objects(&scene.pin())?;
    scene.stage.two.kill()?;
    let said = uninstall(&scene.stage.two, &[])?.success()?;
    assert!(said.contains("filter martlet_guard_in") && said.contains("clsact"), "{said}");
    scene.is_as_before(&objects)
}

#[test]
fn a_qdisc_that_was_there_before_stays() -> Result<()> {
    let mut scene = Scene::set(|stage| {
        stage.two.set_env("MARTLET_WITHOUT_FEATURES", "tcx");
        let arguments = ["qdisc", "add", "dev", "pod1", "clsact"];
        let added = stage.two.node().command("tc").args(arguments).run();
        added.and_then(Finished::success).expect("tc adds a qdisc");
    })?;
    assert!(scene.before.iter().any(|line| line.contains("clsact")));
    scene.stage.two.kill()?;
    uninstall(&scene.stage.two, &[])?.success()?;
    scene.is_as_before(&[])
}

#[test]
fn uninstall_works_when_half_is_gone_and_when_a_pod_is() -> Result<()> {
    let mut scene = Scene::set(|_| {})?;
    let objects = tamper::objects(&scene.pin())?;
    scene.stage.two.kill()?;
    let maps = tamper::version(&scene.pin())?.join("maps");
    for name in ["MEMBERS", "WORKLOADS", "GUARDED"] {
        fs::remove_file(maps.join(name))?;
    }
    fs::remove_file(scene.stage.two.file())?;
    let places = scene.stage.two.node().directory()?;
    let (state_directory, socket) = (places.join("state"), scene.stage.two.socket());
    let arguments = [
        "--pin",
        &scene.pin().display().to_string(),
        "--state",
        &state_directory.display().to_string(),
        "--socket",
        &socket.display().to_string(),
    ];
    scene.stage.far.remove()?;
    uninstall(&scene.stage.two, &arguments)?.success()?;
    assert!(!scene.pin().exists() && !state_directory.exists() && !socket.exists());
    wait_for("the kernel to free what was Martlet's", PATIENCE, || {
        Ok((!objects.iter().any(Object::exists)).then_some(()))
    })
}

#[test]
fn uninstall_can_stop_the_agent_first() -> Result<()> {
    let mut scene = Scene::set(|_| {})?;
    let objects = tamper::objects(&scene.pin())?;
    uninstall(&scene.stage.two, &["--stop"])?.success()?;
    scene.stage.two.wait_for_end()?.success()?;
    scene.is_as_before(&objects)
}
