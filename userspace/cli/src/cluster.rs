//! A cluster: its agents and its controller, reached through the API server.
//!
//! All nodes are asked at once, each with a deadline of its own. One that does not answer is named,
//! and nothing of the others' answers is lost for it.

mod bugreport;
mod check;
mod explain;
mod pages;
mod policy;
mod show;
mod top;
mod watch;

use anyhow::{Context as _, Result, ensure};
use futures_util::{StreamExt as _, stream};
use martlet_kubernetes::remote::{Choice, OwnPod, Remote};
use martlet_model::{TrustDomain, report::Status};

use crate::{
    agent::{Agent, AgentError, Told},
    args::Reach,
    controller::{Controller, ControllerError},
    limits,
    paint::{Tone, paint},
    place::{InPod, Place},
};

pub use bugreport::bugreport;
pub use check::check;
pub use explain::explain;
pub use policy::policy;
pub use show::show;
pub use top::{Looked, top};

pub struct Cluster {
    pub remote: Remote,
    /// The nodes that are asked; all if there are none.
    only: Vec<String>,
}

/// A node, and its agent if there is one to ask.
pub struct Member {
    pub node: String,
    agent: Result<Agent, Option<AgentError>>,
}

/// What came of asking a node.
pub struct Heard {
    pub node: String,
    pub told: Result<Told, AgentError>,
}

impl Cluster {
    pub async fn open(reach: &Reach) -> Result<Self> {
        let Reach { context, kubeconfig, nodes, .. } = reach.clone();
        let remote = Remote::open(&Choice { kubeconfig, context, system: reach.system() }).await?;
        Ok(Self { remote, only: nodes })
    }

    /// Whether one node was asked for, and so is shown as it is shown on the node itself.
    fn is_of_one(&self) -> bool {
        self.only.len() == 1
    }

    /// The nodes that have an agent or should have one, by name.
    pub async fn members(&self) -> Result<Vec<Member>> {
        let found = self.remote.agents().await?;
        let system = &self.remote.system;
        ensure!(
            !found.pods.is_empty() || !found.lacking.is_empty(),
            "there is no pod of martlet-agent in {system}; is Martlet installed in this cluster?"
        );
        let agents = found.pods.into_iter().map(|pod| self.member(pod));
        let lacking = found.lacking.into_iter();
        let lacking = lacking.map(|node| Member { node, agent: Err(Some(AgentError::NoPod)) });
        let mut members: Vec<_> = agents.chain(lacking).collect();
        for wanted in &self.only {
            let known: Vec<_> = members.iter().map(|member| member.node.as_str()).collect();
            ensure!(
                known.contains(&wanted.as_str()),
                "no node {wanted} has or lacks an agent; there are: {}",
                known.join(", ")
            );
        }
        members.retain(|member| self.only.is_empty() || self.only.contains(&member.node));
        members.sort_by(|one, other| one.node.cmp(&other.node));
        Ok(members)
    }

    fn member(&self, pod: OwnPod) -> Member {
        let node = pod.node.clone();
        let agent = match pod.absent.clone() {
            Some(why) => Err(Some(AgentError::Absent { pod: pod.name, why })),
            None => Ok(Agent::of(self.place(pod, "agent"))),
        };
        Member { node, agent }
    }

    fn place(&self, pod: OwnPod, whose: &'static str) -> Place {
        Place::Pod(Box::new(InPod { remote: self.remote.clone(), pod, whose }))
    }

    pub async fn controller(&self) -> Result<Controller> {
        let pods = self.remote.controllers().await?;
        let system = self.remote.system.to_string();
        let pod = pods.into_iter().next().ok_or(ControllerError::NoPod(system))?;
        if let Some(why) = pod.absent {
            return Err(ControllerError::Absent { pod: pod.name, why }.into());
        }
        Ok(Controller::of(self.place(pod, "controller")))
    }
}

impl Member {
    /// # Errors
    ///
    /// There is none to ask.
    pub fn agent(&mut self) -> Result<&Agent, AgentError> {
        match &mut self.agent {
            Ok(agent) => Ok(agent),
            Err(why) => Err(why.take().unwrap_or(AgentError::NoPod)),
        }
    }

    /// Whether it is the same agent, in the same pod.
    fn is_as(&self, other: &Self) -> bool {
        let path = |member: &Self| member.agent.as_ref().ok().map(|a| a.place().path().to_owned());
        self.node == other.node && path(self).is_some() && path(self) == path(other)
    }

    async fn ask(&mut self, path: &'static str) -> Heard {
        let node = self.node.clone();
        let told = match self.agent() {
            Ok(agent) => agent.told(path).await,
            Err(error) => Err(error),
        };
        Heard { node, told }
    }
}

/// Of all at once; in the order of the nodes.
pub async fn ask_all(members: &mut [Member], path: &'static str) -> Vec<Heard> {
    let asked = stream::iter(members.iter_mut()).map(|member| member.ask(path));
    let mut heard: Vec<_> = asked.buffer_unordered(limits::ASKED_AT_ONCE).collect().await;
    heard.sort_by(|one, other| one.node.cmp(&other.node));
    heard
}

/// As the first agent that answers has it.
pub async fn trust_domain(cluster: &Cluster) -> Result<TrustDomain> {
    let mut heard = ask_all(&mut cluster.members().await?, "/status").await;
    let first = show::read::<Status>(&mut heard).into_iter().next();
    let (_, status) = first.with_context(|| format!("no agent answers:\n{}", remarks(&heard)))?;
    Ok(status.trust_domain)
}

/// The one agent that was asked for.
async fn one(cluster: &Cluster) -> Result<Agent> {
    let member = cluster.members().await?.into_iter().next().context("no node was asked for")?;
    member.agent.map_err(|why| why.unwrap_or(AgentError::NoPod).into())
}

/// A line for each node that did not answer, and for each whose martlet is another than this one.
pub fn remarks(heard: &[Heard]) -> String {
    const OURS: &str = env!("CARGO_PKG_VERSION");
    let mut remarks = String::new();
    for Heard { node, told } in heard {
        match told {
            Err(error) => {
                let line = format!("× {node} did not answer: {}", chain(error));
                remarks.push_str(&format!("{}\n", paint(&line, Tone::Bad)));
                if let Some(hint) = error.hint() {
                    remarks.push_str(&format!("    {} {hint}\n", paint("hint:", Tone::Faint)));
                }
            }
            Ok(Told { version: Some(version), .. }) if version != OURS => {
                let line = format!("‼ {node} has martlet {version}, and this is {OURS}");
                remarks.push_str(&format!("{}\n", paint(&line, Tone::Warning)));
            }
            Ok(_) => {}
        }
    }
    remarks
}

pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    anyhow::Chain::new(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
