//! Pods that come and go at the same addresses: who follows is not taken for who was there before,
//! and nothing is left of those who are gone.

use std::{collections::BTreeMap, fs, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use martlet_lab::{
    Agent, Canaries, Lab, Mesh, Node, PORT, Pod, Resources, Server, Sniffer, evidence, is_long,
    pinned, wait_for,
};
use serde_json::Value;

/// Pods that are replaced at the same time.
const PLACES: usize = 10;
/// How long a caller may take until it is answered: an agent looks for new pods every second.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the agent's memory may grow by: buffers and caches of the allocator.
const GROWTH: u64 = 24 << 20;

/// A pod that others call, and its server.
struct Called {
    pod: Pod,
    account: &'static str,
    server: Server,
}

impl Called {
    fn serve(pod: Pod, account: &'static str) -> Result<Self> {
        let server = pod.serve(&["--then", "once"])?;
        Ok(Self { pod, account, server })
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::new(self.pod.v4(), PORT)
    }

    /// What the server got on all connections that have ended, without the beginnings of handshakes
    /// with who was there. They say nothing of anybody: no name, and no byte of an application.
    fn received(&self) -> u64 {
        let seen = self.server.seen();
        let said = seen.iter().filter(|seen| !is_handshake(seen));
        said.filter_map(|seen| seen["received"].as_u64()).sum()
    }

    fn handshakes(&self) -> usize {
        self.server.seen().iter().filter(|seen| is_handshake(seen)).count()
    }
}

/// A record with a ClientHello comes first (RFC 8446, section 5.1).
fn is_handshake(seen: &Value) -> bool {
    seen["beginning"].as_str().is_some_and(|text| text.starts_with("\u{16}\u{3}\u{1}"))
}

/// Two nodes: a caller on one, all places on the other.
struct Stage {
    lab: Lab,
    mesh: Mesh,
    near: Agent,
    far: Agent,
    caller: Pod,
}

impl Stage {
    fn set() -> Result<Self> {
        let lab = Lab::new()?;
        let (one, two) = (lab.node("one")?, lab.node("two")?);
        let caller = one.pod("caller")?;
        let mut mesh = Mesh::new(&lab, "lab.martlet.dev")?;
        mesh.enroll(&caller, "shop", "cart", "strict");
        let (near, far) = (Agent::start(&mesh, &one)?, Agent::start(&mesh, &two)?);
        Ok(Self { lab, mesh, near, far, caller })
    }

    fn two(&self) -> Node {
        self.far.node().clone()
    }

    /// Tries for a while to have something said and answered.
    fn call(&self, to: SocketAddr, say: &str, patience: Duration) -> Result<Value> {
        let (to, patience) = (to.to_string(), patience.as_millis().to_string());
        let arguments = [
            "insist",
            "--to",
            &to,
            "--say",
            say,
            "--patience-ms",
            &patience,
            "--timeout-ms",
            "3000",
        ];
        self.caller.probe(&arguments)?.run_within(PATIENCE * 2)?.json()
    }

    fn declare(&mut self, gone: &[Called], come: &[Called]) -> Result<()> {
        gone.iter().for_each(|called| self.mesh.withdraw(&called.pod));
        come.iter().for_each(|called| {
            self.mesh.enroll(&called.pod, "shop", called.account, "strict");
        });
        self.far.reload(&self.mesh)?;
        self.near.reload(&self.mesh)
    }

    /// With whom the caller's agent has talked when it called these.
    fn identities(&self, called: &[Called]) -> Result<Vec<Value>> {
        wait_for("a record of each call", PATIENCE, || {
            let records = self.near.records()?;
            let identity = |called: &Called| {
                let record = records.iter().rev().find(|record| {
                    record["destination"]["workload"]["name"] == called.pod.name()
                        && record["closed"] == "finished"
                });
                record.map(|record| record["destination"]["identity"].clone())
            };
            Ok(called.iter().map(identity).collect())
        })
    }

    /// What the far agent and the kernel hold for it, once all that is gone has been let go of.
    fn holdings(&self) -> Result<Holdings> {
        let expected = PLACES;
        wait_for("all pods to be enrolled and what is gone to be forgotten", PATIENCE, || {
            let holdings = Holdings::of(&self.far)?;
            Ok((holdings.entries["WORKLOADS"] == expected).then_some(holdings))
        })
    }
}

/// How much there is of everything that could pile up.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Holdings {
    /// Entries of maps, and pinned links.
    entries: BTreeMap<String, usize>,
    notes: usize,
    namespaces: usize,
    threads: u64,
}

impl Holdings {
    fn of(agent: &Agent) -> Result<Self> {
        let pid = agent.pid().context("the agent runs")?;
        let files = fs::read_dir(format!("/proc/{pid}/fd"))?;
        // A file may be closed while they are listed.
        let targets = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        let is_namespace = |target: &std::path::PathBuf| {
            target.starts_with("/run/netns") || target.to_string_lossy().starts_with("net:")
        };
        Ok(Self {
            entries: pinned::entries(&agent.node().pin(), pinned::OF_PODS)?,
            notes: fs::read_dir(agent.node().directory()?.join("state/sysctl"))?.count(),
            namespaces: targets.filter(is_namespace).count(),
            threads: agent.resources()?.threads,
        })
    }
}

