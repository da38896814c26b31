//! The Workload API of this node's workloads: a socket for each enrolled one that asks for it, and
//! behind it a certificate of its own, for a key that is made to be handed out.
//!
//! What is handed out lives as long as the enrolment does. It is looked after by whoever owns the
//! workloads, once a second and after every change; nothing of it is kept elsewhere than in memory.

mod socket;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use anyhow::{Context as _, Result, ensure};
use martlet_identity::{Chain, HandedKey, Svid};
use martlet_kernel::Netns;
use martlet_model::{Workload, WorkloadName};
use martlet_standalone::Settings;
use martlet_telemetry::{Metrics, Outcome};
use martlet_workload_api::{Admission, Counts, Material, WorkloadApi};
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

use crate::{
    issuer::Issuer,
    limits::{HANDING_PATIENCE, RENEWAL_SPREAD},
    renewal::Renewal,
};

/// Of all workloads that ask for it.
pub struct Handing {
    issuer: Arc<Issuer>,
    metrics: Arc<Metrics>,
    counts: Arc<Counts>,
    settings: Settings,
    hands: HashMap<WorkloadName, Hand>,
    /// Why those who ask have no socket.
    unserved: HashMap<WorkloadName, String>,
    lives: u64,
    asking: JoinSet<Vec<Answer>>,
    serving: TaskTracker,
    /// Whether no socket of an earlier process is left.
    is_cleared: bool,
}

/// What becomes of the files of the sockets when an agent ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sockets {
    Removed,
    /// They are a successor's, or will be.
    Left,
}

/// An enrolled workload that asks.
pub struct Asking<'a> {
    pub workload: &'a Arc<Workload>,
    pub netns: &'a Netns,
    /// Cancelled when it is not enrolled any more.
    pub enrolled: &'a CancellationToken,
}

/// A key with its certificate, for one life of a workload.
struct Answer {
    name: WorkloadName,
    life: u64,
    made: Result<(Arc<HandedKey>, Svid)>,
}

struct Hand {
    life: u64,
    workload: Arc<Workload>,
    enrolled: CancellationToken,
    socket: PathBuf,
    held: Option<(Arc<HandedKey>, Arc<Svid>)>,
    renewal: Renewal,
    is_asked: bool,
    material: watch::Sender<Option<Arc<Material>>>,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

impl Handing {
    /// Nobody is served yet.
    pub fn new(
        issuer: Arc<Issuer>,
        metrics: Arc<Metrics>,
        counts: Arc<Counts>,
        settings: &Settings,
    ) -> Self {
        Self {
            issuer,
            metrics,
            counts,
            settings: settings.clone(),
            hands: HashMap::new(),
            unserved: HashMap::new(),
            lives: 0,
            asking: JoinSet::new(),
            serving: TaskTracker::new(),
            is_cleared: false,
        }
    }

    /// Fails if a workload asks for a socket that cannot be.
    pub fn check(&self, workload: &WorkloadName, asks: bool) -> Result<()> {
        if asks {
            self.settings.workload_socket(workload)?;
        }
        Ok(())
    }

    /// Serves these and nobody else, and renews what is due.
    pub fn keep<'a>(&mut self, asking: impl Iterator<Item = Asking<'a>>, now: SystemTime) {
        let asking: HashMap<_, _> = asking.map(|one| (&one.workload.name, one)).collect();
        let over = self.hands.extract_if(|name, hand| {
            hand.is_over() || asking.get(name).is_none_or(|one| one.enrolled.is_cancelled())
        });
        over.for_each(|(name, hand)| hand.end(&name));
        self.unserved.retain(|name, _| asking.contains_key(name));
        for (name, one) in asking {
            if self.hands.contains_key(name) {
                continue;
            }
            match self.serve(&one, now) {
                Ok(hand) => {
                    info!(workload = %name, socket = %hand.socket.display(), "workload API offered");
                    self.unserved.remove(name);
                    self.hands.insert(name.clone(), hand);
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    if self.unserved.get(name) != Some(&error) {
                        warn!(workload = %name, error, "workload API not offered");
                    }
                    self.unserved.insert(name.clone(), error);
                }
            }
        }
        self.clear_once();
        self.take_answers(now);
        self.ask(now);
        self.hands.values().for_each(|hand| hand.publish(&self.issuer, now));
    }

