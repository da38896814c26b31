//! A chained plugin of the container network (CNI). It makes no interface: it asks the agent of its
//! node whether a pod may have one now, tells it who the pod is and where, and says no for it while it
//! is not there.
//!
//! ```text
//!   runtime ─▶ bridge, ptp, … ─▶ martlet-cni ── cni.sock ──▶ martlet-agent
//!                                     │
//!                                     └── no, and why ─▶ kubelet says it in an Event, and tries again
//! ```
//!
//! Read in this order: what is asked ([`message`]), what a runtime says ([`invocation`]), what becomes
//! of that ([`plugin`]), how the agent is reached ([`agent`]), which networks the plugin is in
//! ([`network`]), and how it gets there ([`files`]).
//!
//! The program runs on the node itself, beside whatever C library that has, so it is linked statically;
//! and once for each pod, so it is small.

#![forbid(unsafe_code)]

pub mod agent;
pub mod files;
pub mod invocation;
pub mod limits;
pub mod message;
pub mod network;
pub mod plugin;
