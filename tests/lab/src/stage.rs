//! The usual arrangement: two nodes with an agent each, pods that are enrolled and pods outside the mesh.
//!
//! ```text
//!   node one: caller (cart), near (web), stranger (outside)
//!   node two: far (web), outside
//! ```
//!
//! `near` and `far` are behind a service of each family, whose port 80 leads to their port 8080.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    agent::Agent,
    lab::Lab,
    mesh::Mesh,
    pod::Pod,
    server::{Server, address},
};

/// The port of the applications.
pub const PORT: u16 = 8080;
/// The port of the services.
pub const SERVICE_PORT: u16 = 80;

#[derive(Debug)]
pub struct Stage {
    pub one: Agent,
    pub two: Agent,
    pub mesh: Mesh,
    pub caller: Pod,
    pub near: Pod,
    pub far: Pod,
    pub stranger: Pod,
    pub outside: Pod,
    pub lab: Lab,
}

/// One of the ways that lead from the caller to an application.
#[derive(Debug, Clone)]
pub struct Way {
    pub callee: Pod,
    /// What the caller asks for: the pod's address, or a service's.
    pub to: SocketAddr,
    /// Where that leads to.
    pub endpoint: SocketAddr,
    pub caller: IpAddr,
}

impl Stage {
    /// Both agents are ready.
    pub fn set(mode: &str) -> Result<Stage> {
        let mut stage = Stage::prepare(mode, |_| {})?;
        stage.launch()?;
        Ok(stage)
    }

    /// The agents are not started yet; `change` has the last word about the mesh.
    pub fn prepare(mode: &str, change: impl FnOnce(&mut Mesh)) -> Result<Stage> {
        let lab = Lab::new()?;
        let (one, two) = (lab.node("one")?, lab.node("two")?);
        let (caller, near, stranger) = (one.pod("caller")?, one.pod("near")?, one.pod("stranger")?);
        let (far, outside) = (two.pod("far")?, two.pod("outside")?);
        let mut mesh = Mesh::new(&lab, "lab.martlet.dev")?;
        mesh.enroll(&caller, "shop", "cart", mode);
        for pod in [&near, &far] {
            mesh.enroll(pod, "shop", "web", mode);
            serve(&mut mesh, pod);
        }
        for pod in [&stranger, &outside] {
            mesh.leave_outside(pod);
        }
        change(&mut mesh);
        let (one, two) = (Agent::prepare(&mesh, &one)?, Agent::prepare(&mesh, &two)?);
        Ok(Stage { one, two, mesh, caller, near, far, stranger, outside, lab })
    }

    /// Starts both agents, and waits until they are ready.
    pub fn launch(&mut self) -> Result<()> {
        self.one.launch()?;
        self.two.launch()?;
        self.one.wait_until_ready()?;
        self.two.wait_until_ready()
    }

    /// Gives both agents the mesh as it is now.
    pub fn reload(&mut self) -> Result<()> {
        self.one.reload(&self.mesh)?;
        self.two.reload(&self.mesh)
    }

    /// The agent of a pod's node.
    pub fn agent(&self, pod: &Pod) -> &Agent {
        if pod.node().name() == self.one.node().name() { &self.one } else { &self.two }
    }

    /// From the caller to the same node and to the other, by both families, by pod and by service.
    pub fn ways(&self) -> Vec<Way> {
        [&self.near, &self.far].into_iter().flat_map(|pod| self.ways_to(pod)).collect()
    }

    pub fn ways_to(&self, callee: &Pod) -> Vec<Way> {
        let mut ways = self.direct_ways_to(callee);
        for direct in ways.clone() {
            let to = SocketAddr::new(service_address(direct.endpoint.ip()), SERVICE_PORT);
            ways.push(Way { to, ..direct });
        }
        ways
    }

    /// By both families, by the pod's own address.
    pub fn direct_ways_to(&self, callee: &Pod) -> Vec<Way> {
        let family = |number: usize| {
            let to = SocketAddr::new(callee.addresses()[number], PORT);
            let caller = self.caller.addresses()[number];
            Way { callee: callee.clone(), to, endpoint: to, caller }
        };
        vec![family(0), family(1)]
    }

    /// The records of one connection: the caller's agent's, and the called one's. A source port may
    /// have been used before for somebody else, or by way of another address.
    pub fn records(&self, client: &Value, callee: &Pod) -> Result<[Value; 2]> {
        let from = address(&client["local"]).context("the client has no address")?;
        // With MPTCP it is the agent, at the caller's own address.
        let asked = address(&client["peer"]).filter(|peer| peer.ip() != from.ip());
        let of = |agent: &Agent, reporter: &str| {
            agent.wait_for_record(&format!("the {reporter} of {from}"), |record| {
                let origin = address(&record["origin"]);
                let called = &record["destination"]["workload"]["name"];
                record["reporter"] == reporter
                    && address(&record["source"]["address"]) == Some(from)
                    && (called.is_null() || called == callee.name())
                    && (origin.is_none() || asked.is_none() || origin == asked)
            })
        };
        Ok([of(self.agent(&self.caller), "source")?, of(self.agent(callee), "destination")?])
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "to {} by {}", self.callee.name(), self.to)
    }
}

impl Way {
    pub fn is_v4(&self) -> bool {
        self.to.is_ipv4()
    }

    pub fn is_service(&self) -> bool {
        self.to != self.endpoint
    }
}

impl Pod {
    /// The probe as a server on port 8080 of both of the pod's addresses.
    pub fn serve(&self, arguments: &[&str]) -> Result<Server> {
        let listen = self.addresses().map(|address| SocketAddr::new(address, PORT));
        self.serve_on(&listen, arguments)
    }

    pub fn serve_on(&self, listen: &[SocketAddr], arguments: &[&str]) -> Result<Server> {
        Server::start(self, listen, arguments)
    }

    /// The probe as a client; gives what it saw.
    pub fn connect(&self, to: SocketAddr, arguments: &[&str]) -> Result<Value> {
        let to = to.to_string();
        self.probe(&[&["connect", "--to", &to], arguments].concat())?.run()?.json()
    }
}

/// A service of each family for a pod.
fn serve(mesh: &mut Mesh, pod: &Pod) {
    for (ip, family) in pod.addresses().into_iter().zip(["v4", "v6"]) {
        let name = format!("{}-{family}", pod.name());
        let endpoint = SocketAddr::new(ip, PORT).to_string();
        let address = service_address(ip).to_string();
        mesh.service("shop", &name, &address, SERVICE_PORT, &[endpoint]);
    }
}

/// 10.96.N.P for 10.N.0.P, and fd96:N::P for fd00:N::P: addresses that no route leads to.
fn service_address(pod: IpAddr) -> IpAddr {
    match pod {
        IpAddr::V4(v4) => {
            let [_, node, _, number] = v4.octets();
            Ipv4Addr::new(10, 96, node, number).into()
        }
        IpAddr::V6(v6) => {
            let [_, node, .., number] = v6.segments();
            Ipv6Addr::new(0xfd96, node, 0, 0, 0, 0, 0, number).into()
        }
    }
}
