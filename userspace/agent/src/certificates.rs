//! The certificates of this node's workloads: asked for, installed, renewed while they are good.
//!
//! ```text
//!   wanted ── asked ──▶ answered ── half of its life, up to a tenth later ──▶ due ── asked ──▶ …
//!                          │ refused, or nobody there
//!                          ▼
//!              asked again after 1, 2, 4, … 300 s; the old one is used while it lasts
//! ```
//!
//! Where the authority is another process that may not be there when this one starts again, what was
//! issued is kept in the kernel's keyring too, for the same workload in the same network namespace.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::SystemTime,
};

use anyhow::{Result, bail};
use martlet_control::IssueError;
use martlet_identity::{Credentials, Svid, TrustBundle, verify_chain};
use martlet_kernel::Keyring;
use martlet_model::{Workload, WorkloadName};
use martlet_telemetry::{Metrics, Outcome};
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::{
    issuer::{self, Issuer},
    renewal::Renewal,
    workloads::chain,
};

/// Of all workloads that are declared for this node.
pub struct Certificates {
    issuer: Arc<Issuer>,
    metrics: Arc<Metrics>,
    held: HashMap<WorkloadName, Held>,
    lives: u64,
    keyring: Option<Keyring>,
    asking: JoinSet<Answers>,
}

/// To one batch.
pub type Answers = Vec<(Asked, Result<Svid>)>;

/// Who asked: an answer that comes when its workload has another life is nobody's.
#[derive(Debug, Clone)]
pub struct Asked {
    name: WorkloadName,
    life: u64,
}

struct Held {
    life: u64,
    workload: Arc<Workload>,
    /// The cookie of its network namespace.
    cookie: u64,
    credentials: Arc<Credentials>,
    renewal: Renewal,
    is_asked: bool,
}

impl Certificates {
    /// With a keyring, what was issued outlives this process.
    pub fn new(issuer: Arc<Issuer>, metrics: Arc<Metrics>, keyring: Option<Keyring>) -> Self {
        let (held, asking) = (HashMap::new(), JoinSet::new());
        Self { issuer, metrics, held, lives: 0, keyring, asking }
    }

    /// What a workload in a network namespace proves itself with; an error says why there is nothing
    /// yet. Whoever was not known is asked for.
    pub fn of(
        &mut self,
        workload: &Arc<Workload>,
        cookie: u64,
        now: SystemTime,
    ) -> Result<Arc<Credentials>> {
        let is_another =
            |held: &Held| held.workload.identity != workload.identity || held.cookie != cookie;
        if self.held.get(&workload.name).is_none_or(is_another) {
            self.begin(workload.clone(), cookie, now);
            self.ask(now);
        }
        let held = &self.held[&workload.name];
        match (held.credentials.current(), held.renewal.error()) {
            (Some(_), _) => Ok(held.credentials.clone()),
            (None, Some(error)) => bail!("it has no certificate: {error}"),
            (None, None) => bail!("its certificate is being asked for"),
        }
    }

    /// A new life of a workload, with a new key unless one was kept of the same life.
    fn begin(&mut self, workload: Arc<Workload>, cookie: u64, now: SystemTime) {
        self.lives += 1;
        let trust = self.issuer.trust();
        let credentials = Arc::new(Credentials::new(workload.identity.clone(), trust.clone()));
        let mut renewal = Renewal::at(now, now);
        if let Some(svid) = self.kept(&workload, cookie, trust, now) {
            renewal = self.issuer.renewal(&svid, now);
            info!(workload = %workload.name, "certificate of the earlier process taken over");
            credentials.install(svid);
        }
        let (life, name) = (self.lives, workload.name.clone());
        let held = Held { life, workload, cookie, credentials, renewal, is_asked: false };
        self.held.insert(name, held);
    }

    /// What is not believed by everybody is as good as not kept.
    fn kept(
        &self,
        workload: &Workload,
        cookie: u64,
        trust: Arc<TrustBundle>,
        now: SystemTime,
    ) -> Option<Svid> {
        let keyring = self.keyring.as_ref()?;
        let found = keyring.find(&kept_as(&workload.name, cookie));
        let secret =
            found.inspect_err(|error| warn!(error = chain(error), "no kept key")).ok()??;
        let svid = Svid::from_secret(&secret, &workload.identity).ok()?;
        let is_good = svid.not_after() > now && verify_chain(svid.chain(), trust, now).is_ok();
        is_good.then_some(svid)
    }

    fn keep(keyring: &Keyring, name: &str, svid: &Svid, now: SystemTime) -> Result<()> {
        let time = svid.not_after().duration_since(now).unwrap_or_default();
        Ok(keyring.keep(name, &svid.to_secret()?, time)?)
    }

    /// Whoever has this name next gets a new key. What uses the old one keeps it.
    pub fn forget(&mut self, name: &WorkloadName) {
        let held = self.held.remove(name);
        if let (Some(keyring), Some(held)) = (&self.keyring, held)
            && let Err(error) = keyring.forget(&kept_as(name, held.cookie))
        {
            warn!(workload = %name, error = chain(&error), "a kept key was not forgotten");
        }
    }