    /// Why a workload that asks for a socket has none, if it is so.
    pub fn unserved(&self, workload: &WorkloadName) -> Option<&String> {
        self.unserved.get(workload)
    }

    /// Whoever has nothing that is good is asked for again, without waiting for its time.
    pub fn ask_again(&mut self, now: SystemTime) {
        let is_good = |(_, svid): &(_, Arc<Svid>)| svid.not_after() > now;
        let hands = self.hands.values_mut();
        let empty = hands.filter(|hand| !hand.held.as_ref().is_some_and(is_good));
        empty.for_each(|hand| hand.renewal = Renewal::at(now, now));
    }

    /// Everything is replaced as soon as possible.
    pub fn renew_all(&mut self, now: SystemTime) {
        self.hands.values_mut().for_each(|hand| hand.renewal = Renewal::at(now, now));
    }

    /// What is handed out now.
    pub fn current(&self) -> impl Iterator<Item = Arc<Svid>> {
        self.hands.values().filter_map(|hand| Some(hand.held.as_ref()?.1.clone()))
    }

    /// Sockets that were made by now have taken the places of an earlier process's.
    fn clear_once(&mut self) {
        if std::mem::replace(&mut self.is_cleared, true) {
            return;
        }
        let directory = self.settings.places().workload_sockets();
        let is_ours = |path: &Path| self.hands.values().any(|hand| hand.socket == path);
        if let Err(error) = socket::clear(&directory, is_ours) {
            warn!(%error, directory = %directory.display(), "sockets of the earlier agent are left");
        }
    }

    /// Nobody is served any more.
    pub async fn end(&mut self, sockets: Sockets) {
        for hand in self.hands.values() {
            // The workloads keep their identities; this process only can't tell them any more.
            hand.stop.cancel();
            if sockets == Sockets::Removed {
                socket::remove(&hand.socket);
            }
        }
        self.serving.close();
        self.serving.wait().await;
        self.hands.clear();
    }

    fn serve(&mut self, one: &Asking, now: SystemTime) -> Result<Hand> {
        let socket = self.settings.workload_socket(&one.workload.name)?;
        let listener = socket::listen(&socket)
            .with_context(|| format!("making the socket {}", socket.display()))?;
        let netns = one.netns.clone();
        let admission: Admission = Arc::new(move |caller| netns.is_of_caller(caller));
        let (material, subscribed) = watch::channel(None);
        let counts = self.counts.clone();
        let api = WorkloadApi { listener, admission, material: subscribed, counts };
        let stop = CancellationToken::new();
        let server = self.serving.spawn(until_over(api, stop.clone()));
        self.lives += 1;
        Ok(Hand {
            life: self.lives,
            workload: one.workload.clone(),
            enrolled: one.enrolled.clone(),
            socket,
            held: None,
            renewal: Renewal::at(now, now),
            is_asked: false,
            material,
            stop,
            server,
        })
    }

    /// Asks for what is due, all in one batch.
    fn ask(&mut self, now: SystemTime) {
        let mut due = Vec::new();
        for hand in self.hands.values_mut() {
            hand.hurry_if_superseded(&self.issuer, now);
            if !hand.is_asked && hand.renewal.is_due(now) {
                hand.is_asked = true;
                due.push((hand.life, hand.workload.clone()));
            }
        }
        if !due.is_empty() {
            self.asking.spawn(answers(self.issuer.clone(), due, now));
        }
    }

    fn take_answers(&mut self, now: SystemTime) {
        while let Some(ended) = self.asking.try_join_next() {
            let answers = ended.unwrap_or_else(|error| {
                error!(%error, "asking for certificates to hand out failed");
                self.hands.values_mut().for_each(|hand| hand.is_asked = false);
                Vec::new()
            });
            for Answer { name, life, made } in answers {
                // That of another life is nobody's.
                if let Some(hand) = self.hands.get_mut(&name).filter(|hand| hand.life == life) {
                    hand.take(made, &self.metrics, now);
                }
            }
        }
    }
}

impl Hand {
    /// Whether it has to be made anew, if at all.
    fn is_over(&self) -> bool {
        self.enrolled.is_cancelled() || self.server.is_finished() || !socket::is_there(&self.socket)
    }

