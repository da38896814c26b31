//! The controller's components, started from top to bottom and stopped in reverse.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::SystemTime,
};

use anyhow::{Context as _, Result, anyhow};
use arc_swap::ArcSwap;
use martlet_authority::Registrar;
use martlet_control::Server;
use martlet_identity::{Credentials, TrustBundle};
use martlet_kubernetes::lease::Holding;
use martlet_model::{Part, Trust};
use martlet_standalone::{ControllerFile, DirectoryFile, Knows};
use martlet_telemetry::{bind_socket, bind_tcp};
use sd_notify::NotifyState;
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc, watch},
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info};

use crate::{
    admin::Desk,
    book::{Book, Known},
    bundles::Bundles,
    cluster::Cluster,
    cut_off::Guarded,
    federate::Plan,
    files, limits,
    mesh_config::{Agents, MeshConfig},
    metrics::Counts,
    mirror::Mirror,
    office::Clerk,
    places::Places,
    scribe::{Scribe, Told},
    standby::{Shown, Signals, lead_here, stand_by},
    taints,
};

/// Runs until SIGTERM or SIGINT.
///
/// `read`: the directory file and its digest, of a controller that has one.
pub async fn run(
    file: ControllerFile,
    read: Option<(DirectoryFile, String)>,
    federation: Plan,
) -> Result<()> {
    let mut signals = Signals::listen()?;
    let (known, digest) = match read {
        Some((directory, digest)) => (Known::of_file(directory)?, digest),
        None => (Known::default(), String::new()),
    };
    let mut stage = Stage {
        file,
        digest,
        directory: Arc::new(ArcSwap::from_pointee(known)),
        cluster: None,
        mesh: None,
        shown: None,
        known: Arc::default(),
        changed: Arc::default(),
        shutdown: CancellationToken::new(),
        tasks: TaskTracker::new(),
    };
    let Knows::Cluster(of) = stage.file.knows.clone() else {
        return stage.serve(federation, &mut signals, None).await;
    };
    let cluster = Cluster::connect(&stage.file.trust_domain, &of).await?;
    let (to, mut complete) = watch::channel(false);
    let following = follow(cluster.clone(), stage.directory.clone(), stage.known.clone(), to);
    stage.tasks.spawn(stage.shutdown.clone().run_until_cancelled_owned(following));
    stage.cluster = Some(cluster.clone());
    let standing_by = stand_by(&cluster, &stage.file, complete.clone(), &mut signals);
    let Some((mut lead, shown)) = standing_by.await? else { return Ok(()) };
    stage.shown = Some(shown);
    let holding = lead.holding.clone();
    let leading = async {
        info!("waiting for the cluster to say what there is");
        stage.mesh = tokio::select! {
            mesh = stage.know(cluster, &mut complete) => Some(mesh),
            () = signals.stop() => return Ok(()),
        };
        stage.serve(federation, &mut signals, Some(holding)).await
    };
    let led = tokio::select! {
        led = leading => led,
        () = lead.lost() => Err(anyhow!("the lease is lost: another replica is the controller now")),
    };
    // Nothing is served any more, or it was lost.
    lead.release().await;
    led
}

