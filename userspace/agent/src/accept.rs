//! Takes what arrives at the agent's listeners in a pod, and hands it to the data plane.

use std::{future::Future, io, net::SocketAddr, sync::Arc};

use martlet_dataplane::{Dataplane, Dial, Dialing, Local};
use martlet_kernel::{Dialer, Listeners};
use martlet_model::Reporter;
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

/// How long a pod's listeners are served; they are closed with their tasks.
#[derive(Debug, Clone)]
pub struct Term {
    /// Cancelled when this agent may accept: until then a predecessor does.
    pub begun: CancellationToken,
    pub stop: CancellationToken,
}

impl Term {
    async fn serve(self, accepting: impl Future<Output = ()>) {
        let Self { begun, stop } = self;
        let serving = async {
            begun.cancelled().await;
            accepting.await;
        };
        stop.run_until_cancelled(serving).await;
    }
}

/// Serves a pod's listeners.
pub fn serve(
    tasks: &TaskTracker,
    listeners: Listeners,
    dialer: &Dialer,
    local: &Arc<Local>,
    dataplane: &Arc<Dataplane>,
    term: &Term,
) {
    for listener in listeners.outbound {
        let whose = (dataplane.clone(), local.clone());
        let (to_plane, to_local, dialer) = (dataplane.clone(), local.clone(), dialer.clone());
        let name = local.workload.name.clone();
        let take = move |stream: TcpStream, from| {
            let origin = dialer.origin(&stream);
            to_plane.outbound(to_local.clone(), stream, from, origin);
        };
        let in_turns = in_turns(local, Reporter::Source);
        let accepting = accept(listener, name.to_string(), take, in_turns);
        tasks.spawn(term.clone().serve(turns(whose, Reporter::Source, accepting)));
    }
    for listener in listeners.inbound {
        let whose = (dataplane.clone(), local.clone());
        let (to_plane, to_local) = (dataplane.clone(), local.clone());
        let name = local.workload.name.clone();
        let take = move |stream: TcpStream, from| match stream.local_addr() {
            Ok(to) => to_plane.inbound(to_local.clone(), stream, from, to),
            // The connection is gone already.
            Err(error) => tracing::debug!(%error, "an accepted connection has no address"),
        };
        let in_turns = in_turns(local, Reporter::Destination);
        let accepting = accept(listener, name.to_string(), take, in_turns);
        tasks.spawn(term.clone().serve(turns(whose, Reporter::Destination, accepting)));
    }
}

/// A pod that is flooded does not keep the threads busy with accepting.
async fn turns(
    (dataplane, local): (Arc<Dataplane>, Arc<Local>),
    reporter: Reporter,
    accepting: impl Future<Output = ()>,
) {
    dataplane.in_turns(&local, reporter, accepting).await;
}

fn in_turns(local: &Arc<Local>, reporter: Reporter) -> impl Fn() -> bool + use<> {
    let local = local.clone();
    move || Dataplane::takes_turns(&local, reporter)
}

/// A failure to accept is said once, until accepting works again.
async fn accept(
    listener: Arc<TcpListener>,
    workload: String,
    take: impl Fn(TcpStream, SocketAddr),
    in_turns: impl Fn() -> bool,
) {
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                if std::mem::take(&mut failing) {
                    info!(workload, "connections are accepted again");
                }
                take(stream, from);
                // One in each turn. To yield wakes another thread, which costs all that have time.
                if in_turns() {
                    tokio::task::yield_now().await;
                }
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
