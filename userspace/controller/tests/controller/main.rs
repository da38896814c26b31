//! The built `martlet-controller`, its socket, and agents that follow it over loopback.

#![allow(clippy::unwrap_used)]

mod federation;
mod hosts;
mod nodes;
mod process;
mod rotation;