/// What a controller begins with.
struct Stage {
    file: ControllerFile,
    /// Of the directory file.
    digest: String,
    directory: Arc<ArcSwap<Known>>,
    cluster: Option<Cluster>,
    /// Of a cluster: what is set for the whole mesh.
    mesh: Option<MeshConfig>,
    /// Of a replica of a cluster: what can be asked until this serves.
    shown: Option<Shown>,
    /// Told when a cluster says something else.
    known: Arc<Notify>,
    /// Told when somebody has changed the trust by hand.
    changed: Arc<Notify>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl Stage {
    /// Waits until all that there is in a cluster is known, with what is set for the whole mesh.
    async fn know(&self, cluster: Cluster, complete: &mut watch::Receiver<bool>) -> MeshConfig {
        let mut config = MeshConfig::open(cluster).await;
        let following = config.follow();
        self.tasks.spawn(self.shutdown.clone().run_until_cancelled_owned(following));
        let mesh = config.begin().await;
        let is_known =
            |complete: &bool| *complete && Arc::ptr_eq(&self.directory.load().mesh, &mesh);
        // Who tells it ends with this process.
        let _ = complete.wait_for(is_known).await;
        config
    }

    /// Is the controller until it is told to stop. `holding`: of one of several replicas.
    async fn serve(
        self,
        federation: Plan,
        signals: &mut Signals,
        holding: Option<Holding>,
    ) -> Result<()> {
        let Self { file, digest, directory, cluster, mesh, shown, known, changed, shutdown, tasks } =
            self;

        // Knowing: the authority, the nodes, the directory.
        let now = SystemTime::now();
        let domain = file.trust_domain.clone();
        let mirror = match &cluster {
            Some(cluster) => {
                let vault = cluster.vault();
                Some(Mirror::open(vault, &file.state.join("authority")).await?)
            }
            None => None,
        };
        let (state, of) = (file.state.clone(), domain.clone());
        let opened = spawn_blocking(move || Book::open(&state, of, directory, mirror, now));
        let (book, log) = opened.await.context("opening what was kept")??;
        let book = Arc::new(book);
        let counts = Arc::new(Counts::default());
        let identity = Part::Controller.identity(&file.trust_domain);
        let roots = book.trust().roots.get(&file.trust_domain).cloned().unwrap_or_default();
        let bundle = TrustBundle::new([(file.trust_domain.clone(), roots)])?;
        let credentials = Arc::new(Credentials::new(identity, Arc::new(bundle)));
        book.certify_controller(&credentials, now).context("certifying the controller itself")?;

        // Telling: the agents.
        let places = Places {
            known: book.directory.clone(),
            cluster: cluster.as_ref().map(|cluster| (cluster.client.clone(), domain)),
        };
        let attestor = Guarded { attestor: places, trust: book.trusts(), holding: holding.clone() };
        let registrar = Registrar::new(attestor, log, file.leaf_lifetime);
        let (refused, refusals) = mpsc::channel(limits::REFUSALS);
        let clerk = Clerk {
            book: book.clone(),
            registrar,
            counts: counts.clone(),
            cluster: cluster.clone(),
            hosts: file.hosts.clone(),
            holding,
            refused,
        };
        let server = Server::new(clerk, credentials.clone());
        let declared = None;
        let file = Arc::new(file);
        let mut keeper = Keeper {
            book,
            server,
            credentials,
            counts,
            file,
            digest,
            cluster: cluster.clone(),
            published: None,
            declared,
            told: watch::Sender::new(None),
        };
        let mut leading_here = None;
        if let Some(cluster) = cluster {
            let (server, told) = (keeper.server.clone(), keeper.told.subscribe());
            let scribe = Scribe::new(cluster.clone(), server, told, refusals);
            tasks.spawn(shutdown.clone().run_until_cancelled_owned(scribe.run()));
            if let Some(mesh) = mesh {
                let (book, server) = (keeper.book.clone(), keeper.server.clone());
                let agents = Agents { book, server, told: keeper.told.subscribe() };
                tasks.spawn(shutdown.clone().run_until_cancelled_owned(mesh.run(agents)));
            }
            if matches!(&keeper.file.knows, Knows::Cluster(of) if of.startup_taint) {
                let taints = taints::run(cluster.client.clone(), keeper.server.clone());
                tasks.spawn(shutdown.clone().run_until_cancelled_owned(taints));
            }
            if let Some(port) = keeper.file.listen.first().map(SocketAddr::port) {
                leading_here = Some(lead_here(cluster, port));
            }
        }
        keeper.declare().await.context("declaring what there is")?;
        let mut listeners = Vec::new();
        for address in &keeper.file.listen {
            let bound = TcpListener::bind(address).await;
            listeners.push(bound.with_context(|| format!("listening for agents on {address}"))?);
        }
        let telling = keeper.server.clone();
        tasks.spawn(telling.run(listeners, shutdown.clone()));
        if let Some(leading) = leading_here {
            tasks.spawn(shutdown.clone().run_until_cancelled_owned(leading));
        }

        // Federating: other trust domains.
        let federation = federation
            .start(&keeper.book, &keeper.credentials, changed.clone(), (&tasks, &shutdown))
            .await?;
        let federation = Arc::new(federation);
        if let Some(cluster) = keeper.cluster.clone() {
            let (book, server) = (keeper.book.clone(), keeper.server.clone());
            let bundles = Bundles::new(cluster, book, server, federation.clone(), changed.clone());
            tasks.spawn(shutdown.clone().run_until_cancelled_owned(bundles.run()));
        }

        // Saying: the admin socket and metrics.
        let desk = Desk::new(
            keeper.book.clone(),
            keeper.server.clone(),
            keeper.counts.clone(),
            keeper.file.clone(),
            keeper.cluster.clone(),
            federation,
            changed.clone(),
        );
        if let Some(shown) = shown {
            shown.end().await;
        }
        let socket = bind_socket(&keeper.file.socket)?;
        tasks.spawn(desk.clone().serve_unix(socket, shutdown.clone()));
        if let Some(address) = keeper.file.metrics {
            tasks.spawn(desk.clone().serve_tcp(bind_tcp(address)?, shutdown.clone()));
        }

        // Looking: at the directory file, and at the trust.
        let touched = Arc::new(Notify::new());
        let asked = Arc::new(Notify::new());
        let watching = match &keeper.file.knows {
            Knows::Directory(path) => files::watch(path, touched.clone()),
            Knows::Cluster(_) => None,
        };
        tasks.spawn(keeper.run((touched, asked.clone()), known, changed, shutdown.clone()));
        desk.is_ready();
        info!("ready");
        tell_systemd(&[NotifyState::Ready]);
        signals.stop_or(|| asked.notify_one()).await;
        info!("stopping; nothing changes on any node meanwhile");
        tell_systemd(&[NotifyState::Stopping]);
        drop(watching);
        shutdown.cancel();
        tasks.close();
        tasks.wait().await;
        Ok(())
    }
}

/// Takes over what a cluster says, from the first time that all of it is known.
async fn follow(
    cluster: Cluster,
    directory: Arc<ArcSwap<Known>>,
    told: Arc<Notify>,
    complete: watch::Sender<bool>,
) {
    let tell = |known: Known| {
        directory.store(Arc::new(known));
        complete.send_replace(true);
        told.notify_one();
    };
    cluster.follow(tell).await;
}

/// Owns what changes while it runs.
struct Keeper {
    book: Arc<Book>,
    server: Server<Clerk>,
    credentials: Arc<Credentials>,
    counts: Arc<Counts>,
    file: Arc<ControllerFile>,
    /// Of the directory file that was looked at last.
    digest: String,
    cluster: Option<Cluster>,
    /// The roots that were published last, and when.
    published: Option<(Vec<Vec<u8>>, Instant)>,
    /// What was declared last: telling the same costs as much as finding that it is.
    declared: Option<(Arc<Known>, Arc<Trust>)>,
    /// The same, for whoever says what has become of it.
    told: watch::Sender<Option<Told>>,
}

impl Keeper {
    async fn run(
        mut self,
        (touched, asked): (Arc<Notify>, Arc<Notify>),
        known: Arc<Notify>,
        changed: Arc<Notify>,
        shutdown: CancellationToken,
    ) {
        let mut ticks = interval(limits::TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failure = String::new();
        loop {
            let is_known = tokio::select! {
                _ = ticks.tick() => false,
                () = changed.notified() => false,
                // Looking after the trust is looking at all nodes, and can wait for its time.
                () = known.notified() => true,
                () = asked.notified() => {
                    self.reload(true).await;
                    false
                }
                () = touched.notified() => {
                    tokio::time::sleep(limits::SETTLE).await;
                    self.reload(false).await;
                    false
                }
                () = shutdown.cancelled() => return,
            };
            let done = match is_known {
                true => self.declare().await.context("telling the nodes"),
                false => self.tick().await,
            };
            match done {
                Err(error) => {
                    let text = format!("{error:#}");
                    if failure != text {
                        error!(error = text, "the trust could not be looked after");
                        failure = text;
                    }
                }
                Ok(()) if is_known => {}
                Ok(()) => failure.clear(),
            }
        }
    }

    /// Goes on with a rotation, renews what is due, and tells the nodes. What is wrong with one of
    /// these holds up none of the others.
    async fn tick(&mut self) -> Result<()> {
        let trust = self.look_after_trust().await;
        let synced = self.server.office().registrar.sync().await;
        let synced = synced.context("bringing the log of issuance to the disk");
        let declared = self.declare().await.context("telling the nodes");
        let published = self.publish().await;
        trust.and(synced).and(declared).and(published)
    }

    async fn look_after_trust(&self) -> Result<()> {
        let (book, agents) = (self.book.clone(), self.server.agents());
        let credentials = self.credentials.clone();
        let ticked = spawn_blocking(move || {
            let (said, now) = (book.said(&agents), SystemTime::now());
            let ticked = book.with_store(|store| store.tick(&said, now));
            // The controller's own certificate does not wait for what else is wrong.
            book.certify_controller(&credentials, now).context("certifying the controller")?;
            ticked.context("going on with the trust")
        });
        if ticked.await.context("the controller is stopping")?? {
            info!(version = self.book.trust().version, "the trust has changed");
        }
        Ok(())
    }

    /// The agents of a cluster know the controller by what stands there.
    async fn publish(&mut self) -> Result<()> {
        let Some(cluster) = &self.cluster else { return Ok(()) };
        let trust = self.book.trust();
        let roots = trust.roots.get(&self.book.trust_domain).cloned().unwrap_or_default();
        let is_done = |(before, at): &(Vec<Vec<u8>>, Instant)| {
            *before == roots && at.elapsed() < limits::PUBLISH_AGAIN
        };
        if self.published.as_ref().is_some_and(is_done) {
            return Ok(());
        }
        let pem: String = roots.iter().map(|der| martlet_authority::pem(der)).collect();
        cluster.publish(&pem).await.context("publishing the roots in the cluster")?;
        self.published = Some((roots, Instant::now()));
        Ok(())
    }

    async fn declare(&mut self) -> Result<()> {
        let now = (self.book.directory.load_full(), self.book.trust());
        let is_same = |(directory, trust): &(Arc<Known>, Arc<Trust>)| {
            Arc::ptr_eq(directory, &now.0) && trust == &now.1
        };
        if self.declared.as_ref().is_some_and(is_same) {
            return Ok(());
        }
        let (server, inventory) = (self.server.clone(), self.book.inventory());
        let declared = spawn_blocking(move || server.declare(inventory));
        let version = declared.await.context("the controller is stopping")??;
        self.told.send_replace(Some(Told { known: now.0.clone(), version }));
        self.declared = Some(now);
        Ok(())
    }

    async fn reload(&mut self, asked: bool) {
        let Knows::Directory(path) = self.file.knows.clone() else { return };
        let digest = files::digest(&path);
        // The directory is watched: most changes there are another file's.
        if !asked && digest == self.digest {
            return;
        }
        self.digest = digest;
        let before = self.book.directory.load_full();
        let read = files::directory(&path, &self.file.trust_domain);
        let taken = match read.and_then(|(file, _)| Known::of_file(file)) {
            Ok(known) => {
                self.book.directory.store(Arc::new(known));
                self.declare().await
            }
            Err(refused) => Err(refused),
        };
        match taken {
            Ok(()) => info!(digest = self.digest, "directory file changed"),
            Err(refused) => {
                self.book.directory.store(before);
                self.counts.reloads_refused.fetch_add(1, Ordering::Relaxed);
                let refused = format!("{refused:#}");
                error!(error = refused, "the new directory file was not taken; the old one stays");
            }
        }
    }
}

/// Outside of systemd there is nobody to tell.
fn tell_systemd(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "systemd was not told");
    }
}
