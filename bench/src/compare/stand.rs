//! The test stand: pods in pairs, one pair for each subject, with servers and proxies in them.
//!
//! ```text
//!   node "plain-one" ── wire ── node "plain-two"     direct, HAProxy; no agent anywhere near
//!   node "one" ──────── wire ── node "two"           Martlet, and pods that are not enrolled
//!   node "earlier-one" ─ wire ─ node "earlier-two"   another build of Martlet, if there is one
//! ```

mod certificates;
mod haproxy;
mod pair;

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use martlet_lab::{Agent, Lab, Mesh, Node};

use crate::{stand::haproxy::Haproxies, subject::Subject};
pub use pair::{Pair, Service};

pub struct Stand {
    pairs: BTreeMap<Subject, Pair>,
    /// Of Martlet and of another build, if these are measured.
    agents: BTreeMap<Subject, Agents>,
    haproxies: Option<Haproxies>,
    nodes: BTreeMap<&'static str, Node>,
    made: u32,
}

pub struct Agents {
    pub near: Agent,
    pub far: Agent,
}

impl Stand {
    /// `earlier` is the program of the other build's agent.
    pub fn build(lab: &Lab, subjects: &[Subject], earlier: Option<&Path>) -> Result<Stand> {
        let mut nodes = BTreeMap::new();
        for name in ["plain-one", "plain-two", "one", "two", "earlier-one", "earlier-two"] {
            nodes.insert(name, lab.node(name)?);
        }
        let haproxies = match subjects.contains(&Subject::Haproxy) {
            true => Some(Haproxies::prepare(&lab.directory().join("haproxy"))?),
            false => None,
        };
        let mut stand =
            Stand { pairs: BTreeMap::new(), agents: BTreeMap::new(), haproxies, nodes, made: 0 };
        for subject in [Subject::Earlier, Subject::Martlet] {
            if subjects.contains(&subject) {
                let program = earlier.filter(|_| subject == Subject::Earlier);
                let agents = stand.enroll(lab, subject, program)?;
                stand.agents.insert(subject, agents);
            }
        }
        // Martlet's pods have somewhere outside the mesh to go to, measured or not.
        let has_outside = !stand.agents.is_empty() || subjects.contains(&Subject::Outside);
        for subject in [Subject::Direct, Subject::Haproxy] {
            if subjects.contains(&subject) {
                let pair = stand.plain_pair(subject)?;
                pair.favor()?;
                stand.pairs.insert(subject, pair);
            }
        }
        if has_outside {
            let pair = stand.plain_pair(Subject::Outside)?;
            pair.favor()?;
            stand.pairs.insert(Subject::Outside, pair);
        }
        Ok(stand)
    }

    pub fn pair(&self, subject: Subject) -> Result<&Pair> {
        self.pairs.get(&subject).with_context(|| format!("{subject} is not part of this run"))
    }

    /// Pods of its own, that remember no earlier connection, with the kernel's defaults.
    pub fn fresh_pair(&mut self, subject: Subject) -> Result<Pair> {
        self.plain_pair(subject)
    }

    pub fn agents(&self, subject: Subject) -> Result<&Agents> {
        self.agents.get(&subject).with_context(|| format!("{subject} has no agents in this run"))
    }

    /// What carries this subject's connections, as process IDs: near the client, near the server.
    pub fn proxies(&self, subject: Subject) -> Result<Vec<u32>> {
        match subject {
            Subject::Martlet | Subject::Earlier => {
                let Agents { near, far } = self.agents(subject)?;
                [near, far].into_iter().map(|agent| agent.pid().context("an agent ended")).collect()
            }
            _ => Ok(self.pair(subject)?.proxies()),
        }
    }

    /// Both agents have had connections in their hands.
    pub fn ensure_meshed(&self, subject: Subject) -> Result<()> {
        let Agents { near, far } = self.agents(subject)?;
        for agent in [near, far] {
            let opened = agent.metric("martlet_connections_opened_total", &[])?;
            ensure!(opened > 0.0, "the agent of {} has seen no connection", agent.node().name());
        }
        Ok(())
    }

