//! What the agent says about itself: gathered from whoever knows it, when somebody asks.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Instant, SystemTime},
};

use arc_swap::ArcSwap;
use martlet_dataplane::{Bound, Dataplane, View};
use martlet_identity::{Credentials, describe};
use martlet_kernel::{Confinement, Finding, Missing, Node};
use martlet_model::{
    Failure, Label, Workload, WorkloadName,
    coverage::{Coverage, CoverageTotals},
    report::{
        CertificateReport, Certificates, CheckReport, Connections, ControllerReport, Counter,
        LeafReport, Repair, Status, WorkloadReport, Workloads,
    },
};
use martlet_standalone::NodeFile;
use martlet_telemetry::{Metrics, Reports, Totals};
use martlet_workload_api::Counts;

use crate::{
    app::traces,
    check,
    coverage::Names,
    issuer::Issuer,
    renewal::{Renewal, unix_seconds},
    upkeep::Upkeep,
};

/// What a workload of this node is at.
pub enum State {
    /// Declared, and not enrolled for this reason.
    Seen(String),
    Steered {
        credentials: Arc<Credentials>,
        renewal: Option<Renewal>,
        /// Whether its `sk_lookup` program is in its network namespace.
        is_attached: bool,
        /// Why its guard is not everywhere where it should be.
        unguarded: Option<String>,
        /// Why it is strict and still has connections in plaintext.
        unclosed: Option<String>,
        /// Why it is not offered the Workload API that it asks for.
        unserved: Option<String>,
    },
}

/// The node file in use.
#[derive(Clone)]
pub struct InUse {
    pub file: Arc<NodeFile>,
    /// SHA-256 of its text, in hex.
    pub digest: String,
    /// Why the newest file was not taken, if it was not.
    pub error: Option<String>,
}

/// What reports are made of. Components write their part; reports read.
pub struct Shared {
    started: Instant,
    pub name: Label,
    pub missing: Vec<Missing>,
    /// What the agent has given up; set before anybody asks.
    pub confinement: OnceLock<Confinement>,
    configuration: Mutex<InUse>,
    states: Mutex<BTreeMap<WorkloadName, State>>,
    prober_problem: Mutex<Option<String>>,
    /// How many connections an agent carries still that was taken over from.
    predecessor: Mutex<Option<usize>>,
    /// Whether another agent has taken over from this one.
    handed_over: AtomicBool,
    pub issuer: Arc<Issuer>,
    pub dataplane: Arc<Dataplane>,
    pub view: Arc<ArcSwap<View>>,
    /// Set once the programs are attached.
    pub node: OnceLock<Arc<Node>>,
    upkeep: Mutex<Upkeep>,
    /// Of those that the ledger counts.
    pub names: Names,
    /// How often the Workload API was used.
    pub workload_api: Arc<Counts>,
    /// What became of spans; set where connections are traced.
    pub spans: OnceLock<Arc<martlet_traces::Counts>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is one assignment or one insertion.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub fn new(
        configuration: InUse,
        missing: Vec<Missing>,
        issuer: Arc<Issuer>,
        dataplane: Arc<Dataplane>,
        view: Arc<ArcSwap<View>>,
    ) -> Self {
        Self {
            started: Instant::now(),
            name: configuration.file.settings.name.clone(),
            missing,
            confinement: OnceLock::new(),
            configuration: Mutex::new(configuration),
            states: Mutex::default(),
            prober_problem: Mutex::default(),
            predecessor: Mutex::default(),
            handed_over: AtomicBool::new(false),
            issuer,
            dataplane,
            view,
            node: OnceLock::new(),
            upkeep: Mutex::default(),
            names: Names::default(),
            workload_api: Arc::default(),
            spans: OnceLock::new(),
        }
    }

    pub fn configuration(&self) -> InUse {
        lock(&self.configuration).clone()
    }

    pub fn set_configuration(&self, digest: String, file: Arc<NodeFile>) {
        *lock(&self.configuration) = InUse { file, digest, error: None };
    }

    pub fn clear_configuration_error(&self) {
        lock(&self.configuration).error = None;
    }

    pub fn set_configuration_error(&self, error: String) {
        lock(&self.configuration).error = Some(error);
    }

    /// Whether this is another reason than the last one for which the workload is not enrolled.
    pub fn is_news(&self, name: &WorkloadName, reason: &str) -> bool {
        !matches!(lock(&self.states).get(name), Some(State::Seen(known)) if known == reason)
    }

    pub fn set_waiting(&self, name: &WorkloadName, reason: String) {
        lock(&self.states).insert(name.clone(), State::Seen(reason));
    }

