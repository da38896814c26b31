//! The admin endpoints: what the agent says about itself, and to whom.
//!
//! | where | who | what |
//! |---|---|---|
//! | a TCP address, loopback by default | Prometheus, a kubelet | `/metrics`, `/healthz`, `/readyz` |
//! | a Unix socket, mode 0600 | root, through `martlet` | `/status`, `/workloads`, `/connections`, `/certificates`, `/coverage`, `/check`, `/records` |
//!
//! Everything is read by `GET`; nothing can be changed here. Both listeners are bound by the
//! calling thread and so in its network namespace, the host's.

mod bind;
mod pages;
mod serve;

use std::sync::Arc;

use axum::Router;
use martlet_model::{
    coverage::Coverage,
    report::{Certificates, CheckReport, Connections, Status, Workloads},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{Metrics, Recent, Totals, limits};
pub use bind::{
    AdminError, AdminSocket, FileStays, bind_socket, bind_tcp, inherit_socket, replace_socket,
};

/// What the agent knows of itself. May block for as long as some system calls take.
pub trait Reports: Send + Sync + 'static {
    fn status(&self) -> Status;
    fn workloads(&self) -> Workloads;
    fn connections(&self) -> Connections;
    fn certificates(&self) -> Certificates;
    fn check(&self) -> CheckReport;
    fn coverage(&self) -> Coverage;
    fn totals(&self) -> Totals;
}

/// Everything that can be asked for.
#[derive(Clone)]
pub struct Admin {
    pub reports: Arc<dyn Reports>,
    pub metrics: Arc<Metrics>,
    pub recent: Recent,
}

impl Admin {
    /// Serves metrics and health until `shutdown`.
    pub async fn serve_tcp(self, listener: TcpListener, shutdown: CancellationToken) {
        let pages = pages::public(self);
        let lifetime = Some(limits::ADMIN_TCP_CONNECTION);
        serve::serve(listener, serve::for_reading(pages), lifetime, shutdown).await;
    }

    /// Serves the reports until `shutdown`, and removes the socket.
    pub async fn serve_unix(self, socket: AdminSocket, shutdown: CancellationToken) {
        let pages = pages::private(self, shutdown.clone());
        let (listener, _removed_at_the_end) = socket.into_parts();
        // No lifetime: a person may follow the records for as long as they like.
        serve::serve(listener, serve::for_reading(pages), None, shutdown).await;
    }
}

/// Serves the pages of another process of Martlet's, which may change something, to root alone; until
/// `shutdown`, and removes the socket.
pub async fn serve_pages_unix(socket: AdminSocket, pages: Router, shutdown: CancellationToken) {
    let (listener, _removed_at_the_end) = socket.into_parts();
    serve::serve(listener, pages, None, shutdown).await;
}

/// Serves the pages of another process of Martlet's to whoever connects: for reading only.
pub async fn serve_pages_tcp(listener: TcpListener, pages: Router, shutdown: CancellationToken) {
    let lifetime = Some(limits::ADMIN_TCP_CONNECTION);
    serve::serve(listener, serve::for_reading(pages), lifetime, shutdown).await;
}

#[cfg(test)]
mod tests;
