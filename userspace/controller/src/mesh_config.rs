//! What an administrator sets for the whole mesh: followed, kept, put into effect, and answered in its
//! status.
//!
//! ```text
//!   API server ──watch──▶ objects ──▶ decided ──▶ kept in the cluster ──▶ in effect ──▶ all agents
//!              ◀─status──────────────────┘                       acknowledged ────────────┘
//! ```
//!
//! What was in effect last is read before anything is told to agents, and what cannot be used, or
//! cannot be kept, changes nothing of it.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use martlet_control::Server;
use martlet_kubernetes::{
    api::{ConfigObject, ConfigStatus, DEFAULT},
    events::Recorder,
    kept::{By, KeptError, Mesh},
    publish,
    seen::Problem,
    watch::{Change, Key, Source, resume},
    world::{Kind, Object, Set},
};
use martlet_model::TrustDomain;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tracing::{error, info, warn};

use crate::{
    book::Book,
    cluster::Cluster,
    limits,
    office::Clerk,
    scribe::Told,
    statuses::{Writing, Writings},
};
use verdict::Verdict;

mod verdict;

/// The kind, as it is named where it is said how well kinds are followed.
const KIND: &str = "meshconfigs";

pub struct MeshConfig {
    cluster: Cluster,
    heard: Arc<Mutex<Heard>>,
    /// Told whenever something else was heard.
    news: Arc<Notify>,
    /// What is in effect; `None`: it is not known what was.
    mesh: Option<Arc<Mesh>>,
    /// Why which object is not used.
    refused: BTreeMap<String, Problem>,
    /// What was looked at last.
    looked_at: Option<u64>,
    /// The first version that told what is in effect.
    since: Option<(By, u64)>,
    writings: Writings<ConfigStatus>,
    /// When what is in effect was kept, or found to be, last.
    kept: Instant,
    failure: Option<String>,
}

/// What the API server says.
#[derive(Default)]
struct Heard {
    objects: BTreeMap<String, Arc<ConfigObject>>,
    /// There is no object, by the server's own word.
    is_gone: bool,
    /// Whether anything was said: what there is, or that it cannot be said.
    is_any: bool,
    /// Grows with each change of what is wanted.
    version: u64,
}

/// What the agents' acknowledgements are about, and who they are.
pub struct Agents {
    pub book: Arc<Book>,
    pub server: Server<Clerk>,
    pub told: watch::Receiver<Option<Told>>,
}

impl MeshConfig {
    /// Asks what was in effect last, until that is answered.
    pub async fn open(cluster: Cluster) -> Self {
        let mut failure = None;
        let kept = loop {
            match cluster.kept_mesh().await {
                Ok(mesh) => break Some(Arc::new(mesh)),
                Err(error @ KeptError::Unreadable(_)) => {
                    error!(
                        %error,
                        "it is not known what was set for the mesh; correct the MeshConfig {DEFAULT}, \
                         or delete the ConfigMap for the defaults"
                    );
                    break None;
                }
                Err(KeptError::Unavailable(why)) => {
                    if failure.as_ref() != Some(&why) {
                        warn!(error = why, "what was set for the mesh cannot be asked for");
                    }
                    failure = Some(why);
                    sleep(limits::CLUSTER_AGAIN).await;
                }
            }
        };
        Self {
            cluster,
            heard: Arc::default(),
            news: Arc::default(),
            mesh: kept,
            refused: BTreeMap::new(),
            looked_at: None,
            since: None,
            writings: Writings::new(Instant::now()),
            kept: Instant::now(),
            failure: None,
        }
    }