    /// Where a process's memory happens to lie is worth some percent, so rounds have others.
    pub fn restart_agents(&mut self) -> Result<()> {
        for Agents { near, far } in self.agents.values_mut() {
            for agent in [near, far] {
                agent.kill()?;
                agent.restart()?;
            }
        }
        Ok(())
    }

    /// Access logs grow by gigabytes in an hour; nobody reads them here.
    pub fn empty_access_logs(&self) -> Result<()> {
        for agent in self.all_agents() {
            let path = access_log(agent)?;
            let log = OpenOptions::new().write(true).open(&path);
            log.and_then(|log| log.set_len(0)).context("emptying an access log")?;
        }
        Ok(())
    }

    /// How connections have ended since the access logs were emptied, but for those in order.
    pub fn odd_ends(&self) -> Result<BTreeMap<String, u64>> {
        let mut ends = BTreeMap::new();
        for agent in self.all_agents() {
            for record in agent.records()? {
                let closed = record["closed"].as_str().unwrap_or("without a reason");
                if closed != "finished" {
                    *ends.entry(format!("{}: {closed}", agent.node().name())).or_default() += 1;
                }
            }
        }
        Ok(ends)
    }

    /// The agents' last words, for a run that went wrong.
    pub fn agents_log(&self) -> String {
        let logs =
            self.all_agents().map(|agent| format!("{}:\n{}", agent.node().name(), agent.log()));
        logs.collect::<Vec<_>>().join("\n")
    }

    fn all_agents(&self) -> impl Iterator<Item = &Agent> {
        self.agents.values().flat_map(|Agents { near, far }| [near, far])
    }

    fn enroll(&mut self, lab: &Lab, subject: Subject, program: Option<&Path>) -> Result<Agents> {
        let pair = self.plain_pair(subject)?;
        let mut mesh = Mesh::new(lab, trust_domain_of(subject))?;
        mesh.enroll(pair.client(), "bench", "client", "strict");
        mesh.enroll(pair.server(), "bench", "server", "strict");
        self.pairs.insert(subject, pair);
        let start = |node: &str| -> Result<Agent> {
            let mut agent = Agent::prepare(&mesh, self.node(node)?)?;
            if let Some(program) = program {
                agent.set_binary(program);
            }
            agent.launch()?;
            agent.wait_until_ready()?;
            Ok(agent)
        };
        let [one, two] = nodes_of(subject);
        let (near, far) = (start(one)?, start(two)?);
        for agent in [&near, &far] {
            fs::metadata(access_log(agent)?).context("looking for the access log")?;
        }
        Ok(Agents { near, far })
    }

    fn plain_pair(&mut self, subject: Subject) -> Result<Pair> {
        self.made += 1;
        let [one, two] = nodes_of(subject);
        let name = |role: &str| format!("{}-{role}-{}", subject.word(), self.made);
        let client = self.node(one)?.pod(&name("client"))?;
        let server = self.node(two)?.pod(&name("server"))?;
        let mut pair = Pair::start(client, server)?;
        if let (Subject::Haproxy, Some(haproxies)) = (subject, &self.haproxies) {
            haproxies.put_between(&mut pair)?;
        }
        Ok(pair)
    }

    fn node(&self, name: &str) -> Result<&Node> {
        self.nodes.get(name).with_context(|| format!("there is no node {name}"))
    }
}

fn nodes_of(subject: Subject) -> [&'static str; 2] {
    match subject {
        Subject::Direct | Subject::Haproxy => ["plain-one", "plain-two"],
        Subject::Martlet | Subject::Outside => ["one", "two"],
        Subject::Earlier => ["earlier-one", "earlier-two"],
    }
}

/// Each pair of agents has an authority of its own; the names have one length, and so have the
/// certificates.
fn trust_domain_of(subject: Subject) -> &'static str {
    match subject {
        Subject::Earlier => "earlier.martlet.dev",
        _ => "present.martlet.dev",
    }
}

fn access_log(agent: &Agent) -> Result<PathBuf> {
    Ok(agent.node().directory()?.join("access.log"))
}
