//! Two nodes under watched traffic: between enrolled pods, and outside of the mesh.
//!
//! ```text
//!   caller ⇄ far, caller → near      secrets: canaries that no wire may show
//!   stranger, caller → outside       controls: canaries that the same sniffer has to find
//! ```
//!
//! The sniffer is there before the traffic, and is replaced after each fault, the next one before
//! the last one ends.

use std::{collections::BTreeMap, fs, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use martlet_lab::{
    Agent, Canaries, Outcome, PORT, Patrol, Pod, Resources, Running, Server, Sniffer, Stage,
    wait_for,
};
use rand::{RngExt as _, rngs::StdRng};

/// What an application may see of a connection that is refused, broken, or waits too long.
/// EPERM while nothing is decided about its pod yet; ENETUNREACH where nobody steers what has no
/// route, and ECONNABORTED when a strict pod is enrolled again and what it had opened meanwhile is
/// closed.
const REFUSALS: [&str; 10] = [
    "ECONNREFUSED",
    "ECONNRESET",
    "EPIPE",
    "EHOSTUNREACH",
    "ETIMEDOUT",
    "TimedOut",
    "EAGAIN",
    "ENETUNREACH",
    "ECONNABORTED",
    "EPERM",
];
/// How long one asking may take: longer than most faults, so that waiting is seen, too.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// The same where no answer at all would be the fault's, and a late one the machine's: between the
/// pods of one node, outside of the mesh, and where nothing may be interrupted.
pub const UNCONCERNED: Duration = Duration::from_secs(5);
/// An agent that was started is ready by then, or has said why not.
pub const SERVICE: Duration = Duration::from_secs(20);
const CANARIES: usize = 32;
/// How many canaries travel between enrolled pods.
pub const SECRETS: usize = 5 * CANARIES;
/// The port of a server that echoes.
const CROWDED: u16 = 9090;

/// Whose agent is struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    Caller,
    Callee,
}

/// A fault that is over.
pub struct Struck {
    /// When service could begin to come back.
    pub ended: u64,
    /// Whether the two pods of node one had to be left alone.
    pub spared_near: bool,
}

/// Where a secret must not be seen.
#[derive(Debug, Clone, Copy)]
pub enum Watching {
    Everything,
    /// What a pod without steering sends in plaintext gets as far as to the guard, again and again.
    BehindGuards,
}

pub struct Trial {
    pub rng: StdRng,
    /// Between the nodes.
    pub across: Vec<Patrol>,
    /// From the caller to its neighbor on the same node.
    pub near: Patrol,
    /// Outside of the mesh.
    pub outside: Vec<Patrol>,
    /// Durations that were measured, by what they are.
    pub measured: BTreeMap<&'static str, Vec<Duration>>,
    /// Why connections failed for the applications.
    pub errors: BTreeMap<String, u64>,
    servers: Vec<Server>,
    /// Agents that carry to its end what they had when they were taken over from.
    carrying: Vec<Running>,
    watching: Watching,
    sniffer: Sniffer,
    canaries: Canaries,
    pub stage: Stage,
}

