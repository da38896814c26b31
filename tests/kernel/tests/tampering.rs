//! What others change in the kernel: in the gap connections are carried or refused and never plain,
//! then it is put back, counted, and the agent is ready.

use std::{
    fmt::Display,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use martlet_lab::{Canaries, PORT, Running, Server, Sniffer, Stage, wait_for};
use martlet_tests_kernel::tamper::{self, Entries, InFront, Kind};
use serde_json::Value;

/// What is promised.
const NOTICED: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(20);

/// Both nodes in permissive mode, where a plain connection would be let in by nobody but a gap.
struct Scene {
    stage: Stage,
    canaries: PathBuf,
    sniffer: Sniffer,
    _server: Server,
}

impl Scene {
    fn set(change: impl FnOnce(&mut Stage)) -> Result<Self> {
        let mut stage = Stage::prepare("permissive", |_| {})?;
        change(&mut stage);
        stage.launch()?;
        let canaries = Canaries::random(10);
        let file = stage.lab.directory().join("canaries");
        canaries.write_to(&file)?;
        // Behind the guard: on its own interface it refuses what a sniffer has seen already.
        let namespaces = [stage.lab.wire(), stage.two.node().netns()];
        let sniffer = Sniffer::start(namespaces, &canaries)?;
        let server = stage.far.serve(&["--then", "echo"])?;
        let scene = Self { stage, canaries: file, sniffer, _server: server };
        scene.flows()?;
        Ok(scene)
    }

    fn pin(&self) -> PathBuf {
        self.stage.one.node().pin()
    }

    fn map(&self, name: &str) -> Result<Entries> {
        Entries::open(&tamper::version(&self.pin())?.join("maps").join(name))
    }

    /// Begins to send canaries, whatever becomes of them.
    fn try_all(&self) -> Result<Vec<Running>> {
        let canaries = self.canaries.display().to_string();
        let ask = |to: IpAddr| {
            let to = SocketAddr::new(to, PORT).to_string();
            let arguments = ["connect", "--to", &to, "--then", "ask", "--canaries", &canaries];
            self.stage.caller.probe(&arguments)?.spawn()
        };
        self.stage.far.addresses().into_iter().map(ask).collect()
    }

    fn flows(&self) -> Result<()> {
        for to in self.stage.far.addresses() {
            let to = SocketAddr::new(to, PORT);
            let client = self.stage.caller.connect(to, &["--then", "send", "--bytes", "1000"])?;
            let seen = (&client["received"], &client["finished"]);
            assert_eq!(seen, (&1000.into(), &true.into()), "{client}");
        }
        Ok(())
    }

    fn repaired(&self, kind: &str) -> Result<(u64, Value)> {
        let repairs = self.stage.one.get("/status")?["repairs"].clone();
        let all = repairs.as_array().context("the status lists repairs")?;
        let ours = all.iter().filter(|repair| repair["kind"] == kind);
        Ok((ours.filter_map(|repair| repair["count"].as_u64()).sum(), repairs))
    }

    /// Does something, and sees it put back in time.
    fn tamper(
        &self,
        what: impl Display,
        kind: &str,
        tampering: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let (before, _) = self.repaired(kind)?;
        let labels = [&*format!("kind=\"{kind}\""), "result=\"success\""];
        let counted = self.stage.one.metric("martlet_repairs_total", &labels)?;
        tampering().with_context(|| format!("{what}"))?;
        let begun = Instant::now();
        let trying = self.try_all()?;
        wait_for(&format!("the repair of: {what}"), PATIENCE, || {
            Ok((self.repaired(kind)?.0 > before).then_some(()))
        })
        .with_context(|| format!("{:?}", self.repaired(kind)))?;
        let took = begun.elapsed();
        assert!(took < NOTICED, "{what}: put back only after {took:?}");
        wait_for(&format!("readiness after: {what}"), PATIENCE, || {
            Ok((self.stage.one.admin("/readyz")?.status == 200).then_some(()))
        })?;
        let (_, repairs) = self.repaired(kind)?;
        let last = repairs.as_array().and_then(|all| all.last()).context("there is a repair")?;
        assert!(last["error"].is_null(), "{what}: {repairs}");
        assert!(self.stage.one.metric("martlet_repairs_total", &labels)? > counted, "{what}");
        for trying in trying {
            trying.kill()?;
        }
        self.flows().with_context(|| format!("after: {what}"))?;
        println!("{what}: put back after {took:?}");
        Ok(())
    }

    /// That nothing more is found, and no canary was seen by anybody.
    fn close(self) -> Result<()> {
        let log = self.stage.one.log();
        let said = log.lines().filter(|line| line.contains("changed by somebody else")).count();
        assert!(said > 0, "each thing is said: {log}");
        let capture = self.sniffer.stop()?;
        assert!(capture.found().is_empty(), "{} in plaintext", capture.found().len());
        Ok(())
    }
}

const fn kind(program: u32, attach: u32) -> Kind {
    Kind { program, attach, answer: 1 }
}

/// The hooks of the node, with the kinds of their programs (include/uapi/linux/bpf.h).
const HOOKS: [(&str, Kind); 5] = [
    ("martlet_peername4", kind(18, 29)),
    ("martlet_peername6", kind(18, 30)),
    ("martlet_establish", kind(13, 3)),
    ("martlet_connect4", kind(18, 10)),
    ("martlet_connect6", kind(18, 11)),
];
const LOOKUP: Kind = kind(30, 36);
/// `TC_ACT_OK`: nothing behind it has a say.
const LET_ALL_IN: Kind = Kind { program: 3, attach: 46, answer: 0 };
const LET_ALL_OUT: Kind = Kind { attach: 47, ..LET_ALL_IN };

#[test]
fn links_that_are_detached_replaced_or_unpinned_are_put_back_and_nothing_is_plain_meanwhile()
-> Result<()> {
    let scene = Scene::set(|_| {})?;
    for (name, kind) in HOOKS {
        for link in tamper::links(&scene.pin(), name)? {
            scene.tamper(format!("{name} detached"), "link", || tamper::detach(&link))?;
            scene.tamper(format!("{name} replaced"), "program", || tamper::replace(&link, kind))?;
            let unpin = || Ok(std::fs::remove_file(&link)?);
            scene.tamper(format!("{name} unpinned"), "link", unpin)?;
        }
    }
    for link in tamper::links(&scene.pin(), "martlet_lookup-")? {
        let name = link.display();
        scene.tamper(format!("{name} detached"), "link", || tamper::detach(&link))?;
        scene.tamper(format!("{name} replaced"), "program", || tamper::replace(&link, LOOKUP))?;
        scene.tamper(format!("{name} unpinned"), "link", || Ok(std::fs::remove_file(&link)?))?;
    }
    scene.close()
}

#[test]
fn a_guard_that_is_detached_replaced_unpinned_or_overtaken_is_put_back() -> Result<()> {
    let scene = Scene::set(|_| {})?;
    let mut links = tamper::links(&scene.pin(), "martlet_guard_in")?;
    links.extend(tamper::links(&scene.pin(), "martlet_guard_out")?);
    for link in &links {
        let name = link.display();
        let kind = match link.to_string_lossy().contains("guard_out") {
            true => LET_ALL_IN,
            false => LET_ALL_OUT,
        };
        scene.tamper(format!("{name} detached"), "guard", || tamper::detach(link))?;
        scene.tamper(format!("{name} replaced"), "guard", || tamper::replace(link, kind))?;
        scene.tamper(format!("{name} unpinned"), "guard", || Ok(std::fs::remove_file(link)?))?;
    }
    let interface = scene.stage.caller.host_interface();
    let node = scene.stage.one.node();
    for kind in [LET_ALL_IN, LET_ALL_OUT] {
        let mut before = None;
        let overtake = || {
            before = Some(node.run(|| InFront::attach(&interface, kind))??);
            Ok(())
        };
        scene.tamper("another program before the guard", "guard", overtake)?;
        let before = before.context("it was attached")?;
        node.run(|| before.detach())??;
    }
    scene.close()
}

#[test]
fn a_guard_that_is_a_filter_is_put_back_too() -> Result<()> {
    let scene = Scene::set(|stage| stage.one.set_env("MARTLET_WITHOUT_FEATURES", "tcx"))?;
    let interface = scene.stage.caller.host_interface();
    let tc = |arguments: &str| {
        let arguments = arguments.split(' ').chain(["dev", &interface]).map(str::to_owned);
        scene.stage.one.node().command("tc").args(arguments).run()?.success().map(drop)
    };
    scene.tamper("the qdisc is deleted", "guard", || {
        let arguments = ["qdisc", "del", "dev", &interface, "clsact"];
        scene.stage.one.node().command("tc").args(arguments).run()?.success().map(drop)
    })?;
    for direction in ["ingress", "egress"] {
        scene.tamper(format!("the {direction} filter is deleted"), "guard", || {
            tc(&format!("filter del {direction}"))
        })?;
    }
    scene.close()
}

#[test]
fn maps_that_are_unpinned_or_replaced_are_pinned_again() -> Result<()> {
    let scene = Scene::set(|_| {})?;
    let maps = tamper::version(&scene.pin())?.join("maps");
    for entry in std::fs::read_dir(&maps)? {
        let (pin, name) = {
            let entry = entry?;
            (entry.path(), entry.file_name())
        };
        let name = name.display();
        scene.tamper(format!("{name} unpinned"), "pin", || Ok(std::fs::remove_file(&pin)?))?;
        scene.tamper(format!("{name} replaced"), "pin", || tamper::replace_map(&pin))?;
    }
    scene.close()
}

/// Maps that only the agent writes.
const MAPS: [&str; 5] = ["WORKLOADS", "OUTSIDE", "RECEIVERS", "GUARDED", "MEMBERS"];

#[test]
fn entries_that_are_removed_altered_or_added_are_put_right() -> Result<()> {
    let scene = Scene::set(|_| {})?;
    for name in MAPS {
        let entries = scene.map(name)?;
        let flip = |bytes: Vec<u8>| bytes.iter().map(|byte| !byte).collect::<Vec<u8>>();
        let first = entries.keys()?.first().context("there is an entry")?.clone();
        let value = entries.get(&first)?;
        let alter = || {
            entries.keys()?.iter().try_for_each(|key| entries.set(key, &flip(entries.get(key)?)))
        };
        scene.tamper(format!("{name} altered"), "entry", alter)?;
        let added = flip(first.clone());
        scene.tamper(format!("{name} added to"), "entry", || entries.set(&added, &value))?;
        assert!(!entries.keys()?.contains(&added), "{name}: what nobody declared is gone");
        if name != "MEMBERS" {
            let remove = || entries.keys()?.iter().try_for_each(|key| entries.remove(key));
            scene.tamper(format!("{name} emptied"), "entry", remove)?;
        }
        assert_eq!(entries.get(&first)?, value, "{name}");
    }
    let listeners = scene.map("LISTENERS")?;
    let remove = || listeners.keys()?.iter().try_for_each(|key| listeners.remove(key));
    scene.tamper("LISTENERS emptied", "listener", remove)?;
    scene.close()
}

/// Who is not in this map is outside the mesh: the one gap in which the kernel has nothing left by
/// which it could refuse.
#[test]
fn members_that_are_removed_are_members_again() -> Result<()> {
    let scene = Scene::set(|_| {})?;
    let entries = scene.map("MEMBERS")?;
    let remove = || entries.keys()?.iter().try_for_each(|key| entries.remove(key));
    scene.tamper("MEMBERS emptied", "entry", remove)
}

#[test]
fn a_sysctl_a_listener_and_its_mark_are_put_back() -> Result<()> {
    let scene = Scene::set(|_| {})?;
    let netns = scene.stage.caller.netns();
    scene.tamper("tcp_tw_reuse changed", "sysctl", || {
        netns.set_sysctls(&[("ipv4/tcp_tw_reuse", "0")])
    })?;
    assert_eq!(netns.sysctl("ipv4/tcp_tw_reuse")?, "1");
    let maps = tamper::version(&scene.pin())?.join("maps");
    let listeners = tamper::listeners_of(scene.stage.one.pid().context("the agent runs")?)?;
    let unmark = || {
        let marks = Entries::open(&maps.join("DIALS"))?;
        listeners.iter().try_for_each(|listener| {
            marks.remove(&listener.as_raw_fd().to_ne_bytes()).or_else(|_| Ok(()))
        })
    };
    scene.tamper("the mark of the listeners removed", "listener", unmark)?;
    scene.close()
}

#[test]
fn a_pod_whose_listener_is_closed_is_enrolled_again() -> Result<()> {
    let scene = Scene::set(|_| {})?;
    let begun = Instant::now();
    let listeners = tamper::listeners_of(scene.stage.one.pid().context("the agent runs")?)?;
    // As SOCK_DESTROY would, whoever holds it.
    for listener in listeners {
        if listener.local_addr()?.as_socket().is_some_and(|at| at.port() != 15020) {
            // It is there twice, and closed the second time.
            let _ = listener.shutdown(std::net::Shutdown::Both);
        }
    }
    wait_for("the pod to be enrolled again", PATIENCE, || {
        // The pages say what was the case at the end of a look: before it they are of an earlier one.
        let log = scene.stage.one.log();
        let (_, since) = log.split_once("to be enrolled again").unwrap_or_default();
        let is_counted = scene.repaired("listener")?.0 > 0;
        let is_ready = scene.stage.one.admin("/readyz")?.status == 200;
        Ok((since.contains("enrolled") && is_counted && is_ready).then_some(()))
    })?;
    assert!(begun.elapsed() < NOTICED, "only after {:?}", begun.elapsed());
    scene.flows()?;
    scene.close()
}
