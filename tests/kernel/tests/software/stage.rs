//! Two nodes with a pair of pods that is not enrolled and a pair that is, and the comparison of both.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use martlet_lab::{Agent, Canaries, Capture, Lab, Mesh, Node, Pod, Running, Sniffer, wait_for};
use rand::Rng as _;
use serde_json::Value;

pub const PATIENCE: Duration = Duration::from_secs(20);

/// Debian's own interpreter: another one, first on the PATH, does not see Debian's modules.
pub const PYTHON: &str = "/usr/bin/python3";

/// Whether somebody looks at the wire meanwhile.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    Watched,
    /// For traffic at full speed, with which no sniffer keeps up. The records still count.
    Unwatched,
}

pub struct Stage {
    lab: Lab,
    nodes: [Node; 2],
    plain: Pair,
    enrolled: Pair,
}

/// A client on one node and a server on the other.
pub struct Pair {
    pub client: Pod,
    pub server: Pod,
    pub is_enrolled: bool,
}

impl Stage {
    pub fn set() -> Stage {
        let lab = Lab::new().unwrap();
        let nodes = ["one", "two"].map(|name| lab.node(name).unwrap());
        let pair = |prefix: &str, is_enrolled| Pair {
            is_enrolled,
            client: nodes[0].pod(&format!("{prefix}client")).unwrap(),
            server: nodes[1].pod(&format!("{prefix}server")).unwrap(),
        };
        let (plain, enrolled) = (pair("plain-", false), pair("", true));
        Stage { lab, nodes, plain, enrolled }
    }

    /// A file of random bytes that both pairs can use.
    pub fn file(&self, name: &str, size: usize) -> PathBuf {
        let mut bytes = vec![0; size];
        rand::rng().fill_bytes(&mut bytes);
        let path = self.lab.directory().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// A directory that both pairs can use.
    pub fn directory(&self) -> &Path {
        self.lab.directory()
    }

    pub fn server_node(&self) -> &Node {
        &self.nodes[1]
    }

    /// Does the same thing in both worlds; the results must be equal, and so must the number of
    /// connections: the plain ones on the wire, and the ones in the agents' records.
    pub fn compare<T: Debug + PartialEq>(&self, wire: Wire, act: impl Fn(&Pair) -> T) {
        let (expected, plain) = self.observe(wire, &self.plain, &act);
        let plain = plain.map(|capture| judge_wire(&self.plain, &capture));
        let agents = self.start_agents();
        let (result, protected) = self.observe(wire, &self.enrolled, &act);
        assert_eq!(result, expected, "through Martlet, and without it");
        let connections = self.judge_records(&agents);
        if let (Some(plain), Some(protected)) = (plain, protected) {
            judge_wire(&self.enrolled, &protected);
            assert_eq!(connections, plain, "connections");
        }
    }

    fn observe<T>(
        &self,
        wire: Wire,
        pair: &Pair,
        act: impl Fn(&Pair) -> T,
    ) -> (T, Option<Capture>) {
        let sniffer = (wire == Wire::Watched)
            .then(|| Sniffer::start([self.lab.wire()], &Canaries::random(0)).unwrap());
        let result = act(pair);
        (result, sniffer.map(|sniffer| sniffer.stop().unwrap()))
    }

    fn start_agents(&self) -> Vec<Agent> {
        let mut mesh = Mesh::new(&self.lab, "software.test").unwrap();
        mesh.enroll(&self.enrolled.client, "shop", "client", "strict");
        mesh.enroll(&self.enrolled.server, "shop", "server", "strict");
        self.nodes.iter().map(|node| Agent::start(&mesh, node).unwrap()).collect()
    }

    /// Both agents tell of the same connections, all of them mTLS; gives their number.
    fn judge_records(&self, agents: &[Agent]) -> usize {
        let told = wait_for("both agents to tell of the same connections", PATIENCE, || {
            let [source, destination] =
                [by_id(&agents[0], "source"), by_id(&agents[1], "destination")];
            let is_complete = !source.is_empty() && source.keys().eq(destination.keys());
            Ok(is_complete.then_some([source, destination]))
        });
        let told = told.unwrap_or_else(|error| {
            panic!("{error:#}: {:#?}", agents.iter().map(Agent::records).collect::<Vec<_>>())
        });
        for record in told.iter().flat_map(BTreeMap::values) {
            assert_eq!(record["protection"], "mutual_tls", "{record}");
            assert_eq!(record["tls"]["version"], "TLSv1.3", "{record}");
            for (party, account) in [("source", "client"), ("destination", "server")] {
                let identity = format!("spiffe://software.test/ns/shop/sa/{account}");
                assert_eq!(record[party]["identity"], identity.as_str(), "{record}");
            }
            let closed = record["closed"].as_str().unwrap();
            let is_orderly = ["finished", "reset_by_caller", "reset_by_callee"].contains(&closed);
            assert!(is_orderly, "{record}");
        }
        told[0].len()
    }
}

impl Pair {
    /// The server's addresses, IPv4 first.
    pub fn servers(&self) -> [IpAddr; 2] {
        self.server.addresses()
    }