    /// Follows the objects for ever.
    pub fn follow(&self) -> impl Future<Output = ()> + Send + 'static {
        let (heard, told) = (self.heard.clone(), self.news.clone());
        let (failing, cluster) = ((self.heard.clone(), self.news.clone()), self.cluster.clone());
        let source = Source::clusterwide(&self.cluster.client);
        let tell = move |change| {
            lock(&heard).take(change);
            told.notify_one();
        };
        let report = move |health: &_| {
            cluster.note_health(KIND, health);
            lock(&failing.0).is_any = true;
            failing.1.notify_one();
        };
        resume(source, known(self.mesh.as_deref()), tell, report)
    }

    /// Puts what is set into effect: what the API server says soon, or what was in effect last.
    pub async fn begin(&mut self) -> Arc<Mesh> {
        let (heard, news) = (self.heard.clone(), self.news.clone());
        let word = async {
            while !lock(&heard).is_any {
                news.notified().await;
            }
        };
        if timeout(limits::FIRST_WORD, word).await.is_err() {
            warn!(
                "the API server says nothing of the mesh config; what was in effect last is again"
            );
        }
        loop {
            let looked = self.look().await;
            self.note(looked);
            if let Some(mesh) = &self.mesh {
                return mesh.clone();
            }
            let _ = timeout(limits::CLUSTER_AGAIN, self.news.notified()).await;
        }
    }

    /// For ever.
    pub async fn run(mut self, agents: Agents) {
        let news = self.news.clone();
        let mut rounds = interval(limits::WRITING_ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = rounds.tick() => {}
                () = news.notified() => {}
            }
            let looked = self.look().await;
            let kept = self.keep_again().await;
            let written = self.write(&agents).await;
            self.note(looked.and(kept).and(written));
        }
    }

    /// Keeps what is to be in effect, and puts it there.
    async fn look(&mut self) -> Result<(), String> {
        let (decided, uids, version) = {
            let heard = lock(&self.heard);
            if self.looked_at == Some(heard.version) {
                return Ok(());
            }
            let uids = heard.objects.iter().map(|(name, one)| (name.clone(), one.uid()));
            let uids: BTreeMap<_, _> = uids.collect();
            (decide(&heard, self.cluster.trust_domain()), uids, heard.version)
        };
        let Decided { mesh, refused } = decided;
        self.refused = refused;
        let kept = match mesh {
            Some(mesh) if self.mesh.as_deref() != Some(&mesh) => self.change(mesh).await,
            _ => Ok(()),
        };
        if let Some(mesh) = self.mesh.clone() {
            let refused = self.refused.iter().map(|(name, problem)| {
                let uid = uids.get(name).cloned().unwrap_or_default();
                (Object::new(Kind::MeshConfig, "", name), uid.into(), problem.clone())
            });
            self.cluster.set_mesh(Set { mesh, refused: refused.collect() });
        }
        kept?;
        self.looked_at = Some(version);
        Ok(())
    }

    async fn change(&mut self, mesh: Mesh) -> Result<(), String> {
        let kept = self.cluster.keep_mesh(&mesh).await;
        kept.map_err(|why| format!("what is set for the mesh cannot be kept: {why}"))?;
        self.kept = Instant::now();
        let before = self.mesh.replace(Arc::new(mesh.clone()));
        let settings = &mesh.settings;
        match (before.and_then(|before| before.by.clone()), &mesh.by) {
            (Some(of), None) => {
                warn!("the MeshConfig was deleted; all is set as it would be without it");
                self.say_deleted(&of.uid).await;
            }
            (_, None) => {}
            (_, Some(By { generation, .. })) => info!(
                generation,
                default_mode = ?settings.default_mode,
                failure = ?settings.failure,
                udp = ?settings.udp,
                "this is set for the mesh"
            ),
        }
        Ok(())
    }

    /// Somebody may have removed it.
    async fn keep_again(&mut self) -> Result<(), String> {
        let Some(mesh) = self.mesh.as_ref().filter(|mesh| mesh.by.is_some()) else {
            return Ok(());
        };
        if self.kept.elapsed() < limits::PUBLISH_AGAIN {
            return Ok(());
        }
        self.kept = Instant::now();
        let kept = self.cluster.keep_mesh(mesh).await;
        kept.map_err(|why| format!("what is set for the mesh cannot be kept again: {why}"))
    }

    /// Once, since there is nothing any more to say it of.
    async fn say_deleted(&self, uid: &Arc<str>) {
        let mut recorder = Recorder::new(&self.cluster.client, &self.cluster.own_name);
        let why = "it was deleted; all is set as it would be without it";
        let object = Object::new(Kind::MeshConfig, "", DEFAULT);
        if let Err(error) = recorder.say(&object, uid, &Problem::new("Defaults", why)).await {
            warn!(error, "no Event says that the MeshConfig was deleted");
        }
    }

    async fn write(&mut self, agents: &Agents) -> Result<(), String> {
        self.hear(&agents.told);
        let objects = lock(&self.heard).objects.clone();
        self.writings.forget_all_but(|name| objects.contains_key(name));
        let (states, nodes) = (agents.server.agents(), agents.book.nodes());
        let mut written = 0;
        for (name, object) in objects {
            let by = By { uid: object.uid().into(), generation: object.generation() };
            let since = self.since.as_ref().filter(|(of, _)| *of == by).map(|(_, since)| *since);
            let mesh = self.mesh.as_ref().filter(|_| name == DEFAULT);
            let (refused, domain) = (self.refused.get(&name), self.cluster.trust_domain());
            let verdict = Verdict::of(by.generation, (refused, mesh, domain), since)
                .heard(states.iter().filter(|agent| nodes.contains_key(&agent.node)), nodes.len());
            let said = object.said();
            let wanted = verdict.status(&said, &publish::now());
            let writing = Writing {
                name: &name,
                generation: by.generation,
                said: &said,
                wanted: &wanted,
                is_whole: verdict.is_whole(),
            };
            if !self.writings.is_due(&writing, Instant::now()) {
                continue;
            }
            let writing = publish::config_status(&self.cluster.client, &name, &wanted).await;
            self.writings.tried(&name, wanted, Instant::now());
            writing.map_err(|why| format!("the status of MeshConfig {name}: {why}"))?;
            written += 1;
            if written == limits::WRITTEN_STATUSES {
                break;
            }
        }
        Ok(())
    }

    /// By which version what is in effect was told to agents.
    fn hear(&mut self, told: &watch::Receiver<Option<Told>>) {
        let told = told.borrow();
        let Some(Told { known, version }) = &*told else { return };
        let is_known = |by: &By| self.since.as_ref().is_some_and(|(of, _)| of == by);
        if let Some(by) = known.mesh.by.as_ref().filter(|by| !is_known(by)) {
            self.since = Some((by.clone(), *version));
        }
    }

    /// Said on change only.
    fn note(&mut self, done: Result<(), String>) {
        let failure = done.err();
        if let Some(error) = failure.as_ref().filter(|_| failure != self.failure) {
            warn!(error, "the mesh config could not be looked after; what was in effect stays");
        }
        self.failure = failure;
    }
}

