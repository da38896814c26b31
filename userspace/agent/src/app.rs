//! The agent's components, started from top to bottom and stopped in reverse.

use std::{io::IsTerminal as _, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use martlet_control::{Client, ClientSettings, Proof};
use martlet_dataplane::{Dataplane, View};
use martlet_kernel::{Confinement, Feature, KernelLog, Node, Pair, Settings, missing_features};
use martlet_model::Label;
use martlet_standalone::{AccessLog, Controller, Joins, NodeFile, Source};
use martlet_telemetry::{
    Admin, Format, Metrics, RecordOutput, RecordWriter, bind_socket, bind_tcp, queue,
};
use sd_notify::NotifyState;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{Notify, mpsc},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

use crate::{
    arrivals::{self, Arrivals},
    configuration::{Loaded, Reloader},
    coverage, deserted,
    issuer::Issuer,
    limits::{DRAIN_TIMEOUT, LAST_DRAIN_TIMEOUT, STARTED},
    reports::{Answers, InUse, Shared},
    told::Told,
    workloads::{Parts, Workloads, addresses, chain},
};

/// What the command line says beside the node file.
pub struct Options {
    pub path: PathBuf,
    /// Who this node is, if not the file says it.
    pub node: Option<Label>,
    pub without: Vec<Feature>,
    pub leaf_lifetime: Option<Duration>,
    pub verbose_kernel: bool,
    /// How many files this process may have open.
    pub open_files: u64,
    pub confinement: Confinement,
}

/// A group of components that end together.
struct Stage {
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl Stage {
    fn new() -> Self {
        Self { shutdown: CancellationToken::new(), tasks: TaskTracker::new() }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Runs until SIGTERM or SIGINT, and then until what is open has ended.
pub async fn run(options: Options, loaded: Loaded) -> Result<()> {
    let mut signals = Signals::new()?;
    let file = &loaded.file;
    let settings = &file.settings;

    // Saying: records, metrics, admin. Last to stop.
    let saying = Stage::new();
    let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION")));
    let (output, format) = record_output(&settings.access_log);
    let writer = RecordWriter::open(&output, format, metrics.clone())?;
    let recent = writer.recent();
    let (records, queued) = queue();
    let reopen = Arc::new(Notify::new());
    saying.tasks.spawn(writer.run(queued, reopen.clone(), saying.shutdown.clone()));

    // Knowing: whom to trust, where everybody is.
    let knowing = Stage::new();
    let issuer = Arc::new(issuer(file, options.leaf_lifetime)?);
    if let Some(client) = issuer.client().cloned() {
        knowing.tasks.spawn(client.run(knowing.shutdown.clone()));
    }
    let mut told = Told::new(issuer.client());
    let view = Arc::new(ArcSwap::from_pointee(View::default()));
    let dataplane = Dataplane::within(view.clone(), records, options.open_files);
    let kernel = Settings {
        cgroup: settings.cgroup.clone().map_or_else(martlet_kernel::cgroup_root, Ok)?,
        pin: settings.pin.clone(),
        notes: settings.state.join("sysctl"),
        host: settings.host_netns.clone().unwrap_or_else(own_netns),
        without: options.without,
        ledger_room: Pair::ROOM,
        verbose: options.verbose_kernel,
    };
    let missing = missing_features(&kernel);
    let in_use =
        InUse { file: Arc::new(loaded.file.clone()), digest: loaded.digest.clone(), error: None };
    let shared = Arc::new(Shared::new(
        in_use,
        missing.clone(),
        issuer.clone(),
        dataplane.clone(),
        view.clone(),
    ));
    let can_steer = missing.is_empty() && options.confinement.missing.is_empty();
    for reason in &options.confinement.missing {
        error!("{reason}");
    }
    for shortfall in options.confinement.shortfalls() {
        warn!(shortfall, "the agent is less confined than it could be");
    }
    let _ = shared.confinement.set(options.confinement);
    let admin =
        Admin { reports: Arc::new(Answers(shared.clone())), metrics: metrics.clone(), recent };
    let socket = bind_socket(&settings.socket)?;
    saying.tasks.spawn(admin.clone().serve_unix(socket, saying.shutdown.clone()));
    if let Some(address) = settings.metrics {
        let listener = bind_tcp(address)?;
        saying.tasks.spawn(admin.serve_tcp(listener, saying.shutdown.clone()));
    }

    let arrivals = Arc::new(Arrivals::default());
    let socket = settings.socket.with_file_name(martlet_cni::message::SOCKET);
    match bind_socket(&socket) {
        Ok(socket) => {
            let (arrivals, shared) = (arrivals.clone(), shared.clone());
            saying.tasks.spawn(arrivals::serve(arrivals, socket, shared, saying.shutdown.clone()));
        }
        // Only where that plugin is used is anything missing, and there nothing is open for it.
        Err(error) => warn!(error = chain(&error), "no plugin of the container network is heard"),
    }

    // Steering: the kernel, then the workloads. First to stop.
    let steering = Stage::new();
    let (to_workloads, files) = mpsc::channel(1);
    let reloader =
        Reloader::new(options.path, options.node, shared.clone(), metrics.clone(), to_workloads);
    let asked = reloader.asked.clone();
    let mut is_told = false;
    if can_steer {
        // Until then what an earlier agent has left in the kernel stays as it is.
        is_told = tokio::select! {
            () = told.first() => true,
            () = signals.until_asked_to_stop(&asked, &reopen) => false,
        };
    }
    if is_told {
        let complete = Arc::new(told.complete(&loaded.file));
        shared.set_configuration(loaded.digest.clone(), complete.clone());
        let mut node = Node::start_among(&kernel, addresses(&complete.directory))
            .context("attaching the kernel programs")?;
        if let Some(log) = node.take_log() {
            saying.tasks.spawn(kernel_log(log, saying.shutdown.clone()));
        }
        let desertions = node.take_desertions()?;
        let node = Arc::new(node);
        if let Some(desertions) = desertions {
            let (node, plane, stop) = (node.clone(), dataplane.clone(), steering.shutdown.clone());
            steering.tasks.spawn(deserted::run(desertions, node, plane, stop));
        }
        let _ = shared.node.set(node.clone());
        let (dataplane, arrivals) = (dataplane.clone(), arrivals.clone());
        let parts = Parts { node, dataplane, view, issuer, metrics, arrivals };
        let mut workloads = Workloads::new(parts, shared.clone(), told, loaded);
        workloads.begin()?;
        steering.tasks.spawn(workloads.run(files, steering.shutdown.clone()));
        steering.tasks.spawn(reloader.run(steering.shutdown.clone()));
        steering.tasks.spawn(coverage::run(shared.clone(), steering.shutdown.clone()));
    } else if !can_steer {
        for missing in &missing {
            error!("{missing}");
        }
    }
    if is_told || !can_steer {
        tell_systemd(&[NotifyState::Ready]);
        match shared.not_ready().as_slice() {
            [] => info!(node = %shared.name, "ready"),
            reasons => warn!(node = %shared.name, reasons = reasons.join("; "), "not ready yet"),
        }
        saying.tasks.spawn(saying.shutdown.clone().run_until_cancelled_owned(give_back_code()));
        signals.until_asked_to_stop(&asked, &reopen).await;
    }

    info!(patience = ?DRAIN_TIMEOUT, "stopping when what is open has ended");
    tell_systemd(&[NotifyState::Stopping]);
    // The next agent comes when this one is gone, so whatever is refused before then is refused for
    // longer.
    let older = tokio::time::timeout(DRAIN_TIMEOUT, dataplane.older_end());
    let patience = tokio::select! {
        _ = older => LAST_DRAIN_TIMEOUT,
        () = signals.until_asked_to_stop(&asked, &reopen) => Duration::ZERO,
    };
    info!("nothing more is taken until an agent is back");
    arrivals.stop();
    steering.stop().await;
    tokio::select! {
        () = dataplane.shutdown(patience) => {}
        () = signals.until_asked_to_stop(&asked, &reopen) => dataplane.shutdown(Duration::ZERO).await,
    }
    knowing.stop().await;
    saying.stop().await;
    Ok(())
}

/// Who issues certificates, by what the node file says.
fn issuer(file: &NodeFile, leaf_lifetime: Option<Duration>) -> Result<Issuer> {
    match &file.source {
        Source::Authority(directory) => Issuer::open(directory, &file.trust_domain, leaf_lifetime),
        Source::Controller(controller) => {
            let client = Client::open(ClientSettings {
                trust_domain: file.trust_domain.clone(),
                node: file.settings.name.clone(),
                controller: controller.address.clone(),
                proof: proof(controller),
                state: file.settings.state.clone(),
                agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            });
            Issuer::controller(client.context("reading what is kept of the controller")?)
        }
    }
}

pub fn own_netns() -> PathBuf {
    PathBuf::from("/proc/self/ns/net")
}

fn proof(controller: &Controller) -> Proof {
    match &controller.joins {
        Joins::Token(path) => Proof::Token(path.clone()),
        Joins::ServiceAccount { token, roots } => {
            Proof::Account { token: token.clone(), roots: roots.clone() }
        }
        Joins::Host { certificate, key, roots } => {
            Proof::Host { certificate: certificate.clone(), key: key.clone(), roots: roots.clone() }
        }
    }
}

/// Lines for people on a terminal, for programs everywhere else.
fn record_output(log: &AccessLog) -> (RecordOutput, Format) {
    match log {
        AccessLog::Off => (RecordOutput::Off, Format::Json),
        AccessLog::File(path) => (RecordOutput::File(path.clone()), Format::Json),
        AccessLog::Stdout if std::io::stdout().is_terminal() => {
            (RecordOutput::Stdout, Format::Text)
        }
        AccessLog::Stdout => (RecordOutput::Stdout, Format::Json),
    }
}

/// Memory of the start, once that is over.
async fn give_back_code() {
    tokio::time::sleep(STARTED).await;
    if let Err(error) = martlet_kernel::give_back_code() {
        tracing::debug!(%error, "the code's pages were not given back");
    }
}

/// The lines of the kernel programs, when they are asked to write any.
async fn kernel_log(log: KernelLog, shutdown: CancellationToken) {
    if let Some(Err(error)) = shutdown.run_until_cancelled(log.run()).await {
        warn!(error = chain(&error), "the kernel programs' log cannot be read");
    }
}

/// Outside of systemd there is nobody to tell.
fn tell_systemd(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "systemd was not told");
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("listening for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// SIGHUP reads the node file again, and opens the access log again.
    async fn until_asked_to_stop(&mut self, reload: &Notify, reopen: &Notify) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => {
                    reload.notify_one();
                    reopen.notify_one();
                }
            }
        }
    }
}
