//! Several nodes on one machine: a wire, nodes, pods, programs in them, and a sniffer that sees it all.
//!
//! ```text
//!   lab ── wire (bridge) ─┬─ node "one" ─┬─ pod "web-0"     every box is a network namespace;
//!                         │              └─ pod "web-1"     every node and pod has a cgroup, too
//!                         └─ node "two" ─── pod "cart-0"
//! ```
//!
//! Nodes route, so packets on the wire carry the pods' own addresses.
//! Nothing of the product is linked here: what the lab says about it comes from outside.

mod agent;
mod canary;
mod cgroup;
mod claims;
mod clock;
mod cluster;
mod controller;
mod evidence;
mod http;
mod ip;
mod lab;
mod limits;
mod load;
mod mesh;
mod netns;
mod node;
mod patrol;
pub mod pinned;
mod pod;
mod program;
mod resources;
mod server;
mod site;
mod sniffer;
mod stage;
mod wait;
mod yaml;

pub use agent::{AGENT_CAPABILITIES, Agent};
pub use canary::Canaries;
pub use claims::{assert_exchanged, assert_refused, assert_reset, saw_reset};
pub use clock::Clock;
pub use cluster::Cluster;
pub use controller::Controller;
pub use evidence::evidence;
pub use http::Response;
pub use lab::Lab;
pub use limits::patience;
pub use load::{Done, Load};
pub use mesh::Mesh;
pub use netns::Netns;
pub use node::Node;
pub use patrol::{Outcome, Patrol};
pub use pod::Pod;
pub use program::{Finished, Program, Running, find_binary};
pub use resources::Resources;
pub use server::{Server, address};
pub use sniffer::{Capture, Flow, Sniffer};
pub use stage::{PORT, SERVICE_PORT, Stage, Way};
pub use wait::wait_for;

/// Whether the tests were asked to take their time: `cargo xtask test --long`.
pub fn is_long() -> bool {
    std::env::var_os("MARTLET_LONG").is_some_and(|value| value == "1")
}