/// What is known to have been there: whether it still is, the server is asked for itself. If it is not
/// known what was in effect, an object may have been.
fn known(kept: Option<&Mesh>) -> std::collections::HashMap<Key, String> {
    let uid = match kept {
        None => String::new(),
        Some(Mesh { by: Some(by), .. }) => by.uid.to_string(),
        Some(Mesh { by: None, .. }) => return Default::default(),
    };
    [((String::new(), DEFAULT.to_owned()), uid)].into()
}

impl Heard {
    fn take(&mut self, change: Change<ConfigObject>) {
        match change {
            Change::Is(object) => {
                let object = Arc::new(object);
                self.is_gone &= object.name() != DEFAULT;
                let before = self.objects.insert(object.name(), object.clone());
                let is_same = |before: &Arc<ConfigObject>| {
                    before.spec == object.spec
                        && before.metadata.uid == object.metadata.uid
                        && before.metadata.generation == object.metadata.generation
                };
                if before.as_ref().is_some_and(is_same) {
                    return;
                }
            }
            Change::Gone((_, name)) => {
                self.objects.remove(&name);
                self.is_gone |= name == DEFAULT;
            }
            Change::Complete => {
                self.is_any = true;
                return;
            }
        }
        self.version += 1;
    }
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Decided {
    /// What is to be in effect; `None`: what is.
    mesh: Option<Mesh>,
    refused: BTreeMap<String, Problem>,
}

fn decide(heard: &Heard, own: &TrustDomain) -> Decided {
    let mut decided = Decided { mesh: heard.is_gone.then(Mesh::default), refused: BTreeMap::new() };
    for (name, object) in &heard.objects {
        match object.read(own) {
            Ok(settings) => {
                let by = By { uid: object.uid().into(), generation: object.generation() };
                decided.mesh = Some(Mesh { settings, by: Some(by) });
            }
            Err(problem) => drop(decided.refused.insert(name.clone(), problem)),
        }
    }
    decided
}

#[cfg(test)]
mod tests {
    use martlet_kubernetes::{ObjectMeta, api::MeshSettings};
    use martlet_model::{Failure, Mode};
    use serde_json::{Value, json};