    /// The identity is withdrawn before the server ends: whoever listens is told that.
    fn end(self, name: &WorkloadName) {
        socket::remove(&self.socket);
        drop(self.material);
        self.stop.cancel();
        info!(workload = %name, "workload API not offered any more");
    }

    /// Certificates of an issuer whose leaves are not wanted any more are replaced soon.
    fn hurry_if_superseded(&mut self, issuer: &Issuer, now: SystemTime) {
        let is_superseded = self.held.as_ref().is_some_and(|(_, svid)| issuer.is_superseded(svid));
        let is_far = self.renewal.due() > now + RENEWAL_SPREAD;
        if is_superseded && is_far && self.renewal.error().is_none() {
            self.renewal = Renewal::at(now + RENEWAL_SPREAD.mul_f64(rand::random()), now);
        }
    }

    fn take(&mut self, made: Result<(Arc<HandedKey>, Svid)>, metrics: &Metrics, now: SystemTime) {
        self.is_asked = false;
        let workload = &self.workload.name;
        match made {
            Ok((key, svid)) => {
                self.renewal = Renewal::at(svid.renews_at(rand::random()), now);
                if self.held.is_some() {
                    metrics.certificate_renewal(Outcome::Success);
                    info!(%workload, "certificate to hand out renewed");
                }
                self.held = Some((key, Arc::new(svid)));
            }
            Err(error) => {
                let error = format!("{error:#}");
                metrics.certificate_renewal(Outcome::Failure);
                if self.renewal.is_news(&error) {
                    warn!(%workload, error, "no new certificate to hand out");
                }
                self.renewal = self.renewal.failed(now, error, rand::random());
            }
        }
    }

    /// Gives what is good now, and nothing otherwise; whoever listens hears of what is new only.
    fn publish(&self, issuer: &Issuer, now: SystemTime) {
        let trust = issuer.trust();
        let is_good =
            |svid: &Svid| svid.not_after() > now && trust.quarantine_of(svid.bearer()).is_none();
        let held = self.held.as_ref().filter(|(_, svid)| is_good(svid));
        let wanted = held.map(|(key, svid)| Material {
            identity: self.workload.identity.clone(),
            chain: svid.chain().clone(),
            key: key.clone(),
            bundles: issuer.bundles(),
        });
        self.material.send_if_modified(|known| {
            let is_news = match (known.as_deref(), &wanted) {
                (None, None) => false,
                (Some(known), Some(wanted)) => {
                    known.chain != wanted.chain || known.bundles != wanted.bundles
                }
                _ => true,
            };
            if is_news {
                *known = wanted.map(Arc::new);
            }
            is_news
        });
    }
}

/// Whoever does not read its last answer is left.
async fn until_over(api: WorkloadApi, stop: CancellationToken) {
    let patience = async {
        stop.cancelled().await;
        tokio::time::sleep(HANDING_PATIENCE).await;
    };
    tokio::select! {
        () = api.run(stop.clone()) => {}
        () = patience => {}
    }
}

/// A new key for each, and a certificate for it.
async fn answers(
    issuer: Arc<Issuer>,
    due: Vec<(u64, Arc<Workload>)>,
    now: SystemTime,
) -> Vec<Answer> {
    let (mut asks, mut keys) = (Vec::new(), Vec::new());
    for (_, workload) in &due {
        let made = HandedKey::generate().and_then(|key| Ok((key.csr()?, key)));
        keys.push(made.map(|(csr, key)| {
            asks.push((workload.clone(), csr));
            Arc::new(key)
        }));
    }
    let mut chains = issuer.certify(asks, now).await.into_iter();
    let answer = |((life, workload), key): ((u64, Arc<Workload>), Result<Arc<HandedKey>, _>)| {
        let made = key.map_err(anyhow::Error::from).and_then(|key| {
            let chain: Chain = chains.next().context("the issuer left out an answer")??;
            ensure!(!chain.0.is_empty(), "the issuer sent no certificate");
            let svid = key.certified(chain, &workload.identity)?;
            Ok((key, svid))
        });
        Answer { name: workload.name.clone(), life, made }
    };
    due.into_iter().zip(keys).map(answer).collect()
}