    /// Why nobody can probe in plaintext who may; whether that is news.
    pub fn set_prober_problem(&self, problem: Option<String>) -> bool {
        let mut known = lock(&self.prober_problem);
        let is_news = *known != problem;
        *known = problem;
        is_news
    }

    pub fn set_predecessor(&self, open: Option<usize>) {
        *lock(&self.predecessor) = open;
    }

    pub fn set_handed_over(&self) {
        self.handed_over.store(true, Ordering::Relaxed);
    }

    /// What is known of a workload of this node.
    pub fn with_state<T>(&self, name: &WorkloadName, look: impl FnOnce(Option<&State>) -> T) -> T {
        look(lock(&self.states).get(name))
    }

    /// Those that are steered now, and no others; those that wait stay what they are if they are
    /// declared.
    pub fn set_steered(&self, steered: BTreeMap<WorkloadName, State>) {
        let declared = self.view.load();
        let mut states = lock(&self.states);
        states.retain(|name, state| {
            matches!(state, State::Seen(_))
                && declared.directory.workload_addresses().any(|(_, w)| w.name == *name)
        });
        states.extend(steered);
    }

    /// Why the agent is not ready; empty when it is.
    pub fn not_ready(&self) -> Vec<String> {
        if self.handed_over.load(Ordering::Relaxed) {
            return vec!["another agent has taken over from this one".to_owned()];
        }
        let mut reasons: Vec<_> = self.missing.iter().map(ToString::to_string).collect();
        reasons.extend(
            self.confinement.get().map(|confined| confined.missing.clone()).unwrap_or_default(),
        );
        match self.node.get() {
            Some(node) => {
                let hooks = node.hooks();
                let detached = hooks.iter().filter(|hook| !hook.attached);
                reasons.extend(detached.map(|hook| format!("the hook {} is gone", hook.name)));
            }
            None if self.controller().is_some_and(|said| said.version.is_none()) => {
                let away = self.controller().and_then(|controller| controller.away);
                let why = away.map(|why| format!(": {why}")).unwrap_or_default();
                reasons.push(format!("the controller has not said who is in the mesh yet{why}"));
            }
            None if reasons.is_empty() => {
                reasons.push("the kernel programs are not attached yet".to_owned());
            }
            None => {}
        }
        reasons.extend_from_slice(lock(&self.upkeep).open());
        reasons.extend(lock(&self.prober_problem).clone());
        let states = lock(&self.states);
        for wanted in &lock(&self.configuration).file.local {
            let name = &wanted.workload.name;
            match states.get(name) {
                Some(State::Steered {
                    is_attached: true, unguarded, unclosed, unserved, ..
                }) => {
                    let said =
                        |what: &'static str| move |why: &String| format!("{name} {what}: {why}");
                    reasons.extend(unguarded.as_ref().map(said("is not guarded")));
                    reasons.extend(unclosed.as_ref().map(said("still has plaintext")));
                    let not_offered = said("is not offered the Workload API");
                    reasons.extend(unserved.as_ref().map(not_offered));
                }
                Some(State::Steered { .. }) => {
                    reasons.push(format!("{name} is not enrolled: its sk_lookup program is gone"));
                }
                Some(State::Seen(why)) => reasons.push(format!("{name} is not enrolled: {why}")),
                None => reasons.push(format!("{name} is not enrolled yet")),
            }
        }
        reasons
    }

    /// How it stands with the controller, if there is one.
    pub fn controller(&self) -> Option<ControllerReport> {
        let client = self.issuer.client()?;
        let link = client.link().borrow().clone();
        Some(ControllerReport {
            address: client.settings().controller.clone(),
            away: link.connected.err(),
            since: unix_seconds(link.since),
            version: client.declared().borrow().as_ref().map(|declared| declared.version),
            refused: link.refused,
            clock: link.clock,
            certificate_expires: link.certificate_expires.map(unix_seconds),
        })
    }

    /// Takes what a look at the kernel has found.
    pub fn take_findings(&self, findings: Vec<Finding>, metrics: &Metrics) {
        lock(&self.upkeep).take(findings, metrics, SystemTime::now());
    }

    pub fn repairs(&self) -> Vec<Repair> {
        lock(&self.upkeep).repairs()
    }

    pub fn leaves(&self) -> Vec<LeafReport> {
        let leaf = |(name, state): (&WorkloadName, &State)| match state {
            State::Seen(_) => None,
            State::Steered { credentials, renewal, .. } => Some(LeafReport {
                workload: name.clone(),
                chain: credentials.current()?.report().ok()?,
                renews_at: renewal.as_ref().map_or(0, |renewal| unix_seconds(renewal.due())),
                renewal_error: renewal.as_ref().and_then(Renewal::error).map(str::to_owned),
            }),
        };
        lock(&self.states).iter().filter_map(leaf).collect()
    }

