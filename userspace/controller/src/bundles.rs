//! Trust bundles of the cluster: followed, put into effect, and answered in their statuses.
//!
//! ```text
//!   API server ──watch──▶ objects ──▶ reconcile ──▶ the trust, kept ──▶ all agents
//!              ◀─status, Events──────────┘ outcomes       acknowledged ────┘
//! ```

mod reconcile;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use martlet_control::Server;
use martlet_kubernetes::{
    api::{BundleObject, BundleStatus, Condition},
    events::{Due, Recorder},
    publish,
    watch::{Change, Source, follow},
    world::{Kind, Object},
};
use tokio::{
    sync::Notify,
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval},
};
use tracing::{info, warn};

use crate::{
    book::Book,
    cluster::Cluster,
    federate::Federation,
    limits,
    office::Clerk,
    statuses::{Status, Writing, Writings, is_true},
};
use reconcile::{Declared, Outcome};

/// The kind, as it is named where it is said how well kinds are followed.
const KIND: &str = "trustbundles";

pub struct Bundles {
    cluster: Cluster,
    book: Arc<Book>,
    server: Server<Clerk>,
    federation: Arc<Federation>,
    /// Told whenever the trust was changed.
    changed: Arc<Notify>,
    heard: Arc<Mutex<Heard>>,
    /// Of which objects and trust the outcomes are.
    looked_at: Option<(u64, u64)>,
    outcomes: BTreeMap<String, Outcome>,
    /// Of which generation each object was accepted here.
    accepted: HashMap<(String, i64), u64>,
    writings: Writings<BundleStatus>,
    recorder: Recorder,
    due: Due,
    failure: Option<String>,
}

/// What the API server says.
#[derive(Default)]
struct Heard {
    objects: BTreeMap<String, Arc<BundleObject>>,
    is_complete: bool,
    /// Grows with each change of what is wanted.
    version: u64,
}

impl Bundles {
    pub fn new(
        cluster: Cluster,
        book: Arc<Book>,
        server: Server<Clerk>,
        federation: Arc<Federation>,
        changed: Arc<Notify>,
    ) -> Self {
        let recorder = Recorder::new(&cluster.client, &cluster.own_name);
        Self {
            cluster,
            book,
            server,
            federation,
            changed,
            heard: Arc::default(),
            looked_at: None,
            outcomes: BTreeMap::new(),
            accepted: HashMap::new(),
            writings: Writings::new(Instant::now()),
            recorder,
            due: Due::default(),
            failure: None,
        }
    }

