//! The built `martlet-controller`, its socket, and agents that follow it over loopback.

#![allow(clippy::unwrap_used)]

mod cluster;
mod federation;
mod hosts;
mod nodes;
mod process;
mod rotation;
mod server;
mod silence;
