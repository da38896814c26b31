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
mod http;
mod ip;
mod lab;
mod limits;
mod mesh;
mod netns;
mod node;
mod pod;
mod program;
mod site;
mod sniffer;
mod wait;
mod yaml;

pub use agent::Agent;
pub use canary::Canaries;
pub use http::Response;
pub use lab::Lab;
pub use mesh::Mesh;
pub use netns::Netns;
pub use node::Node;
pub use pod::Pod;
pub use program::{Finished, Program, Running, find_binary};
pub use sniffer::{Capture, Flow, Sniffer};
pub use wait::wait_for;
