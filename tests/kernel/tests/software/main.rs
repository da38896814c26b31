//! Real software, as Debian ships it, through Martlet: what a plain run can do, a run through
//! Martlet must do, with the same results, and with nothing but TLS on the wire.
//!
//! Every test does the same thing twice: [`stage::Stage::compare`] runs it between two pods that
//! are not enrolled, and then between two that are.

#![allow(clippy::unwrap_used)]

mod iperf;
mod mariadb;
mod netcat;
mod nginx;
mod openssh;
mod postgres;
mod redis;
mod stage;
mod websocket;