    pub fn roots(&self) -> Vec<CertificateReport> {
        self.issuer.roots().iter().filter_map(|der| describe(der).ok()).collect()
    }

    fn workload(&self, workload: &Workload) -> WorkloadReport {
        let states = lock(&self.states);
        let (state, reason) = match states.get(&workload.name) {
            _ if workload.node != self.name => ("remote", None),
            Some(State::Steered { .. }) => ("steered", None),
            Some(State::Seen(reason)) => ("failed", Some(reason.clone())),
            None => ("seen", None),
        };
        WorkloadReport {
            name: workload.name.clone(),
            identity: workload.identity.clone(),
            addresses: workload.addresses.clone(),
            node: workload.node.clone(),
            mode: workload.mode,
            state: state.to_owned(),
            reason,
        }
    }
}

/// The shared state, as the admin endpoints ask for it.
pub struct Answers(pub Arc<Shared>);

impl Answers {
    /// The programs' verdicts, and the agent's at its bounds.
    fn counters(&self) -> Vec<Counter> {
        let node = self.0.node.get();
        let mut counters = node.and_then(|node| node.counters().ok()).unwrap_or_default();
        let bound = |(bound, count): (Bound, u64)| Counter {
            hook: "agent".to_owned(),
            verdict: bound.as_str().to_owned(),
            count,
        };
        counters.extend(self.0.dataplane.stats().bounds().map(bound));
        counters
    }
}

impl Reports for Answers {
    fn status(&self) -> Status {
        let shared = &self.0;
        let InUse { file, digest, error } = shared.configuration();
        let not_ready = shared.not_ready();
        let node = shared.node.get();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: shared.name.clone(),
            trust_domain: file.trust_domain.clone(),
            ready: not_ready.is_empty(),
            not_ready,
            uptime_seconds: shared.started.elapsed().as_secs(),
            configuration: digest,
            configuration_error: error,
            unconfined: shared.confinement.get().map(Confinement::shortfalls).unwrap_or_default(),
            fails_open: file.settings.failure == Failure::Open,
            controller: shared.controller(),
            workloads: file.local.len(),
            connections: shared.dataplane.open(),
            idle_lanes: shared.dataplane.idle_lanes(),
            hooks: node.map(|node| node.hooks()).unwrap_or_default(),
            counters: self.counters(),
            repairs: shared.repairs(),
            predecessor: *lock(&shared.predecessor),
        }
    }

    fn workloads(&self) -> Workloads {
        let view = self.0.view.load_full();
        let mut workloads = BTreeMap::new();
        for (_, workload) in view.directory.workload_addresses() {
            workloads.entry(&workload.name).or_insert_with(|| self.0.workload(workload));
        }
        Workloads { workloads: workloads.into_values().collect() }
    }

    fn connections(&self) -> Connections {
        Connections { connections: self.0.dataplane.connections() }
    }

    fn certificates(&self) -> Certificates {
        Certificates { roots: self.0.roots(), leaves: self.0.leaves() }
    }

    fn check(&self) -> CheckReport {
        check::report(&self.0)
    }

    fn coverage(&self) -> Coverage {
        let shared = &self.0;
        match shared.node.get() {
            Some(node) => shared.names.report(&shared.name, node, &shared.view.load().directory),
            None => Coverage { node: shared.name.clone(), pairs: Vec::new() },
        }
    }

    fn totals(&self) -> Totals {
        let stats = self.0.dataplane.stats();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Totals {
            connections_opened: read(&stats.opened),
            handshakes_originated: read(&stats.handshakes_originated),
            handshakes_terminated: read(&stats.handshakes_terminated),
            handshakes_failed: read(&stats.handshakes_failed),
            records_dropped: read(&stats.records_dropped),
            workload_api_answered: self.0.workload_api.calls(),
            workload_api_refused: self.0.workload_api.refused(),
            spans: self.0.spans.get().map(|counts| traces::totals(counts)).unwrap_or_default(),
            coverage: CoverageTotals::of(&self.coverage().pairs),
        }
    }
}

#[cfg(test)]
mod tests {
    use martlet_ebpf_shared::Event;
    use martlet_telemetry::{FAILED_OPEN_INBOUND, FAILED_OPEN_OUTBOUND, PLAINTEXT_LET_IN};

    #[test]
    fn plaintext_is_counted_under_the_name_that_metrics_look_for() {
        for (event, name) in [
            (Event::LookupPlaintext, PLAINTEXT_LET_IN),
            (Event::ConnectFailedOpen, FAILED_OPEN_OUTBOUND),
            (Event::LookupFailedOpen, FAILED_OPEN_INBOUND),
        ] {
            assert_eq!((event.hook(), event.verdict()), name);
        }
    }
}