impl Trial {
    /// Of a stage whose agents run, or would if there were any. `patience` is that between nodes.
    pub fn begin(
        stage: Stage,
        rng: StdRng,
        patience: Duration,
        watching: Watching,
    ) -> Result<Trial> {
        let [secrets, controls] = [Canaries::random(SECRETS), Canaries::random(2 * CANARIES)];
        let canaries = secrets.and(&controls);
        let sniffer = sniff(&stage, &canaries, watching)?;
        let directory = stage.lab.directory().to_owned();
        let files = ["caller.asks", "far.asks", "caller.replies", "far.replies", "near.replies"];
        write(&directory, &files, &secrets)?;
        write(&directory, &["outside.asks", "outside.replies"], &controls)?;
        let at = |name: &str| directory.join(name);
        let serve = |pod: &Pod, replies: &str, asks: &str| {
            let (replies, asks) =
                (at(replies).display().to_string(), at(asks).display().to_string());
            let arguments =
                ["--then", "answer", "--quiet", "--canaries", &replies, "--replies", &asks];
            pod.serve(&arguments)
        };
        let servers = vec![
            serve(&stage.caller, "caller.replies", "far.asks")?,
            serve(&stage.far, "far.replies", "caller.asks")?,
            serve(&stage.near, "near.replies", "caller.asks")?,
            serve(&stage.outside, "outside.replies", "outside.asks")?,
            stage.far.serve_on(&[SocketAddr::new(stage.far.v4(), CROWDED)], &["--quiet"])?,
        ];
        let patrol = |from: &Pod, to: SocketAddr, asks: &str, replies: &str, patience| {
            Patrol::start(from, to, &at(asks), &at(replies), patience)
        };
        let far = stage.ways_to(&stage.far);
        let [to_caller, to_outside] =
            [&stage.caller, &stage.outside].map(|pod| SocketAddr::new(pod.v4(), PORT));
        let to_near = SocketAddr::new(stage.near.v6(), PORT);
        let across = vec![
            patrol(&stage.caller, far[0].to, "caller.asks", "far.replies", patience)?,
            // By IPv6, and by a service if there is one.
            patrol(&stage.caller, far[3].to, "caller.asks", "far.replies", patience)?,
            patrol(&stage.far, to_caller, "far.asks", "caller.replies", patience)?,
        ];
        let near = patrol(&stage.caller, to_near, "caller.asks", "near.replies", UNCONCERNED)?;
        let outside = vec![
            patrol(&stage.stranger, to_outside, "outside.asks", "outside.replies", UNCONCERNED)?,
            patrol(&stage.caller, to_outside, "outside.asks", "outside.replies", UNCONCERNED)?,
        ];
        Ok(Trial {
            rng,
            across,
            near,
            outside,
            servers,
            carrying: Vec::new(),
            stage,
            canaries,
            watching,
            sniffer,
            measured: BTreeMap::new(),
            errors: BTreeMap::new(),
        })
    }

    pub fn agent(&mut self, victim: Victim) -> &mut Agent {
        match victim {
            Victim::Caller => &mut self.stage.one,
            Victim::Callee => &mut self.stage.two,
        }
    }

    pub fn any(&mut self) -> Victim {
        if self.rng.random() { Victim::Caller } else { Victim::Callee }
    }

    /// Many connections at once from the caller to the other node; they end with what is given.
    pub fn crowd(&self, connections: u32) -> Result<Running> {
        let to = SocketAddr::new(self.stage.far.v4(), CROWDED).to_string();
        let connections = connections.to_string();
        let arguments = ["crowd", "--to", &to, "--connections", &connections, "--until-input-ends"];
        self.stage.caller.probe(&arguments)?.args(["--timeout-ms", "300"]).with_input().spawn()
    }

    /// Until it ends by itself.
    pub fn carry(&mut self, before: Running) {
        self.carrying.retain_mut(Running::is_running);
        self.carrying.push(before);
    }

    /// For a random time.
    pub fn hold(&mut self, at_most: Duration) -> Result<()> {
        let until = now() + self.rng.random_range(0..=micros(at_most));
        wait_for("time to pass", at_most + PATIENCE, || Ok((now() >= until).then_some(())))
    }

    /// Those whose connections an agent carries.
    pub fn patrols_of(&mut self, victim: Victim) -> Vec<&mut Patrol> {
        let near = (victim == Victim::Caller).then_some(&mut self.near);
        self.across.iter_mut().chain(near).collect()
    }

    pub fn measure(&mut self, what: &'static str, duration: Duration) {
        self.measured.entry(what).or_default().push(duration);
    }

    /// How long it took until both kinds of traffic of every pair of enrolled pods had an answer to
    /// what they asked since then; none if one has not yet.
    pub fn served(&mut self, since: u64) -> Result<Option<Duration>> {
        let mut latest = since;
        for patrol in self.across.iter_mut().chain([&mut self.near]) {
            let outcomes = patrol.outcomes()?;
            for stays_open in [false, true] {
                let Some(answered) = outcomes.iter().find(|outcome| {
                    outcome.began >= since
                        && outcome.stays_open == stays_open
                        && outcome.is_success()
                }) else {
                    return Ok(None);
                };
                latest = latest.max(answered.ended);
            }
        }
        Ok(Some(Duration::from_micros(latest - since)))
    }