    /// For ever.
    pub async fn run(mut self) {
        let (heard, cluster) = (self.heard.clone(), self.cluster.clone());
        let told = Arc::new(Notify::new());
        let tell = told.clone();
        let watching = follow(
            Source::clusterwide(&self.cluster.client),
            move |change| {
                lock(&heard).take(change);
                tell.notify_one();
            },
            move |health| cluster.note_health(KIND, health),
        );
        let deciding = async {
            let mut rounds = interval(limits::WRITING_ROUND);
            rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = rounds.tick() => {}
                    () = told.notified() => {}
                }
                let looked = self.look().await;
                let written = self.write().await;
                let said = self.say().await;
                self.note(looked.and(written).and(said));
            }
        };
        tokio::join!(watching, deciding);
    }

    /// Puts into effect what is not yet.
    async fn look(&mut self) -> Result<(), String> {
        let (objects, is_complete, version) = {
            let heard = lock(&self.heard);
            (heard.objects.clone(), heard.is_complete, heard.version)
        };
        let before = self.book.trust().version;
        if self.looked_at == Some((version, before)) || version == 0 {
            return Ok(());
        }
        let (book, federation) = (self.book.clone(), self.federation.clone());
        let accepted = self.accepted.clone();
        let looking = spawn_blocking(move || {
            let was_accepted = |object: &BundleObject| was_accepted(object, &accepted);
            let is_followed = |domain: &_| federation.follows(domain);
            let declared = Declared {
                objects: &objects,
                is_complete,
                was_accepted: &was_accepted,
                is_followed: &is_followed,
            };
            let now = SystemTime::now();
            let done = book.with_store(|store| reconcile::reconcile(store, &declared, now));
            (done, objects)
        });
        let (done, objects) = looking.await.map_err(|_| "the controller is stopping".to_owned())?;
        let outcomes = done.map_err(|error| crate::admin::chain(&error))?;
        let after = self.book.trust().version;
        if after != before {
            info!(version = after, "trust bundles of the cluster have changed whom to trust");
            self.changed.notify_one();
        }
        let of_now = |name: &String, generation: i64| {
            objects.get(name).is_some_and(|object| object.generation() == generation)
        };
        self.accepted.retain(|(name, generation), _| of_now(name, *generation));
        for (name, object) in &objects {
            let is_accepted = outcomes.get(name).is_some_and(|one| one.refused.is_none());
            if is_accepted {
                let key = (name.clone(), object.generation());
                self.accepted.entry(key).or_insert(after);
            }
        }
        self.note_problems(&objects, &outcomes);
        self.looked_at = Some((version, after));
        self.outcomes = outcomes;
        Ok(())
    }

    fn note_problems(
        &mut self,
        objects: &BTreeMap<String, Arc<BundleObject>>,
        outcomes: &BTreeMap<String, Outcome>,
    ) {
        let refused = outcomes.iter().filter_map(|(name, outcome)| {
            let uid: Arc<str> = objects.get(name)?.uid().into();
            Some((Object::new(Kind::TrustBundle, "", name), uid, outcome.refused.as_ref()?))
        });
        let refused: Vec<_> = refused.collect();
        for (object, _, problem) in &refused {
            let is_news = self
                .outcomes
                .get(&object.name)
                .is_none_or(|before| before.refused.as_ref() != Some(problem));
            if is_news {
                let (reason, message) = (problem.reason, &problem.message);
                warn!(%object, reason, message, "a trust bundle is not used; what was before stays");
            }
        }
        let all = refused.iter().map(|(object, uid, problem)| (object, uid, *problem));
        self.due.become_like(all, Instant::now());
    }

    async fn write(&mut self) -> Result<(), String> {
        let objects = lock(&self.heard).objects.clone();
        self.writings.forget_all_but(|name| objects.contains_key(name));
        let agents = self.server.agents();
        let nodes = self.book.nodes();
        for (name, object) in objects {
            let Some(outcome) = self.outcomes.get(&name) else { continue };
            let since = self.accepted.get(&(name.clone(), object.generation())).copied();
            let of_node = |agent: &&martlet_control::AgentState| nodes.contains_key(&agent.node);
            let goes_by_it = |agent: &&martlet_control::AgentState| {
                since.is_some_and(|since| agent.acknowledged.trust_version >= since)
            };
            let enforcing = agents.iter().filter(of_node).filter(goes_by_it).count();
            let said = object.said();
            let verdict = Verdict {
                generation: object.generation(),
                outcome,
                enforcing,
                concerned: nodes.len(),
            };
            let wanted = verdict.status(&said, &publish::now());
            let writing = Writing {
                name: &name,
                generation: verdict.generation,
                said: &said,
                wanted: &wanted,
                is_whole: verdict.enforcing == verdict.concerned,
            };
            if !self.writings.is_due(&writing, Instant::now()) {
                continue;
            }
            let written = publish::bundle_status(&self.cluster.client, &name, &wanted).await;
            self.writings.tried(&name, wanted, Instant::now());
            written.map_err(|why| format!("the status of trust bundle {name}: {why}"))?;
        }
        Ok(())
    }

    async fn say(&mut self) -> Result<(), String> {
        self.recorder.say_due(&mut self.due, limits::SAID_EVENTS).await
    }

    /// Said on change only.
    fn note(&mut self, done: Result<(), String>) {
        let failure = done.err();
        if let Some(error) = failure.as_ref().filter(|_| failure != self.failure) {
            warn!(error, "trust bundles of the cluster could not be looked after");
        }
        self.failure = failure;
    }
}

impl Heard {
    fn take(&mut self, change: Change<BundleObject>) {
        match change {
            Change::Is(object) => {
                let object = Arc::new(object);
                let before = self.objects.insert(object.name(), object.clone());
                let is_same = |before: &Arc<BundleObject>| {
                    before.spec == object.spec && before.metadata.uid == object.metadata.uid
                };
                if before.as_ref().is_some_and(is_same) {
                    return;
                }
            }
            Change::Gone((_, name)) => drop(self.objects.remove(&name)),
            Change::Complete if self.is_complete => return,
            Change::Complete => self.is_complete = true,
        }
        self.version += 1;
    }
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn was_accepted(object: &BundleObject, here: &HashMap<(String, i64), u64>) -> bool {
    let generation = object.generation();
    here.contains_key(&(object.name(), generation))
        || is_true(&object.said().conditions, "Accepted", generation)
}

impl Status for BundleStatus {
    fn conditions(&self) -> &[Condition] {
        &self.conditions
    }
}

/// What is known of an object.
struct Verdict<'a> {
    generation: i64,
    outcome: &'a Outcome,
    enforcing: usize,
    concerned: usize,
}