    use super::*;

    fn object(name: &str, generation: i64, spec: Value) -> ConfigObject {
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            uid: Some("1".to_owned()),
            generation: Some(generation),
            ..ObjectMeta::default()
        };
        ConfigObject { metadata, spec, status: Value::Null }
    }

    fn decided(heard: &Heard) -> Decided {
        decide(heard, &"a.org".parse().unwrap())
    }

    fn gone() -> Change<ConfigObject> {
        Change::Gone((String::new(), DEFAULT.to_owned()))
    }

    #[test]
    fn what_can_be_used_is_set_and_what_cannot_changes_nothing() {
        let mut heard = Heard::default();
        assert!(decided(&heard).mesh.is_none(), "nothing was heard");
        heard.take(Change::Is(object(DEFAULT, 1, json!({"defaultMode": "strict"}))));
        let set = decided(&heard).mesh.unwrap();
        assert_eq!(set.settings.default_mode, Some(Mode::Strict));
        assert_eq!(set.by.unwrap().generation, 1);
        heard.take(Change::Is(object(DEFAULT, 2, json!({"defaultMode": "strcit"}))));
        let Decided { mesh, refused } = decided(&heard);
        assert!(mesh.is_none());
        assert_eq!(refused[DEFAULT].reason, "Invalid");
        heard.take(Change::Is(object(DEFAULT, 3, json!({"failure": "open"}))));
        let Decided { mesh, refused } = decided(&heard);
        let settings = MeshSettings { failure: Some(Failure::Open), ..MeshSettings::default() };
        assert_eq!(mesh.unwrap().settings, settings);
        assert!(refused.is_empty());
    }

    #[test]
    fn only_an_object_that_is_gone_by_the_servers_word_means_the_defaults() {
        let mut heard = Heard::default();
        heard.take(Change::Complete);
        assert!(decided(&heard).mesh.is_none(), "a list that lacks it says nothing");
        heard.take(gone());
        assert_eq!(decided(&heard).mesh.unwrap(), Mesh::default());
        heard.take(Change::Is(object(DEFAULT, 1, json!("nonsense"))));
        assert!(decided(&heard).mesh.is_none(), "it is there again, and cannot be used");
    }

    #[test]
    fn objects_of_other_names_are_refused_and_set_nothing() {
        let mut heard = Heard::default();
        heard.take(Change::Is(object("other", 1, json!({"failure": "open"}))));
        let Decided { mesh, refused } = decided(&heard);
        assert!(mesh.is_none());
        assert_eq!(refused["other"].reason, "NotDefault");
        heard.take(Change::Gone((String::new(), "other".to_owned())));
        assert!(decided(&heard).mesh.is_none());
    }

    #[test]
    fn a_status_that_comes_back_is_no_news() {
        let mut heard = Heard::default();
        heard.take(Change::Is(object(DEFAULT, 1, json!({}))));
        let version = heard.version;
        let status = json!({"agents": "1/2"});
        heard.take(Change::Is(ConfigObject { status, ..object(DEFAULT, 1, json!({})) }));
        heard.take(Change::Complete);
        assert_eq!(heard.version, version);
        assert_eq!(heard.objects[DEFAULT].said().agents, "1/2");
    }

    #[test]
    fn what_was_in_effect_by_an_object_is_asked_for_by_its_name() {
        assert!(known(Some(&Mesh::default())).is_empty());
        let by = Some(By { uid: "1".into(), generation: 4 });
        let kept = Mesh { by, ..Mesh::default() };
        let key = (String::new(), DEFAULT.to_owned());
        assert_eq!(known(Some(&kept))[&key], "1");
        assert!(known(None).contains_key(&key), "and if it is not known what was");
    }
}