    pub fn wait_for_service(&mut self, since: u64) -> Result<Duration> {
        let served = wait_for("service", SERVICE, || self.served(since));
        served.with_context(|| {
            let latest = |patrol: &mut Patrol| {
                let outcomes = patrol.outcomes().unwrap_or_default();
                let latest: Vec<_> = outcomes.iter().rev().take(4).cloned().collect();
                format!("{}, latest first: {latest:?}", patrol.name())
            };
            let all = self.across.iter_mut().chain([&mut self.near]).map(latest);
            format!("since {since}; {}", all.collect::<Vec<_>>().join("\n"))
        })
    }

    /// What has to be true after each fault; gives how long it took until service was back.
    pub fn settle(&mut self, struck: &Struck) -> Result<Duration> {
        for patrol in &mut self.outside {
            patrol.wait_for("traffic outside of the mesh", struck.ended, Outcome::is_success)?;
        }
        let took = self.wait_for_service(struck.ended);
        // Before anything else: nothing that can be found is worse.
        self.look_at_the_wire()?;
        let took = took?;
        for patrol in &mut self.outside {
            let name = patrol.name().to_owned();
            for outcome in patrol.take_outcomes()? {
                ensure!(outcome.is_success(), "outside of the mesh, {name}: {outcome:?}");
                ensure!(!outcome.wrong, "from a wrong peer, {name}: {outcome:?}");
            }
        }
        for (number, patrol) in self.across.iter_mut().chain([&mut self.near]).enumerate() {
            let name = patrol.name().to_owned();
            let is_near = number == 3;
            for outcome in patrol.take_outcomes()? {
                ensure!(!outcome.wrong, "from a wrong peer, {name}: {outcome:?}");
                let Some(error) = outcome.error.clone() else { continue };
                ensure!(REFUSALS.contains(&error.as_str()), "no refusal, {name}: {outcome:?}");
                let is_spared = is_near && struck.spared_near;
                ensure!(!is_spared, "on the node that was left alone, {name}: {outcome:?}");
                *self.errors.entry(error).or_default() += 1;
            }
        }
        for server in &self.servers {
            ensure!(server.seen().is_empty(), "to a wrong peer: {:?}", server.seen());
        }
        Ok(took)
    }

    /// How many secrets were seen in plaintext; fails if the sniffer could not have seen them.
    pub fn secrets_seen(&mut self) -> Result<usize> {
        let next = sniff(&self.stage, &self.canaries, self.watching)?;
        let capture = std::mem::replace(&mut self.sniffer, next).stop()?;
        let is_control = |index: &&usize| **index >= SECRETS;
        let controls = capture.found().iter().filter(is_control).count();
        ensure!(controls > 0, "the sniffer sees nothing of what is outside of the mesh");
        Ok(capture.found().len() - controls)
    }

    fn look_at_the_wire(&mut self) -> Result<()> {
        let seen = self.secrets_seen()?;
        ensure!(seen == 0, "{seen} secrets in plaintext");
        Ok(())
    }

    pub fn resources(&self) -> Result<[Resources; 2]> {
        Ok([self.stage.one.resources()?, self.stage.two.resources()?])
    }
}

fn sniff(stage: &Stage, canaries: &Canaries, watching: Watching) -> Result<Sniffer> {
    let namespaces = [stage.lab.wire(), stage.one.node().netns(), stage.two.node().netns()];
    match watching {
        Watching::Everything => Sniffer::start(namespaces, canaries),
        Watching::BehindGuards => Sniffer::start_outgoing(namespaces, canaries),
    }
}

/// A part of the canaries for each file.
fn write(directory: &std::path::Path, names: &[&str], canaries: &Canaries) -> Result<()> {
    let bytes: Vec<u8> = canaries.iter().flatten().copied().collect();
    for (name, part) in names.iter().zip(bytes.chunks(bytes.len() / names.len())) {
        let path: PathBuf = directory.join(name);
        fs::write(&path, part).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// As patrols tell it.
pub fn now() -> u64 {
    Patrol::now()
}

pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
