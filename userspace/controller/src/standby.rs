//! Of several replicas in a cluster one is the controller; the others wait here.
//!
//! ```text
//!   follows the cluster, waits ──lease──▶ opens the authority, serves ──lease lost──▶ the process ends
//!                                                  │
//!                                                  └── told to stop: serves no more, then releases it
//! ```
//!
//! Until it serves, it can be asked whether it lives, and why it is not ready.
//!
//! Who has lost the lease does not wait for it again: the process ends, and all that it knew with it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use axum::{
    Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use martlet_kubernetes::lease::{Candidate, Holding, Lease};
use martlet_standalone::ControllerFile;
use martlet_telemetry::{bind_socket, bind_tcp, serve_pages_tcp, serve_pages_unix};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinHandle,
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{admin, cluster::Cluster, limits, metrics};

/// What a process is told from outside.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    pub fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("listening for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// To end.
    pub async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// To end; until then, to read files again.
    pub async fn stop_or(&mut self, mut reload: impl FnMut()) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => reload(),
            }
        }
    }
}

/// Holds the lease, as long as that can be said.
pub struct Lead {
    pub holding: Holding,
    keeping: JoinHandle<Candidate<Lease>>,
    /// The lease is needed no more.
    done: CancellationToken,
}

impl Lead {
    fn of(mut candidate: Candidate<Lease>) -> Self {
        let (holding, done) = (candidate.holding(), CancellationToken::new());
        let until = done.clone();
        let keeping = tokio::spawn(async move {
            until.run_until_cancelled(candidate.keep()).await;
            candidate
        });
        Self { holding, keeping, done }
    }

    /// Until it cannot be said any more.
    pub async fn lost(&mut self) {
        // That the task has failed means the same.
        let _ = (&mut self.keeping).await;
    }

    /// Lets another replica be the controller at once.
    pub async fn release(self) {
        self.done.cancel();
        if !self.keeping.is_finished()
            && let Ok(candidate) = self.keeping.await
        {
            candidate.release().await;
        }
    }
}

/// The pages of a replica that serves nothing else yet.
pub struct Shown {
    until: CancellationToken,
    tasks: TaskTracker,
}

impl Shown {
    /// Makes room for what takes their place.
    pub async fn end(self) {
        self.until.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Waits until this replica is the controller; `None`: it is to end.
///
/// `complete`: whether all that the cluster says is known.
pub async fn stand_by(
    cluster: &Cluster,
    file: &ControllerFile,
    complete: watch::Receiver<bool>,
    signals: &mut Signals,
) -> Result<Option<(Lead, Shown)>> {
    let mut candidate = Candidate::new(cluster.lease(), cluster.own_name.clone());
    let (until, tasks) = (CancellationToken::new(), TaskTracker::new());
    let (holder, leads) = (candidate.holder(), Arc::new(AtomicBool::new(false)));
    let desk = Desk { cluster: cluster.clone(), complete, holder, leads: leads.clone() };
    let everybody = public().with_state(desk.clone());
    let socket = bind_socket(&file.socket)?;
    let pages = public().fallback(elsewhere).with_state(desk);
    tasks.spawn(serve_pages_unix(socket, pages, until.clone()));
    if let Some(address) = file.metrics {
        tasks.spawn(serve_pages_tcp(bind_tcp(address)?, everybody, until.clone()));
    }
    let shown = Shown { until, tasks };
    info!(name = cluster.own_name, "standing by until the lease is free");
    let is_acquired = tokio::select! {
        () = candidate.acquire() => true,
        () = signals.stop() => false,
    };
    if !is_acquired {
        // It may have been written just now.
        candidate.release().await;
        shown.end().await;
        return Ok(None);
    }
    leads.store(true, Ordering::Release);
    Ok(Some((Lead::of(candidate), shown)))
}

/// Lets the Service lead here, again and again: somebody may have changed it. For ever.
pub async fn lead_here(cluster: Cluster, port: u16) {
    let mut failure = None;
    loop {
        let led = cluster.lead_here(port).await;
        let pause = if led.is_ok() { limits::LEAD_AGAIN } else { Duration::from_secs(1) };
        let now = led.err();
        if let Some(error) = now.as_ref().filter(|_| now != failure) {
            warn!(error, "the Service of the controller does not lead here");
        }
        failure = now;
        sleep(pause).await;
    }
}

/// What can be asked of a replica that waits, and of one that begins.
#[derive(Clone)]
struct Desk {
    cluster: Cluster,
    complete: watch::Receiver<bool>,
    holder: watch::Receiver<String>,
    leads: Arc<AtomicBool>,
}

impl Desk {
    fn leads(&self) -> bool {
        self.leads.load(Ordering::Acquire)
    }
}

fn public() -> Router<Desk> {
    Router::new()
        .route("/metrics", get(metrics_page))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
}

async fn metrics_page(State(desk): State<Desk>) -> Response {
    admin::openmetrics(metrics::standby_page(&desk.cluster))
}

/// Ready to take over; whoever has done so is ready again when it serves.
async fn ready(State(desk): State<Desk>) -> Response {
    let why = match (desk.leads(), *desk.complete.borrow()) {
        (false, true) => return "standing by\n".into_response(),
        (false, false) => "the cluster is not known yet\n",
        (true, false) => "this is the controller now, and the cluster is not known yet\n",
        (true, true) => "this is the controller now, and does not serve yet\n",
    };
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}

async fn elsewhere(State(desk): State<Desk>) -> Response {
    if desk.leads() {
        let why = "this replica is the controller now, and does not serve yet; ask again\n";
        return (StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    }
    let holder = desk.holder.borrow().clone();
    let who = if holder.is_empty() { "nobody yet".to_owned() } else { format!("pod {holder}") };
    let why = format!("this replica stands by; the controller is {who}\n");
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}
