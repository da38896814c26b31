//! What controllers and agents say to each other, by gRPC over streams that are secured by
//! `martlet_identity`.
//!
//! Read in this order: what is declared ([`Declared`]), and an agent's end ([`Client`]).

#![forbid(unsafe_code)]

mod client;
mod declared;
pub mod limits;

pub use client::{Ask, Client, ClientError, ClientSettings, IssueError, Link};
pub use declared::{Acknowledgement, Declaration, Declared, Usage};

#[allow(dead_code, reason = "a snapshot is not sent")]
mod proto {
    tonic::include_proto!("martlet.control.v1alpha1");
}