fn account(generation: usize, place: usize) -> &'static str {
    // Every fourth time the successor has the identity of its predecessor.
    ["web", "till", "bank", "bank"][(generation + place) % 4]
}

#[test]
fn who_follows_at_an_address_gets_neither_identity_nor_bytes_of_who_was_there() -> Result<()> {
    let generations = if is_long() { 1_001 } else { 8 };
    let reuses = (generations - 1) * PLACES;
    let mut stage = Stage::set()?;
    let canaries = Canaries::printable(2 * generations * PLACES);
    let said = |number: usize| -> Result<String> {
        let canary = canaries.iter().nth(number).context("there is one for each call")?;
        Ok(String::from_utf8(canary.to_vec())?)
    };
    let sniffer = Sniffer::start(
        [stage.lab.wire(), stage.near.node().netns(), stage.far.node().netns()],
        &canaries,
    )?;
    let mut here: Vec<Called> = Vec::new();
    let (mut first, mut refused, mut again, mut handshakes) = (None, 0, 0, 0);
    for generation in 0..generations {
        let mut next = Vec::new();
        for place in 0..PLACES {
            let (name, account) = (format!("pod-{generation}-{place}"), account(generation, place));
            let pod = match here.get(place) {
                Some(old) => old.pod.replace(&name)?,
                None => stage.two().pod(&name)?,
            };
            next.push(Called::serve(pod, account)?);
        }
        // Nobody has told the caller's agent yet: what is meant for the old pod is said to it.
        for (place, old) in here.iter().enumerate() {
            if old.account == next[place].account {
                continue;
            }
            let seen = stage.call(
                old.address(),
                &said(2 * (generation * PLACES + place))?,
                Duration::from_millis(1),
            )?;
            assert_eq!(seen["answered"], false, "{generation} {place}: {seen}");
            refused += 1;
        }
        if generation % 4 == 3 {
            stage.far.kill()?;
            // Not ready: all that it knows of are gone.
            stage.far.launch()?;
            wait_for("the agent to answer", PATIENCE, || Ok(stage.far.get("/status").ok()))?;
        }
        stage.declare(&here, &next)?;
        let mut calls = Vec::new();
        for (place, called) in next.iter().enumerate() {
            let say = said(2 * (generation * PLACES + place) + 1)?;
            let seen = stage.call(called.address(), &say, PATIENCE)?;
            assert_eq!(seen["answered"], true, "{generation} {place}: {seen}");
            calls.push(seen);
        }
        let found = stage.identities(&next)?;
        for (place, (called, found)) in next.iter().zip(found).enumerate() {
            let identity = stage.mesh.identity("shop", called.account);
            assert_eq!(found, identity, "{generation} {place}");
            // What was said to it: once, or again where the first answer did not come.
            let call = &calls[place];
            // It counts what it got when the connection has ended, which may be after the answer.
            let received = wait_for("the server to count what it got", PATIENCE, || {
                Ok(Some(called.received()).filter(|received| *received > 0))
            })?;
            let said = call["said"].as_u64().context("the caller counts")?;
            let most = said * Canaries::LENGTH as u64;
            let is_own = (Canaries::LENGTH as u64..=most).contains(&received);
            assert!(is_own, "{generation} {place}: {received} bytes; {call}");
            if said > 1 {
                println!("{generation} {place}: said again, {call}");
            }
            again += said - 1;
            handshakes += called.handshakes();
        }
        here = next;
        if generation == 1 {
            first = Some((stage.holdings()?, stage.far.resources()?));
        }
    }
    let capture = sniffer.stop()?;
    assert_eq!(capture.found().len(), 0, "in plaintext");
    let (before, used_before) = first.context("there was a second generation")?;
    // A look at a namespace holds it for a moment.
    let mut after = stage.holdings()?;
    let settled = wait_for("what is held to be what it was", PATIENCE, || {
        after = stage.holdings()?;
        // A thread that had its last work before the first look may have gone.
        let threads = before.threads.min(after.threads);
        let same = Holdings { threads, ..after.clone() } == Holdings { threads, ..before.clone() };
        Ok((same && after.threads <= before.threads).then_some(()))
    });
    settled.with_context(|| format!("{before:?} became {after:?} over {reuses} reuses"))?;
    let used = stage.far.resources()?;
    assert!(files_alike(used_before, used), "{used_before:?} {used:?}");
    assert!(used.resident_bytes < used_before.resident_bytes + GROWTH, "{used_before:?} {used:?}");
    evidence(
        "who_follows_at_an_address_gets_neither_identity_nor_bytes_of_who_was_there",
        &[
            ("addresses reused", &reuses),
            ("calls to who was gone, refused", &refused),
            ("said again for want of an answer", &again),
            ("handshakes begun with who is not enrolled yet", &handshakes),
            ("bytes for somebody else", &0),
            ("files, before and after", &format!("{} {}", used_before.files, used.files)),
            (
                "map entries and links, before and after",
                &format!("{} {}", total(&before), total(&after)),
            ),
        ],
    )
}

/// Connections that end just now hold a few.
fn files_alike(before: Resources, after: Resources) -> bool {
    after.files <= before.files + 2 * PLACES
}

fn total(holdings: &Holdings) -> usize {
    holdings.entries.values().sum()
}