    pub fn forget_all_but(&mut self, names: &HashSet<String>) {
        self.held.retain(|name, _| names.contains(&name.to_string()));
        let Some(keyring) = &self.keyring else { return };
        let forgotten = keyring.forget_all_but(|kept| {
            let name = kept.rsplit_once('@').map_or("", |(name, _)| name);
            names.contains(name)
        });
        if let Err(error) = forgotten {
            warn!(error = chain(&error), "kept keys were not forgotten");
        }
    }

    pub fn renewal(&self, name: &WorkloadName) -> Option<&Renewal> {
        Some(&self.held.get(name)?.renewal)
    }

    /// Whom everybody trusts from now on.
    pub fn set_trust(&mut self) {
        let trust = self.issuer.trust();
        self.held.values().for_each(|held| held.credentials.set_trust(trust.clone()));
    }

    /// Certificates of an issuer whose leaves are not wanted any more are replaced soon.
    pub fn renew_superseded(&mut self, now: SystemTime) {
        for held in self.held.values_mut() {
            let current = held.credentials.current();
            if let Some(svid) = current.filter(|svid| self.issuer.is_superseded(svid)) {
                let soon = self.issuer.renewal(&svid, now).due();
                held.renewal = Renewal::at(soon.min(held.renewal.due()), now);
            }
        }
    }

    /// Asks again for those who have none that is good, without waiting for their time.
    pub fn ask_again(&mut self, now: SystemTime) {
        let is_good = |svid: Arc<Svid>| svid.not_after() > now;
        let closed = |held: &&mut Held| !held.credentials.current().is_some_and(is_good);
        for held in self.held.values_mut().filter(closed) {
            held.renewal = Renewal::at(now, now);
        }
        self.ask(now);
    }

    /// What is in use now.
    pub fn current(&self) -> impl Iterator<Item = Arc<Svid>> {
        self.held.values().filter_map(|held| held.credentials.current())
    }

    /// All certificates are replaced as soon as possible.
    pub fn renew_all(&mut self, now: SystemTime) {
        self.held.values_mut().for_each(|held| held.renewal = Renewal::at(now, now));
        self.ask(now);
    }

    /// Asks for what is due, all in one batch.
    pub fn ask(&mut self, now: SystemTime) {
        let due = self.held.values_mut().filter(|held| !held.is_asked && held.renewal.is_due(now));
        let (mut asked, mut workloads) = (Vec::new(), Vec::new());
        for held in due {
            held.is_asked = true;
            asked.push(Asked { name: held.workload.name.clone(), life: held.life });
            workloads.push(held.workload.clone());
        }
        match self.issuer.client().cloned() {
            _ if asked.is_empty() => {}
            None => {
                let made = self.issuer.issue(&workloads, now);
                self.take(asked.into_iter().zip(made).collect(), now);
            }
            Some(client) => {
                self.asking.spawn(async move {
                    let made = issuer::ask(&client, &workloads).await;
                    asked.into_iter().zip(made).collect()
                });
            }
        }
    }

    /// The next answers, for [`Certificates::take`]; `None` if nobody is being asked.
    pub async fn answered(&mut self) -> Option<Answers> {
        match self.asking.join_next().await? {
            Ok(answers) => Some(answers),
            Err(error) => {
                error!(%error, "asking for certificates failed");
                self.held.values_mut().for_each(|held| held.is_asked = false);
                Some(Answers::new())
            }
        }
    }

    /// Whether a workload got its first certificate.
    pub fn take(&mut self, answers: Answers, now: SystemTime) -> bool {
        let mut is_first = false;
        for (Asked { name, life }, answer) in answers {
            let Some(held) = self.held.get_mut(&name).filter(|held| held.life == life) else {
                continue;
            };
            held.is_asked = false;
            match answer.and_then(|svid| unless_over(svid, now)) {
                Ok(svid) => {
                    let kept_as = kept_as(&name, held.cookie);
                    let keyring = self.keyring.as_ref();
                    let kept = keyring.map(|keyring| Self::keep(keyring, &kept_as, &svid, now));
                    if let Some(Err(error)) = kept {
                        warn!(workload = %name, error = format!("{error:#}"), "the key would be lost by a restart of the agent");
                    }
                    held.renewal = self.issuer.renewal(&svid, now);
                    match held.credentials.current() {
                        Some(_) => {
                            self.metrics.certificate_renewal(Outcome::Success);
                            info!(workload = %name, "certificate renewed");
                        }
                        None => is_first = true,
                    }
                    held.credentials.install(svid);
                }
                Err(error) => {
                    let is_refused = matches!(error.downcast_ref(), Some(IssueError::Refused(_)));
                    let error = format!("{error:#}");
                    self.metrics.certificate_renewal(Outcome::Failure);
                    if held.renewal.is_news(&error) {
                        warn!(workload = %name, error, "no new certificate; the old one is used while it lasts");
                    }
                    held.renewal =
                        held.renewal.failed(now, error, rand::random()).refused(is_refused);
                }
            }
        }
        is_first
    }
}

/// What has ended before it came is asked for with pauses, as what does not come at all.
fn unless_over(svid: Svid, now: SystemTime) -> Result<Svid> {
    match svid.not_after() > now {
        true => Ok(svid),
        false => bail!("by this node's clock the new certificate has ended already; set the clock"),
    }
}

/// The name of what is kept: another network namespace is another life.
fn kept_as(name: &WorkloadName, cookie: u64) -> String {
    format!("{name}@{cookie}")
}

#[cfg(test)]
mod tests;
