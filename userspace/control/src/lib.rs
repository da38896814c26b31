//! What controllers and agents say to each other, by gRPC over streams that are secured by
//! `martlet_identity`.
//!
//! Read in this order: what is declared ([`Declared`]), a controller's end ([`Server`]), an agent's
//! end ([`Client`]), and the token by which a node joins ([`JoinToken`]).

#![forbid(unsafe_code)]

mod client;
mod declared;
pub mod limits;
mod message;
mod server;
mod table;
mod telling;
#[cfg(test)]
mod tests;
mod token;

pub use client::{
    Ask, Client, ClientError, ClientSettings, IssueError, KEPT_FILES, Link, LinkError, Proof,
    StateError, TokenFileError,
};
pub use declared::{
    Acknowledgement, Arrival, Declaration, Declared, Inventory, Standing, Stands, Usage,
};
pub use message::{Malformed, bundle_digest};
pub use server::{AgentState, Joined, Joining, JoiningBy, NodeCaller, Office, Refusal, Server};
pub use table::{Inconsistent, Refused};
pub use token::{AccountToken, JoinToken, Secret, TokenError};

mod proto {
    tonic::include_proto!("martlet.control.v1alpha1");
}

use telling::Telling;

/// For tests of what is not said to anybody outside of this crate.
#[cfg(test)]
use client::keep_membership as client_state;
#[cfg(test)]
use server::new_world as server_world;
