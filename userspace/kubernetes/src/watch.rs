//! Following all objects of one kind.
//!
//! A watch can end at any time, and what begins it again is a list. Lists have been wrong before: a
//! server that was just restored, a cache that lags, a proxy that answers for another. Whoever
//! believes such a list un-enrols workloads and drops policies. So a list removes nothing here: what
//! it lacks is asked for, one by one, and goes only when the server says that it is not there.

use std::{
    collections::{HashMap, HashSet},
    fmt::Debug,
    future::Future,
    pin::pin,
};

use futures_util::{StreamExt as _, stream};
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::{
    Api, Client, Resource,
    api::ObjectMeta,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

use crate::{
    limits,
    seen::{SliceObject, SliceVersion},
};

/// Namespace and name; objects without a namespace have an empty one.
pub type Key = (String, String);

/// What has become of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<K> {
    Is(K),
    Gone(Key),
    /// All that there are have been told.
    Complete,
}

/// How well a kind of objects is followed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Why nothing new is heard at present.
    pub failure: Option<String>,
    /// How often nothing new could be heard.
    pub failures: u64,
    /// How often a list lacked an object that was there.
    pub contradictions: u64,
}

/// Where all objects of a kind are, and where those of one namespace are.
pub struct Source<K> {
    all: Api<K>,
    of: OfNamespace<K>,
}

type OfNamespace<K> = Box<dyn Fn(&str) -> Api<K> + Send + Sync>;

impl<K> Source<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    pub fn namespaced(client: &Client) -> Self {
        let (all, client) = (Api::all(client.clone()), client.clone());
        Self { all, of: Box::new(move |namespace| Api::namespaced(client.clone(), namespace)) }
    }
}

impl<K> Source<K>
where
    K: Resource<DynamicType = (), Scope = ClusterResourceScope>,
{
    pub fn clusterwide(client: &Client) -> Self {
        let (all, client) = (Api::all(client.clone()), client.clone());
        Self { all, of: Box::new(move |_| Api::all(client.clone())) }
    }
}

impl Source<SliceObject> {
    pub fn slices(client: &Client, version: SliceVersion) -> Self {
        let (all, client) = (Api::all_with(client.clone(), &version), client.clone());
        let of = move |namespace: &str| Api::namespaced_with(client.clone(), namespace, &version);
        Self { all, of: Box::new(of) }
    }
}

impl SliceVersion {
    /// The newest that a server has.
    ///
    /// # Errors
    ///
    /// The server did not say.
    pub async fn of(client: &Client) -> Result<Self, String> {
        let asked = client.list_api_groups();
        let groups = timeout(limits::QUESTION, asked).await;
        let groups = groups.map_err(|_| "no answer in time".to_owned())?;
        let groups = groups.map_err(|error| error.to_string())?;
        let group = groups.groups.iter().find(|group| group.name == "discovery.k8s.io");
        let versions = group.map(|group| group.versions.as_slice()).unwrap_or_default();
        let has = |wanted: &str| versions.iter().any(|version| version.version == wanted);
        match (has("v1"), has("v1beta1")) {
            (true, _) => Ok(Self::V1),
            (false, true) => Ok(Self::V1Beta1),
            (false, false) => Err("it has no EndpointSlices, which are needed".to_owned()),
        }
    }
}

/// Asks the server itself for one object.
trait Ask<K> {
    fn ask(&self, key: Key) -> impl Future<Output = Result<Option<K>, String>> + Send;
}

/// Follows all objects of a kind for ever.
///
/// `tell` is called with each change in its order; `report` whenever it stands otherwise.
pub async fn follow<K>(
    source: Source<K>,
    tell: impl FnMut(Change<K>) + Send,
    report: impl FnMut(&Health) + Send,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    resume(source, HashMap::new(), tell, report).await;
}

/// The same of a kind that was followed before. `known`: what there was then, and the UID of each; a
/// list that lacks it is asked about as any other is.
pub async fn resume<K>(
    source: Source<K>,
    known: HashMap<Key, String>,
    tell: impl FnMut(Change<K>) + Send,
    report: impl FnMut(&Health) + Send,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let config = watcher::Config::default().timeout(limits::WATCH_SECONDS);
    let events = watcher(source.all.clone(), config).default_backoff();
    Following::new(source, known, tell, report).run(events).await;
}

impl<K> Ask<K> for Source<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    async fn ask(&self, (namespace, name): Key) -> Result<Option<K>, String> {
        let api = (self.of)(&namespace);
        match timeout(limits::QUESTION, api.get_opt(&name)).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }
}

