//! Serving a listener: so many connections at once, each with deadlines.

use std::{future::pending, io, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::Request,
    http::{Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use crate::limits;

/// The two kinds of listener.
pub(super) trait Listen {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    async fn next(&self) -> io::Result<Self::Stream>;
}

impl Listen for TcpListener {
    type Stream = tokio::net::TcpStream;
    async fn next(&self) -> io::Result<Self::Stream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Listen for UnixListener {
    type Stream = tokio::net::UnixStream;
    async fn next(&self) -> io::Result<Self::Stream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

/// Serves until `shutdown`, then lets answers under way end.
pub(super) async fn serve<L: Listen>(
    listener: L,
    pages: Router,
    lifetime: Option<Duration>,
    shutdown: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(limits::ADMIN_CONNECTIONS));
    let connections = TaskTracker::new();
    let mut failing = false;
    loop {
        let (stream, place) = tokio::select! {
            accepted = accept(&listener, &places, &mut failing) => accepted,
            () = shutdown.cancelled() => break,
        };
        let connection = connection(stream, pages.clone(), shutdown.clone());
        connections.spawn(bounded(connection, lifetime, place));
    }
    connections.close();
    if tokio::time::timeout(limits::ADMIN_DRAIN, connections.wait()).await.is_err() {
        debug!("admin connections were cut off");
    }
}

/// Nothing can be changed by these.
pub(super) fn for_reading(pages: Router) -> Router {
    pages.layer(middleware::from_fn(only_reading))
}

/// A failure to accept is said once, until accepting works again.
async fn accept<L: Listen>(
    listener: &L,
    places: &Arc<Semaphore>,
    failing: &mut bool,
) -> (L::Stream, OwnedSemaphorePermit) {
    loop {
        // Nobody closes this semaphore.
        let Ok(place) = places.clone().acquire_owned().await else { return pending().await };
        match listener.next().await {
            Ok(stream) => {
                *failing = false;
                return (stream, place);
            }
            Err(error) => {
                if !std::mem::replace(failing, true) {
                    warn!(%error, "admin connection not accepted");
                }
                tokio::time::sleep(limits::ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn bounded(
    connection: impl Future<Output = ()>,
    lifetime: Option<Duration>,
    _place: OwnedSemaphorePermit,
) {
    match lifetime {
        // A client that reads slower than this is let go.
        Some(lifetime) => drop(tokio::time::timeout(lifetime, connection).await),
        None => connection.await,
    }
}

async fn connection<S>(stream: S, pages: Router, shutdown: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::ADMIN_HEADER)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(pages));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(limits::ADMIN_DRAIN, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        debug!(%error, "admin connection failed");
    }
}

/// Refuses whatever might change something, on every path.
async fn only_reading(request: Request, next: Next) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    let allow = [(header::ALLOW, "GET, HEAD")];
    (StatusCode::METHOD_NOT_ALLOWED, allow, "nothing can be changed here\n").into_response()
}
