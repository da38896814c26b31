//! The workloads of this node: enrolled, renewed, looked after, taken out again. One task owns
//! them all.
//!
//! ```text
//!   Seen ── network namespace found, certificate issued, listeners up ──▶ Steered
//!    ▲                                                                       │
//!    ├── not there, or not possible yet: the reason is in the report         │
//!    └────── its network namespace is gone or replaced, or declared anew ────┤
//!                                                                            │ no longer declared
//!                                                                            ▼
//!                                            steering ends ─▶ listeners close ─▶ gone
//! ```
//!
//! What is declared stays a member of the mesh while it is not steered: it cannot be reached in
//! plaintext by enrolled callers, and what an earlier process left for it keeps refusing.

mod enrolled;
mod newcomers;
mod sources;
mod succession;

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::{Instant, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use arc_swap::ArcSwap;
use martlet_dataplane::{Dataplane, Local, View};
use martlet_kernel::{Finding, KernelError, Keyring, Membership, Node};
use martlet_model::{Directory, LocalWorkload, Mode, WorkloadName};
use martlet_standalone::NodeFile;
use martlet_telemetry::Metrics;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use self::enrolled::Enrolled;
use crate::{
    accept::{self, Inside, Term},
    arrivals::Arrivals,
    certificates::Certificates,
    closing::Plaintext,
    configuration::Loaded,
    coverage::{party, terms},
    failing::Failing,
    handing::{Asking, Handing, Sockets},
    issuer::Issuer,
    limits::LOOK_INTERVAL,
    outside::Decided,
    probing::Probing,
    reports::{Shared, State},
    standing,
    told::Told,
};

/// What workloads need.
pub struct Parts {
    pub node: Arc<Node>,
    pub dataplane: Arc<Dataplane>,
    pub view: Arc<ArcSwap<View>>,
    pub issuer: Arc<Issuer>,
    pub metrics: Arc<Metrics>,
    pub arrivals: Arc<Arrivals>,
}

/// What they need, and they themselves.
pub struct Workloads {
    node: Arc<Node>,
    dataplane: Arc<Dataplane>,
    view: Arc<ArcSwap<View>>,
    issuer: Arc<Issuer>,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    arrivals: Arc<Arrivals>,
    certificates: Certificates,
    handing: Handing,
    /// The node file in use, as it was read.
    file: Loaded,
    told: Told,
    enrolled: HashMap<WorkloadName, Enrolled>,
    /// Declared, and not enrolled.
    waiting: HashMap<WorkloadName, LocalWorkload>,
    /// Of those that wait: the addresses that they had when they were enrolled. While the kernel
    /// knows these, the pods stay closed.
    closed: HashMap<WorkloadName, Vec<IpAddr>>,
    /// The addresses of this node's workloads.
    declared: Vec<IpAddr>,
    /// Whether the kernel may still know of what is not declared.
    leftovers: bool,
    outside: Decided,
    /// Whether the kernel still has to be told who is in the mesh.
    members_due: bool,
    probing: Probing,
    failing: Failing,
    accepting: TaskTracker,
    /// Cancelled when this agent serves them: not while a predecessor does.
    serving: CancellationToken,
    files: mpsc::Receiver<Loaded>,
}

impl Workloads {
    /// Nothing is enrolled yet; [`Workloads::begin`] does that.
    pub fn new(
        parts: Parts,
        shared: Arc<Shared>,
        told: Told,
        file: Loaded,
        files: mpsc::Receiver<Loaded>,
    ) -> Self {
        let Parts { node, dataplane, view, issuer, metrics, arrivals } = parts;
        let settings = &file.file.settings;
        let keyring = issuer.client().map(|_| Keyring::of(&settings.pin, &settings.name));
        let certificates = Certificates::new(issuer.clone(), metrics.clone(), keyring);
        let api = shared.workload_api.clone();
        let handing = Handing::new(issuer.clone(), metrics.clone(), api, settings);
        Self {
            node,
            dataplane,
            view,
            issuer,
            shared,
            metrics,
            arrivals,
            certificates,
            handing,
            file,
            told,
            enrolled: HashMap::new(),
            waiting: HashMap::new(),
            closed: HashMap::new(),
            declared: Vec::new(),
            leftovers: true,
            outside: Decided::new(),
            members_due: false,
            probing: Probing::default(),
            failing: Failing::default(),
            accepting: TaskTracker::new(),
            serving: CancellationToken::new(),
            files,
        }
    }

    /// From now on what is enrolled is served.
    pub fn serve(&mut self) {
        self.serving.cancel();
        self.hand_out(SystemTime::now());
    }

    /// Until `halt`. Then the kernel's state stays as it is; what is enrolled is served on.
    pub async fn run(mut self, halt: CancellationToken) -> Self {
        let mut ticks = interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = halt.cancelled() => return self,
                Some(loaded) = self.files.recv() => self.replace(loaded),
                declared = self.told.changed() => self.hear(&declared),
                () = self.arrivals.changed() => self.welcome(),
                Some(answers) = self.certificates.answered() => {
                    if self.certificates.take(answers, SystemTime::now()) {
                        self.look_after();
                    }
                }
                _ = ticks.tick() => self.look_after(),
            }
        }
    }

    /// The listeners close, so that what is new is refused, and the kernel's state stays as it is.
    pub async fn end(mut self) {
        self.arrivals.stop();
        for enrolled in self.enrolled.values() {
            enrolled.stop.cancel();
        }
        self.handing.end(Sockets::Removed).await;
        self.accepting.close();
        self.accepting.wait().await;
        self.node.stop_living();
    }

    /// Order: who leaves is steered to no more before anything else; who comes is steered to only
    /// when its listeners are up.
    fn apply(&mut self, file: &NodeFile) -> Result<()> {
        let failing = self.failing.declare(file.settings.failure, &self.node);
        let new = &file.directory;
        let old = self.view.load_full();
        let known: HashSet<_> = addresses(&old.directory).map(|(ip, _)| ip).collect();
        let first = old.directory.workload_addresses().next().is_none();
        if !first {
            // As the new file has them: what is counted from now on is their new owner's.
            let kept = addresses(new).filter(|(ip, _)| known.contains(ip));
            let kept = self.undecided().chain(kept);
            self.node.set_members(kept).context("telling the kernel who stays")?;
        }
        let policies = file.policies.clone();
        self.view.store(Arc::new(View { directory: new.clone(), policies }));
        self.withdraw_all_but(&file.local);
        let names = file.local.iter().map(|local| local.workload.name.to_string());
        self.certificates.forget_all_but(&names.collect());
        self.waiting = HashMap::new();
        for wanted in &file.local {
            let name = &wanted.workload.name;
            match self.enrolled.get_mut(name).map(|enrolled| enrolled.become_like(wanted)) {
                Some(Ok(())) => continue,
                Some(Err(error)) => self.abandon(name, &format!("{error:#}")),
                None => {}
            }
            self.waiting.insert(name.clone(), wanted.clone());
        }
        self.declared = own_addresses(&file.local).collect();
        self.closed.retain(|name, _| self.waiting.contains_key(name));
        self.enroll_waiting();
        self.outside.become_like(&file.outside);
        self.leftovers = true;
        self.members_due = true;
        self.probing.declare(file);
        self.probing.keep(&self.node, &self.shared);
        let told = self.tell_members();
        self.close_plaintext();
        self.forget_leftovers();
        self.hand_out(SystemTime::now());
        self.report();
        told.context("telling the kernel who is in the mesh")?;
        failing.context("telling the kernel how the node fails")
    }

    /// Who is outside comes first: it may be in touch with what is enrolled now. What was outside
    /// and is enrolled now is steered already.
    fn tell_members(&mut self) -> Result<(), KernelError> {
        self.outside.tell(&self.node, &self.arrivals)?;
        if self.members_due {
            // Of the same address, the directory's word is the last.
            let undecided = self.undecided();
            self.node.set_members(undecided.chain(addresses(&self.view.load().directory)))?;
            self.members_due = false;
            // A permissive workload keeps what it has when others join.
            let strict = |enrolled: &&mut Enrolled| enrolled.wanted.workload.mode == Mode::Strict;
            let strict = self.enrolled.values_mut().filter(strict);
            strict.for_each(|enrolled| enrolled.plaintext.is_due());
        }
        Ok(())
    }

    /// Retries, renews, and notices network namespaces that were replaced.
    fn look_after(&mut self) {
        let lost = self.enrolled.iter().filter(|(_, enrolled)| enrolled.is_lost(&self.arrivals));
        let lost: Vec<_> = lost.map(|(name, _)| name.clone()).collect();
        for name in lost {
            self.abandon(&name, "its network namespace is gone");
        }
        self.arrivals.forget_old(Instant::now());
        self.told.report_arrivals(|| self.arrivals.told());
        self.enroll_waiting();
        self.probing.keep(&self.node, &self.shared);
        if let Err(error) = self.tell_members() {
            warn!(error = chain(&error), "the kernel does not know all of the mesh yet");
        }
        self.close_plaintext();
        self.forget_leftovers();
        self.repair();
        let now = SystemTime::now();
        match self.told.is_back() {
            true => {
                self.certificates.ask_again(now);
                self.handing.ask_again(now);
            }
            false => self.certificates.ask(now),
        }
        self.hand_out(now);
        self.told.report_usage(&self.certificates, &self.handing, &self.dataplane);
        self.report();
    }

    fn withdraw_all_but(&mut self, wanted: &[LocalWorkload]) {
        let addresses: HashSet<_> = own_addresses(wanted).collect();
        let wanted: HashMap<_, _> = wanted.iter().map(|w| (&w.workload.name, w)).collect();
        let leaving = self.enrolled.iter().filter(|(name, enrolled)| {
            wanted.get(name).is_none_or(|wanted| !enrolled.can_become(wanted))
        });
        let leaving: Vec<_> = leaving.map(|(name, _)| name.clone()).collect();
        for name in leaving {
            let address_stays = |enrolled: &Enrolled| {
                enrolled.wanted.workload.addresses.iter().any(|ip| addresses.contains(ip))
            };
            match wanted.contains_key(&name) || self.enrolled.get(&name).is_some_and(address_stays)
            {
                true => self.abandon(&name, "declared anew"),
                false => self.withdraw(&name),
            }
        }
    }

    /// Steering ends first; then the listeners close.
    fn withdraw(&mut self, name: &WorkloadName) {
        let Some(enrolled) = self.enrolled.remove(name) else { return };
        if let Err(error) = enrolled.pod.withdraw() {
            warn!(workload = %name, error = chain(&error), "not withdrawn completely");
        }
        enrolled.stop.cancel();
        self.dataplane.retire(&enrolled.local);
        info!(workload = %name, "withdrawn");
    }

    /// Its network namespace is gone, another one is in its place, or other things are said about
    /// it. Whoever may still be in the old one is refused, by what stays in the kernel until the
    /// workload is enrolled again: withdrawn, it would be open for so long.
    fn abandon(&mut self, name: &WorkloadName, why: &str) {
        let Some(enrolled) = self.enrolled.remove(name) else { return };
        info!(workload = %name, why, "to be enrolled again");
        enrolled.stop.cancel();
        self.dataplane.retire(&enrolled.local);
        self.certificates.forget(name);
        self.leftovers = true;
        self.closed.insert(name.clone(), enrolled.wanted.workload.addresses.clone());
        self.waiting.insert(name.clone(), enrolled.wanted);
    }

    fn enroll_waiting(&mut self) {
        for (name, wanted) in std::mem::take(&mut self.waiting) {
            match self.enroll(&wanted) {
                Ok(enrolled) => {
                    info!(workload = %name, identity = %wanted.workload.identity, mode = %wanted.workload.mode, "enrolled");
                    // Also what an earlier process left for it, in a namespace that is gone.
                    self.leftovers = true;
                    self.closed.remove(&name);
                    self.enrolled.insert(name, enrolled);
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    if self.shared.is_news(&name, &error) {
                        warn!(workload = %name, error, "not enrolled yet");
                    }
                    self.shared.set_waiting(&name, error);
                    self.waiting.insert(name, wanted);
                }
            }
        }
    }

    fn enroll(&mut self, wanted: &LocalWorkload) -> Result<Enrolled> {
        let workload = &wanted.workload;
        self.handing.check(&workload.name, wanted.workload_api)?;
        let netns = self.arrivals.find(&wanted.netns)?;
        let twice = self.enrolled.values().find(|other| other.netns.cookie() == netns.cookie());
        if let Some(other) = twice {
            let other = &other.local.workload.name;
            ensure!(false, "its network namespace is already that of {other}");
        }
        let credentials = self.certificates.of(workload, netns.cookie(), SystemTime::now())?;
        let mut pod = self.node.enroll(&netns, &workload.addresses, terms(wanted))?;
        let listeners = pod.take_listeners().context("the listeners were taken before")?;
        let dialer = pod.dialer();
        let local =
            Arc::new(Local::new(workload.clone(), credentials, Arc::new(Inside(dialer.clone()))));
        let stop = CancellationToken::new();
        let term = Term { begun: self.serving.clone(), stop: stop.clone() };
        accept::serve(&self.accepting, listeners, &dialer, &local, &self.dataplane, &term);
        let mut plaintext = Plaintext::default();
        plaintext.is_due();
        let unguarded = pod.unguarded().map(|why| chain(&why));
        let wanted = wanted.clone();
        let mut enrolled = Enrolled { wanted, local, pod, netns, unguarded: None, plaintext, stop };
        enrolled.set_unguarded(unguarded);
        Ok(enrolled)
    }

    /// What an earlier process left for a declared workload that cannot be enrolled yet is what
    /// keeps it closed, so only what belongs to no declared one goes.
    fn forget_leftovers(&mut self) {
        if !self.leftovers {
            return;
        }
        let closed = self.closed.values().flatten();
        let declared = self.declared.iter().chain(closed).copied();
        // Known by its namespace, also if other addresses are declared for it now.
        let waiting = self.waiting.values();
        let waiting = waiting.filter_map(|waiting| self.arrivals.find(&waiting.netns).ok());
        let namespaces: Vec<_> = waiting.map(|netns| netns.cookie()).collect();
        match self.node.retain_declared(declared, &namespaces) {
            Ok(()) => self.leftovers = false,
            Err(error) => warn!(error = chain(&error), "leftovers could not be removed"),
        }
    }

    /// After everything that refuses new plaintext is in place, or it would come back.
    fn close_plaintext(&mut self) {
        for Enrolled { local, pod, plaintext, .. } in self.enrolled.values_mut() {
            plaintext.close(local, pod, &self.dataplane);
        }
    }

    /// Puts back what others have changed in the kernel, and says so.
    fn repair(&mut self) {
        let findings = self.put_back();
        if !findings.is_empty() {
            // Something may have begun while it was not there.
            self.enrolled.values_mut().for_each(|enrolled| enrolled.plaintext.is_due());
        }
        self.shared.take_findings(findings, &self.metrics);
    }

    fn put_back(&mut self) -> Vec<Finding> {
        let mut findings = self.node.repair();
        let mut deaf = Vec::new();
        match self.node.look() {
            Err(problem) => findings.push(Finding::unknown(problem)),
            Ok(look) => {
                for (name, enrolled) in &mut self.enrolled {
                    let repaired = enrolled.pod.repair(&look);
                    findings.extend(repaired.findings);
                    deaf.extend(repaired.is_deaf.then(|| name.clone()));
                    enrolled.set_unguarded(repaired.unguarded.map(|why| chain(&why)));
                }
            }
        }
        for name in deaf {
            self.abandon(&name, "a listener of the agent's was closed");
        }
        findings
    }

    fn hand_out(&mut self, now: SystemTime) {
        if !self.serving.is_cancelled() {
            return;
        }
        let asking = self.enrolled.values().filter(|enrolled| enrolled.wanted.workload_api);
        let asking = asking.map(|Enrolled { wanted, netns, stop, .. }| Asking {
            workload: &wanted.workload,
            netns,
            enrolled: stop,
        });
        self.handing.keep(asking, now);
    }

    fn report(&mut self) {
        let steered = self.enrolled.iter().map(|(name, enrolled)| {
            let credentials = enrolled.local.credentials.clone();
            let is_attached = enrolled.pod.is_attached().unwrap_or(false);
            let renewal = self.certificates.renewal(name).cloned();
            let unguarded = enrolled.unguarded.clone();
            let unclosed = enrolled.plaintext.left().cloned();
            let unserved = self.handing.unserved(name).cloned();
            let state =
                State::Steered { credentials, renewal, is_attached, unguarded, unclosed, unserved };
            (name.clone(), state)
        });
        self.shared.set_steered(steered.collect());
        let declared = self.enrolled.values().map(|enrolled| &enrolled.wanted);
        let declared = declared.chain(self.waiting.values());
        let declared = declared.map(|one| (one, self.certificates.renewal(&one.workload.name)));
        self.told.report_standings(|| standing::all(declared, &self.shared, SystemTime::now()));
        self.settle_arrivals();
    }
}

fn own_addresses(workloads: &[LocalWorkload]) -> impl Iterator<Item = IpAddr> {
    workloads.iter().flat_map(|local| local.workload.addresses.iter().copied())
}

/// Every address of the mesh: workloads' and services'.
pub fn addresses(directory: &Directory) -> impl Iterator<Item = (IpAddr, Membership)> {
    let workloads = directory.workload_addresses().map(|(ip, workload)| {
        let is_strict = workload.mode == Mode::Strict;
        (ip, Membership::workload(party(&workload.name)).with_strict(is_strict))
    });
    let strict = directory.strict_virtual_addresses();
    let service = move |ip| (ip, Membership::service().with_strict(strict.contains(&ip)));
    workloads.chain(directory.virtual_addresses().map(service))
}

/// An error with all its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
