//! Writes into the cluster what has become of its objects: statuses of policies, pods' enrolment,
//! and Events.
//!
//! Nothing waits for it, and what cannot be written is tried again.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use martlet_control::Server;
use martlet_kubernetes::{
    events::{Due, Recorder},
    publish,
    seen::Problem,
    standing::{self, Written},
    world::{Kind, Noted, Object},
};
use martlet_model::{Label, NetnsSource, WorkloadName};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval},
};
use tracing::warn;

use crate::{
    book::Known, cluster::Cluster, limits, office::Clerk, programming::Programming,
    standings::Standings,
};

/// What was declared to the agents, and by which version.
#[derive(Clone)]
pub struct Told {
    pub known: Arc<Known>,
    pub version: u64,
}

/// A certificate that a node did not get for a workload.
#[derive(Debug, PartialEq, Eq)]
pub struct RefusedPod {
    pub node: Label,
    pub workload: WorkloadName,
    pub why: String,
}

pub struct Scribe {
    cluster: Cluster,
    server: Server<Clerk>,
    told: watch::Receiver<Option<Told>>,
    refused: mpsc::Receiver<RefusedPod>,
    programming: Programming,
    standings: Standings,
    recorder: Recorder,
    due: Due,
    /// What was refused lately.
    refusals: BTreeMap<Object, (Arc<str>, Problem, Instant)>,
    /// Of which `due` knows.
    problems: Arc<HashMap<Object, Noted>>,
    failure: Option<String>,
}

impl Scribe {
    pub fn new(
        cluster: Cluster,
        server: Server<Clerk>,
        told: watch::Receiver<Option<Told>>,
        refused: mpsc::Receiver<RefusedPod>,
    ) -> Self {
        let recorder = Recorder::new(&cluster.client, &cluster.own_name);
        Self {
            cluster,
            server,
            told,
            refused,
            programming: Programming::new(Instant::now()),
            standings: Standings::default(),
            recorder,
            due: Due::default(),
            refusals: BTreeMap::new(),
            problems: Arc::default(),
            failure: None,
        }
    }

    /// For ever.
    pub async fn run(mut self) {
        let mut rounds = interval(limits::WRITING_ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            self.hear();
            let written = self.write_statuses().await;
            let stood = self.write_standings().await;
            let said = self.say_events().await;
            self.note(written.and(stood).and(said));
        }
    }

    fn hear(&mut self) {
        let now = Instant::now();
        if self.told.has_changed().unwrap_or_default() {
            let told = self.told.borrow_and_update().clone();
            if let Some(Told { known, version }) = told {
                self.programming.hear(&known.concerns, version, now);
            }
        }
        let Some(Told { known, .. }) = self.told.borrow().clone() else { return };
        let before = self.refusals.len();
        self.refusals.retain(|_, (.., at)| at.elapsed() < limits::REFUSAL_LASTS);
        let mut is_other = before != self.refusals.len();
        while let Ok(refused) = self.refused.try_recv() {
            if let Some((object, uid, problem)) = refusal(&known, refused)
                && self.refusals.len() < limits::REFUSALS
            {
                self.refusals.insert(object, (uid, problem, now));
                is_other = true;
            }
        }
        if is_other || !Arc::ptr_eq(&self.problems, &known.problems) {
            self.problems = known.problems.clone();
            let noted = self.problems.iter().flat_map(|(object, noted)| {
                noted.problems.iter().map(move |problem| (object, &noted.uid, problem))
            });
            let refused = self.refusals.iter();
            let refused = refused.map(|(object, (uid, problem, _))| (object, uid, problem));
            self.due.become_like(noted.chain(refused), now);
        }
    }

    async fn write_statuses(&mut self) -> Result<(), String> {
        if self.programming.is_settled() {
            return Ok(());
        }
        let agents = self.server.agents().into_iter().map(|agent| (agent.node.clone(), agent));
        let agents: HashMap<_, _> = agents.collect();
        let (most, now) = (limits::WRITTEN_STATUSES, Instant::now());
        for (key, status) in self.programming.due(&agents, most, now, &publish::now()) {
            let (namespace, name) = (key.0.as_str(), key.1.as_str());
            let written = publish::status(&self.cluster.client, namespace, name, &status).await;
            self.programming.tried(&key, status, Instant::now());
            written.map_err(|why| format!("the status of policy {namespace}/{name}: {why}"))?;
        }
        Ok(())
    }

    async fn write_standings(&mut self) -> Result<(), String> {
        let now = Instant::now();
        self.standings.know(self.cluster.touched(), now);
        for (node, pod) in self.server.heard() {
            self.standings.hear(&node, &pod, now);
        }
        let standing = |node: &Label, pod: &WorkloadName| self.server.standing(node, pod);
        let mut failure = Ok(());
        for one in self.standings.due(limits::WRITTEN_STANDINGS, now, standing) {
            // A server that does not answer is not asked for each of them.
            if failure.is_err() {
                self.standings.failed(&one.pod, Instant::now());
                continue;
            }
            let (before, said) = (one.before.as_ref(), one.said.as_ref());
            let client = &self.cluster.client;
            match standing::say(client, &one.pod, &one.uid, before, said).await {
                Ok(Written::Yes) => self.standings.wrote(one, Instant::now()),
                // Its end, or its next life, comes with the watch.
                Ok(Written::NoSuchPod) => {}
                Err(why) => {
                    self.standings.failed(&one.pod, Instant::now());
                    failure = Err(format!("how pod {} stands: {why}", one.pod));
                }
            }
        }
        failure
    }

    async fn say_events(&mut self) -> Result<(), String> {
        self.recorder.say_due(&mut self.due, limits::SAID_EVENTS).await
    }

    /// Said on change only.
    fn note(&mut self, done: Result<(), String>) {
        let failure = done.err();
        if let Some(error) = failure.as_ref().filter(|_| failure != self.failure) {
            warn!(error, "what has become of an object was not written");
        }
        self.failure = failure;
    }
}

/// A node speaks for its own pods only.
fn refusal(known: &Known, refused: RefusedPod) -> Option<(Object, Arc<str>, Problem)> {
    let RefusedPod { node, workload, why } = refused;
    let local = known.local(&workload).filter(|local| local.workload.node == node)?;
    let NetnsSource::Pod(uid) = &local.netns else { return None };
    let object = Object::new(Kind::Pod, workload.namespace.as_str(), workload.name.as_str());
    Some((object, uid.clone(), Problem::new("CertificateRefused", why)))
}