struct Following<A, T, H> {
    server: A,
    tell: T,
    report: H,
    health: Health,
    /// What is there, and which life of its name.
    known: HashMap<Key, String>,
    /// What a list lacked, and the server has not been able to say anything about yet.
    doubtful: HashSet<Key>,
    ask_again: Instant,
    /// What the list that is being read has named.
    listed: Option<HashSet<Key>>,
}

impl<A, T, H> Following<A, T, H> {
    fn new(server: A, known: HashMap<Key, String>, tell: T, report: H) -> Self {
        Self {
            server,
            tell,
            report,
            health: Health::default(),
            known,
            doubtful: HashSet::new(),
            ask_again: Instant::now(),
            listed: None,
        }
    }

    async fn run<K>(&mut self, events: impl stream::Stream<Item = watcher::Result<Event<K>>>)
    where
        K: Resource + Clone,
        A: Ask<K>,
        T: FnMut(Change<K>),
        H: FnMut(&Health),
    {
        let mut events = pin!(events);
        loop {
            let has_doubts = !self.doubtful.is_empty();
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(event)) => self.hear(event).await,
                    Some(Err(error)) => self.fail(&error.to_string()),
                    None => return,
                },
                () = sleep_until(self.ask_again), if has_doubts => self.ask().await,
            }
        }
    }

    async fn hear<K>(&mut self, event: Event<K>)
    where
        K: Resource,
        A: Ask<K>,
        T: FnMut(Change<K>),
        H: FnMut(&Health),
    {
        if self.health.failure.take().is_some() {
            (self.report)(&self.health);
        }
        match event {
            Event::Init => self.listed = Some(HashSet::new()),
            Event::InitApply(object) => {
                let key = key(object.meta());
                self.listed.get_or_insert_default().insert(key.clone());
                self.take(key, object);
            }
            Event::InitDone => {
                let listed = self.listed.take().unwrap_or_default();
                let lacking = self.known.keys().filter(|key| !listed.contains(*key)).cloned();
                self.doubtful = lacking.collect();
                self.ask().await;
                (self.tell)(Change::Complete);
            }
            Event::Apply(object) => self.take(key(object.meta()), object),
            Event::Delete(object) => {
                let (key, uid) = (key(object.meta()), uid(object.meta()));
                // The end of an earlier life says nothing about this one.
                if self.known.get(&key).is_some_and(|known| *known == uid) {
                    self.drop(key);
                }
            }
        }
    }

    /// Asks for everything that a list lacked.
    async fn ask<K>(&mut self)
    where
        K: Resource,
        A: Ask<K>,
        T: FnMut(Change<K>),
        H: FnMut(&Health),
    {
        let keys = std::mem::take(&mut self.doubtful);
        if keys.is_empty() {
            return;
        }
        let server = &self.server;
        let asked = stream::iter(keys).map(|key| async {
            let answer = server.ask(key.clone()).await;
            (key, answer)
        });
        let answers: Vec<_> = asked.buffer_unordered(limits::ASKED_AT_ONCE).collect().await;
        for (key, answer) in answers {
            match answer {
                Ok(Some(object)) => {
                    warn!(namespace = key.0, name = key.1, "a list lacked an object that is there");
                    self.health.contradictions += 1;
                    (self.report)(&self.health);
                    self.take(key, object);
                }
                Ok(None) => self.drop(key),
                Err(error) => {
                    info!(
                        namespace = key.0,
                        name = key.1,
                        error,
                        "a list lacks it, and it is not known whether it is there; it stays"
                    );
                    self.doubtful.insert(key);
                }
            }
        }
        self.ask_again = Instant::now() + limits::ASK_AGAIN;
    }

    fn take<K: Resource>(&mut self, key: Key, object: K)
    where
        T: FnMut(Change<K>),
    {
        self.doubtful.remove(&key);
        self.known.insert(key, uid(object.meta()));
        (self.tell)(Change::Is(object));
    }

    fn drop<K>(&mut self, key: Key)
    where
        T: FnMut(Change<K>),
    {
        self.doubtful.remove(&key);
        self.known.remove(&key);
        (self.tell)(Change::Gone(key));
    }

    fn fail(&mut self, error: &str)
    where
        H: FnMut(&Health),
    {
        if self.health.failure.as_deref() != Some(error) {
            warn!(error, "the API server cannot be followed; what is known stays");
        }
        self.health.failure = Some(error.to_owned());
        self.health.failures += 1;
        (self.report)(&self.health);
    }
}

fn key(metadata: &ObjectMeta) -> Key {
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

fn uid(metadata: &ObjectMeta) -> String {
    metadata.uid.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests;
