//! Takes what arrives at the agent's listeners in a pod, and hands it to the data plane.

use std::{future::Future, io, net::SocketAddr, sync::Arc};

use martlet_dataplane::{Dataplane, Dial, Dialing, Local};
use martlet_kernel::{Dialer, Listeners};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::limits::ACCEPT_PAUSE;

/// Dials from inside a pod.
pub struct Inside(pub Dialer);

impl Dial for Inside {
    fn dial(&self, to: SocketAddr, shown_as: Option<SocketAddr>) -> Dialing<'_> {
        Box::pin(self.0.connect(to, shown_as))
    }
}

/// Serves a pod's listeners until `stop`; they are closed with their tasks.
pub fn serve(
    tasks: &TaskTracker,
    listeners: Listeners,
    dialer: &Dialer,
    local: &Arc<Local>,
    dataplane: &Arc<Dataplane>,
    stop: &CancellationToken,
) {
    for listener in listeners.outbound {
        let (dataplane, local, dialer) = (dataplane.clone(), local.clone(), dialer.clone());
        let name = local.workload.name.clone();
        let take = move |stream: TcpStream, from| {
            let origin = dialer.origin(&stream);
            dataplane.outbound(local.clone(), stream, from, origin);
        };
        tasks.spawn(until(stop.clone(), accept(listener, name.to_string(), take)));
    }
    for listener in listeners.inbound {
        let (dataplane, local) = (dataplane.clone(), local.clone());
        let name = local.workload.name.clone();
        let take = move |stream: TcpStream, from| match stream.local_addr() {
            Ok(to) => dataplane.inbound(local.clone(), stream, from, to),
            // The connection is gone already.
            Err(error) => tracing::debug!(%error, "an accepted connection has no address"),
        };
        tasks.spawn(until(stop.clone(), accept(listener, name.to_string(), take)));
    }
}

async fn until(stop: CancellationToken, accepting: impl Future<Output = ()>) {
    stop.run_until_cancelled(accepting).await;
}

/// A failure to accept is said once, until accepting works again.
async fn accept(listener: TcpListener, workload: String, take: impl Fn(TcpStream, SocketAddr)) {
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                if std::mem::take(&mut failing) {
                    info!(workload, "connections are accepted again");
                }
                take(stream, from);
            }
            Err(error) if is_the_peers(&error) => {}
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    warn!(workload, %error, "connections are not accepted");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The connection ended while it waited to be accepted.
fn is_the_peers(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}