impl Verdict<'_> {
    fn status(&self, said: &BundleStatus, now: &str) -> BundleStatus {
        let conditions = [self.accepted(now), self.programmed(now)];
        let (enforcing, concerned) = (self.enforcing, self.concerned);
        BundleStatus {
            conditions: conditions.map(|one| one.after(&said.conditions)).into(),
            agents: format!("{enforcing}/{concerned}"),
            roots: u32::try_from(self.outcome.roots).unwrap_or(u32::MAX),
        }
    }

    fn accepted(&self, now: &str) -> Condition {
        Condition::accepted(
            self.outcome.refused.as_ref(),
            "it is used as it is written",
            self.generation,
            now,
        )
    }

    fn programmed(&self, now: &str) -> Condition {
        let Self { enforcing, concerned, outcome, .. } = self;
        let (status, reason, message) = if outcome.refused.is_some() {
            let why = match outcome.roots {
                0 => "no root of it is trusted".to_owned(),
                count => format!("the {count} roots that it brought before stay trusted"),
            };
            ("False", "NotAccepted", why)
        } else if outcome.is_removed {
            let why = "the domain was removed by `martlet trust remove`; what changes the object's \
                       spec, or `martlet trust import`, brings it back";
            ("False", "Removed", why.to_owned())
        } else if enforcing < concerned {
            ("False", "Pending", format!("{enforcing} of {concerned} agents go by it"))
        } else {
            ("True", "Programmed", format!("{concerned} of {concerned} agents go by it"))
        };
        Condition::new("Programmed", (status, reason, message), self.generation, now)
    }
}

#[cfg(test)]
mod tests {
    use martlet_kubernetes::ObjectMeta;
    use serde_json::{Value, json};

    use martlet_kubernetes::seen::Problem;

    use super::*;

    fn object(name: &str, spec: Value) -> BundleObject {
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        BundleObject { metadata, spec, status: Value::Null }
    }

    #[test]
    fn a_list_that_begins_again_and_a_status_that_comes_back_are_no_news() {
        let mut heard = Heard::default();
        heard.take(Change::Is(object("b", json!({"pem": "1"}))));
        heard.take(Change::Complete);
        let version = heard.version;
        heard.take(Change::Is(object("b", json!({"pem": "1"}))));
        heard.take(Change::Complete);
        assert_eq!(heard.version, version);
        heard.take(Change::Is(object("b", json!({"pem": "2"}))));
        heard.take(Change::Gone((String::new(), "b".to_owned())));
        assert_eq!((heard.version, heard.objects.len()), (version + 2, 0));
    }

    #[test]
    fn its_status_says_what_has_become_of_it_and_where() {
        let said = |outcome: &Outcome, enforcing| {
            let verdict = Verdict { generation: 3, outcome, enforcing, concerned: 2 };
            let status = verdict.status(&BundleStatus::default(), "2026-01-01T00:00:00Z");
            let [accepted, programmed] = &status.conditions[..] else { panic!("there are two") };
            let text = |one: &Condition| format!("{} {}", one.status, one.reason);
            assert_eq!((accepted.observed_generation, programmed.observed_generation), (3, 3));
            (text(accepted), text(programmed), status.agents.clone())
        };
        let is = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        let used = Outcome { refused: None, is_removed: false, roots: 1 };
        assert_eq!(said(&used, 2), is("True Accepted", "True Programmed", "2/2"));
        assert_eq!(said(&used, 1), is("True Accepted", "False Pending", "1/2"));
        let refused = Some(Problem::new("Invalid", "pem"));
        let refused = Outcome { refused, ..used.clone() };
        assert_eq!(said(&refused, 0), is("False Invalid", "False NotAccepted", "0/2"));
        let removed = Outcome { is_removed: true, ..used };
        assert_eq!(said(&removed, 2), is("True Accepted", "False Removed", "2/2"));
    }
}
