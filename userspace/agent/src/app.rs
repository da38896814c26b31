//! The agent's components, started from top to bottom and stopped in reverse.

mod entrances;
mod signals;
mod steering;
mod succession;
pub mod traces;

use std::{io::IsTerminal as _, path::PathBuf, pin::pin, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use arc_swap::ArcSwap;
use martlet_control::{Client, ClientSettings, Proof};
use martlet_dataplane::{Dataplane, View};
use martlet_kernel::{Confinement, Feature, KernelLog, Pair, Settings, missing_features};
use martlet_model::Label;
use martlet_standalone::{AccessLog, Controller, Joins, NodeFile, Source};
use martlet_telemetry::{Admin, Format, Metrics, Outcome, RecordOutput, RecordWriter, queue};
use sd_notify::NotifyState;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

use self::{
    entrances::Entrances,
    signals::Signals,
    steering::{Following, Steering},
    succession::{Over, Place, prepare, take_over, watch},
};
use crate::{
    arrivals::Arrivals,
    configuration::{Loaded, Reloader},
    deserted,
    issuer::Issuer,
    limits::{DRAIN_TIMEOUT, LAST_DRAIN_TIMEOUT, STARTED},
    reports::{Answers, InUse, Shared},
    takeover::{Claim, Way, find},
    told::Told,
    workloads::{Parts, Workloads, addresses, chain},
};

/// What the command line says beside the node file.
pub struct Options {
    pub path: PathBuf,
    /// Who this node is, if not the file says it.
    pub node: Option<Label>,
    pub without: Vec<Feature>,
    /// What starts this agent again when it has ended, if that has a name.
    pub instance: Option<String>,
    pub leaf_lifetime: Option<Duration>,
    pub verbose_kernel: bool,
    /// How many files this process may have open.
    pub open_files: u64,
    pub confinement: Confinement,
    /// What an agent has left that could not hand over.
    pub way: Option<Way>,
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

/// Runs until SIGTERM or SIGINT, and then until what is open has ended; or until another agent has
/// taken over, and what was open then has ended.
pub async fn run(options: Options, loaded: Loaded) -> Result<()> {
    let mut signals = Signals::new()?;
    let file = &loaded.file;
    let settings = &file.settings;

    // Saying: spans, records, metrics, admin. Last to stop; and spans are made of the last records.
    let sending = Stage::new();
    let saying = Stage::new();
    let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION")));
    let (output, format) = record_output(&settings.access_log);
    let mut writer = RecordWriter::open(&output, format, metrics.clone())?;
    let traced = traces::traces(file)?.map(|(spans, exporter)| {
        sending.tasks.spawn(exporter.run(sending.shutdown.clone()));
        (spans.counts(), spans)
    });
    let (counts, spans) = traced.unzip();
    if let Some(spans) = spans {
        writer = writer.telling(Box::new(move |record, ended| spans.offer(record, ended)));
    }
    let recent = writer.recent();
    let (records, queued) = queue();
    saying.tasks.spawn(writer.run(queued, signals.reopen.clone(), saying.shutdown.clone()));

    // Knowing: whom to trust, where everybody is.
    let issuer = Arc::new(issuer(file, options.leaf_lifetime)?);
    let mut following = Following::of(issuer.client());
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
    if let Some(counts) = counts {
        let _ = shared.spans.set(counts);
    }
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
    let claim = Claim::of(file, options.instance.clone());
    let arrivals = Arc::new(Arrivals::default());
    let heard = (arrivals.clone(), shared.clone());
    let mut entrances = Entrances::new(admin, settings, claim.clone(), heard);
    entrances.open_beside_another()?;
    let door = settings.places().takeover_socket();
    let predecessor = tokio::select! {
        found = find(&door, &claim) => found?,
        () = signals.until_asked_to_stop() => return Ok(()),
    };
    let (hold, before) = options.way.map(|way| (way.hold, way.before)).unzip();
    if predecessor.is_none() {
        entrances.open(before.flatten())?;
    }
    if predecessor.is_none() || !told.is_told() {
        // Otherwise the predecessor follows still.
        following.begin();
    }

    // Steering: the kernel, then the workloads. First to stop.
    let beside = Stage::new();
    let (to_workloads, files) = mpsc::channel(1);
    let reloader = Reloader::new(
        options.path,
        options.node,
        shared.clone(),
        metrics.clone(),
        to_workloads,
        signals.reload.clone(),
    );
    let mut place = Place {
        steering: None,
        following,
        entrances,
        metrics: metrics.clone(),
        shared: shared.clone(),
        dataplane: dataplane.clone(),
    };
    let over = match can_steer {
        // Until then what an earlier agent has left in the kernel stays as it is.
        true => place.until_told(&mut told, &mut signals).await,
        false => {
            missing.iter().for_each(|missing| error!("{missing}"));
            let unable = "another agent lives on this node, and this one could not do its work";
            ensure!(predecessor.is_none(), unable);
            None
        }
    };
    if can_steer && over.is_none() {
        let complete = Arc::new(told.complete(&loaded.file));
        shared.set_configuration(loaded.digest.clone(), complete.clone());
        let (prepared, estate, mut taking) = prepare(&kernel, predecessor, hold).await?;
        if let Some(taking) = &mut taking {
            arrivals.inherit(std::mem::take(&mut taking.received.arrivals));
            dataplane.keep_stayings(std::mem::take(&mut taking.received.stayings));
        }
        place.following.begin();
        let mut node = prepared
            .attach(estate, addresses(&complete.directory))
            .context("attaching the kernel programs")?;
        if let Some(log) = node.take_log() {
            saying.tasks.spawn(kernel_log(log, saying.shutdown.clone()));
        }
        let desertions = node.take_desertions()?;
        let node = Arc::new(node);
        if let Some(desertions) = desertions {
            let (node, plane, stop) = (node.clone(), dataplane.clone(), beside.shutdown.clone());
            beside.tasks.spawn(deserted::run(desertions, node, plane, stop));
        }
        let _ = shared.node.set(node.clone());
        let (kept, metrics, arrivals) = (node.clone(), metrics.clone(), arrivals.clone());
        let plane = dataplane.clone();
        let parts = Parts { node, dataplane: plane, view, issuer, metrics, arrivals };
        let mut workloads = Workloads::new(parts, shared.clone(), told, loaded, files);
        if taking.is_none() {
            workloads.serve();
        }
        workloads.begin()?;
        if let Some(taking) = taking {
            workloads.settle().await;
            let drains = take_over(taking, &mut workloads, &mut place.entrances).await?;
            kept.close_unclaimed();
            place.metrics.takeover(Outcome::Success);
            saying.tasks.spawn(watch(drains, shared.clone(), saying.shutdown.clone()));
        }
        beside.tasks.spawn(reloader.run(beside.shutdown.clone()));
        place.steering = Some(Steering::start(workloads, shared.clone()));
    }
    let over = match over {
        Some(over) => over,
        None => {
            tell_systemd(&[NotifyState::Ready]);
            match shared.not_ready().as_slice() {
                [] => info!(node = %shared.name, "ready"),
                reasons => {
                    warn!(node = %shared.name, reasons = reasons.join("; "), "not ready yet");
                }
            }
            saying.tasks.spawn(saying.shutdown.clone().run_until_cancelled_owned(give_back_code()));
            place.until_over(&mut signals).await
        }
    };
    let (over, is_told) = match over {
        Over::Told => (stop_serving(&mut place, &dataplane, &mut signals).await, true),
        handed => (handed, false),
    };
    match over {
        Over::Handed(handed) => {
            handed.carry(&dataplane, &mut signals, options.instance.as_deref(), is_told).await;
        }
        Over::Told => {}
    }
    beside.stop().await;
    place.following.end().await;
    place.entrances.close().await;
    saying.stop().await;
    sending.stop().await;
    Ok(())
}

/// The next agent comes when this one is gone, if it does not take over before, so whatever is refused
/// before then is refused for longer.
async fn stop_serving(place: &mut Place, dataplane: &Dataplane, signals: &mut Signals) -> Over {
    info!(patience = ?DRAIN_TIMEOUT, "stopping when what is open has ended");
    tell_systemd(&[NotifyState::Stopping]);
    let mut older = pin!(tokio::time::timeout(DRAIN_TIMEOUT, dataplane.older_end()));
    let patience = loop {
        tokio::select! {
            _ = &mut older => break LAST_DRAIN_TIMEOUT,
            () = signals.until_asked_to_stop() => break Duration::ZERO,
            successor = place.entrances.successor() => {
                if let Some(handed) = place.hand_over(successor).await {
                    return Over::Handed(handed);
                }
            }
        }
    };
    info!("nothing more is taken until an agent is back");
    if let Some(steering) = place.steering.take() {
        steering.halt().await.workloads.end().await;
    }
    tokio::select! {
        () = dataplane.shutdown(patience) => {}
        () = signals.until_asked_to_stop() => dataplane.shutdown(Duration::ZERO).await,
    }
    Over::Told
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
