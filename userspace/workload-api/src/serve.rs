//! One workload's socket: accepts, asks the kernel who it is, and serves.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures_util::{Stream, stream};
use tokio::{
    net::UnixListener,
    sync::{Semaphore, watch},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tracing::{error, warn};

use crate::{
    Admission, Material,
    caller::{Admitted, Connection},
    limits::{ACCEPT_PAUSE, CALLS, CONNECTIONS, HEADER_BYTES, PING_EVERY, PING_TIMEOUT},
    proto::spiffe_workload_api_server::SpiffeWorkloadApiServer,
    service::Service,
};

/// How often the API was used.
#[derive(Debug, Default)]
pub struct Counts {
    /// Calls that were answered.
    pub calls: AtomicU64,
    /// Calls of somebody else than the workload, or without the header.
    pub refused: AtomicU64,
}

/// Serves one workload.
pub struct WorkloadApi {
    pub listener: UnixListener,
    pub admission: Admission,
    /// `None` while there is no certificate, and when there is no identity any more.
    pub material: watch::Receiver<Option<Arc<Material>>>,
    pub counts: Arc<Counts>,
}

impl WorkloadApi {
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { listener, admission, material, counts } = self;
        let service = Service { material, counts, shutdown: shutdown.clone() };
        let service = SpiffeWorkloadApiServer::new(service);
        let served = Server::builder()
            .max_concurrent_streams(CALLS)
            .http2_max_header_list_size(HEADER_BYTES)
            .http2_keepalive_interval(Some(PING_EVERY))
            .http2_keepalive_timeout(Some(PING_TIMEOUT))
            .add_service(service)
            .serve_with_incoming_shutdown(callers(listener, admission), shutdown.cancelled_owned());
        if let Err(error) = served.await {
            error!(%error, "workload API ended");
        }
    }
}

/// Who calls, one after the other; whoever comes when there is no place waits for one.
fn callers(
    listener: UnixListener,
    admission: Admission,
) -> impl Stream<Item = Result<Connection, Infallible>> {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    stream::unfold((listener, admission, places), |(listener, admission, places)| async {
        let place = places.clone().acquire_owned().await.ok()?;
        let stream = loop {
            match listener.accept().await {
                Ok((stream, _)) => break stream,
                Err(error) => {
                    warn!(%error, "workload API accepts nobody");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        };
        let admitted = admission(&stream).unwrap_or_else(|error| {
            warn!(%error, "caller of the workload API not known");
            false
        });
        if !admitted {
            warn!("workload API called by somebody else than its workload");
        }
        let connection = Connection::new(stream, Admitted(admitted), place);
        Some((Ok(connection), (listener, admission, places)))
    })
}

impl Counts {
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}
