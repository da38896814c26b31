//! Nodes whose agents follow one controller, with a pod on each.
//!
//! Of a cluster `a` the controller is on node `a0`; the pods of the nodes `a1`, `a2`, … have the
//! names and the service accounts of their nodes, and are strict.

use std::net::SocketAddr;

use anyhow::{Context, Result};

use crate::{agent::Agent, controller::Controller, lab::Lab, mesh::Mesh, pod::Pod, stage::PORT};

#[derive(Debug)]
pub struct Cluster {
    pub controller: Controller,
    pub agents: Vec<Agent>,
    pub pods: Vec<Pod>,
    pub mesh: Mesh,
}

impl Cluster {
    /// Everything runs, and every agent is ready.
    pub fn start(lab: &Lab, name: &str, nodes: usize) -> Result<Cluster> {
        let mut cluster = Cluster::prepare(lab, name, nodes)?;
        for agent in &mut cluster.agents {
            agent.launch()?;
        }
        for agent in &mut cluster.agents {
            agent.wait_until_ready()?;
        }
        Ok(cluster)
    }

    /// The controller runs, and the agents are not started yet.
    pub fn prepare(lab: &Lab, name: &str, nodes: usize) -> Result<Cluster> {
        let at = lab.node(&format!("{name}0"))?;
        let mut mesh = Mesh::without_authority(&format!("{name}.martlet.dev"));
        let (mut all, mut pods) = (Vec::new(), Vec::new());
        for number in 1..=nodes {
            let node = lab.node(&format!("{name}{number}"))?;
            let pod = node.pod(node.name())?;
            mesh.enroll(&pod, "shop", node.name(), "strict");
            all.push(node);
            pods.push(pod);
        }
        let controller = Controller::start(&mesh, &at)?;
        let agents = all.iter().map(|node| controller.agent(&mesh, node));
        let agents = agents.collect::<Result<_>>()?;
        Ok(Cluster { controller, agents, pods, mesh })
    }

    pub fn pod(&self, name: &str) -> Result<&Pod> {
        self.pods.iter().find(|pod| pod.name() == name).context("there is no such pod")
    }

    pub fn agent(&self, node: &str) -> Result<&Agent> {
        self.agents
            .iter()
            .find(|agent| agent.node().name() == node)
            .context("there is no such node")
    }

    pub fn agent_mut(&mut self, node: &str) -> Result<&mut Agent> {
        let mut agents = self.agents.iter_mut();
        agents.find(|agent| agent.node().name() == node).context("there is no such node")
    }

    /// Tells all nodes the mesh as it is now.
    pub fn declare(&self) -> Result<()> {
        self.controller.declare(&self.mesh)
    }
}

impl Pod {
    /// Its application's port at its IPv4 address.
    pub fn application(&self) -> SocketAddr {
        SocketAddr::new(self.v4(), PORT)
    }
}