    /// Runs a program of the client's to its successful end, and gives its output.
    pub fn ask(&self, program: &str, arguments: &[&str]) -> String {
        let directory = self.client.directory().unwrap();
        let client = self.client.command(program).current_dir(directory);
        client.args(arguments).run().unwrap().success().unwrap()
    }
}

/// Waits until a server listens on a port, without connecting to it: that would be in the records.
pub fn wait_until_listening(server: &mut Running, pod: &Pod, port: u16) {
    let what = format!("a listener on port {port}");
    let look = |_: &str| pod.run(|| is_listening(port)).unwrap().then_some(());
    server.wait_for_stdout(&what, PATIENCE, look).unwrap();
}

/// Port and state are the second and the fourth column (proc_pid_net(5)).
fn is_listening(port: u16) -> bool {
    const LISTEN: &str = "0A";
    let port = format!(":{port:04X}");
    ["tcp", "tcp6"].iter().any(|table| {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{table}"));
        text.unwrap().lines().any(|line| {
            let mut columns = line.split_whitespace().skip(1);
            let is_port = columns.next().is_some_and(|local| local.ends_with(&port));
            is_port && columns.nth(1) == Some(LISTEN)
        })
    })
}

/// Runs a program that prepares something, outside all pods; its output, or all it said.
pub fn prepare(node: &Node, program: impl AsRef<Path>, arguments: &[&str]) -> String {
    node.command(program).args(arguments).run().unwrap().success().unwrap()
}

fn by_id(agent: &Agent, reporter: &str) -> BTreeMap<String, Value> {
    let records = agent.records().unwrap().into_iter();
    records
        .filter(|record| record["reporter"] == reporter)
        .map(|record| (record["id"].as_str().unwrap().to_owned(), record))
        .collect()
}

/// All of it was TLS, or none of it; gives the number of connections on the wire.
fn judge_wire(pair: &Pair, capture: &Capture) -> usize {
    let ends = |from: &Pod, to: &Pod| {
        let [from, to] = [from.addresses(), to.addresses()];
        move |source: SocketAddr, destination: SocketAddr| {
            from.contains(&source.ip()) && to.contains(&destination.ip())
        }
    };
    let (there, back) = (ends(&pair.client, &pair.server), ends(&pair.server, &pair.client));
    let mut connections = BTreeSet::new();
    let mut payload = 0;
    for flow in capture.flows() {
        let is_there = there(flow.source, flow.destination);
        if !is_there && !back(flow.source, flow.destination) {
            continue;
        }
        assert_eq!(flow.missing, 0, "{flow:?}");
        assert_eq!(flow.not_tls, if pair.is_enrolled { 0 } else { flow.payload }, "{flow:?}");
        payload += flow.payload;
        if is_there && flow.has_syn {
            connections.insert((flow.source, flow.destination));
        }
    }
    assert!(payload > 0, "the sniffer has seen nothing");
    connections.len()
}
