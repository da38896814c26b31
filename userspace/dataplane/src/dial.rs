//! Dialling from inside a workload's network.

use std::{future::Future, io, net::SocketAddr, pin::Pin};

use tokio::net::TcpStream;

/// A connection in the making.
pub type Dialing<'a> = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send + 'a>>;

/// Implemented by a pod's network namespace, and by the network that a process is in.
pub trait Dial: Send + Sync + 'static {
    /// `shown_as` is whom the application that accepts shall see as its peer.
    fn dial(&self, to: SocketAddr, shown_as: Option<SocketAddr>) -> Dialing<'_>;
}
