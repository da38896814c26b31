//! Following all objects of one kind.
//!
//! A watch can end at any time, and what begins it again is a list. Lists have been wrong before: a
//! server that was just restored, a cache that lags, a proxy that answers for another. Whoever
//! believes such a list un-enrols workloads and drops policies. So a list removes nothing here: what
//! it lacks is asked for, one by one, and goes only when the server says that it is not there. The same
//! is done with whatever is older than what is known, or has ended already: it would bring back the
//! label or the policy of before. And a list that was wrong about one object is taken anew as a whole,
//! since what it lacks of what is not known yet nobody could ask for.

mod ended;
mod feed;

use std::{
    collections::{HashMap, HashSet},
    fmt::Debug,
    future::Future,
    pin::pin,
};

use futures_util::{StreamExt as _, stream};
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::{Api, Client, Resource, api::ObjectMeta};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

use crate::{
    limits,
    seen::{SliceObject, SliceVersion},
};
use ended::Ended;
use feed::{Anew, Event, feed};

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
    /// How often something was said that is older than what was known.
    pub outdated: u64,
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

/// The same of a kind of which something is known. `known`: what there was before, and the UID of each,
/// empty for what is certain to be there whatever its UID; a list that lacks it is asked about as any
/// other is.
pub async fn resume<K>(
    source: Source<K>,
    known: HashMap<Key, String>,
    tell: impl FnMut(Change<K>) + Send,
    report: impl FnMut(&Health) + Send,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let anew = Anew::default();
    // Several of them are joined, and what holds a list is large.
    let events = feed(source.all.clone(), anew.clone()).boxed();
    Following::new(source, known, anew, tell, report).run(events).await;
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
    anew: Anew,
    tell: T,
    report: H,
    health: Health,
    known: HashMap<Key, Life>,
    ended: Ended,
    /// What the server has not been able to say anything about yet.
    doubtful: HashMap<Key, Doubt>,
    ask_again: Instant,
    /// What the list that is being read has named.
    listed: Option<HashSet<Key>>,
}

/// Of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Life {
    /// Empty: that of something that is certain to be there.
    uid: String,
    /// `None`: the server gives versions that are no numbers, or it is not known.
    version: Option<u64>,
}

/// Why the server itself is asked for an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    /// A list lacks it.
    Lacked,
    /// Something older was said of it than what is known.
    Outdated,
}

impl<A, T, H> Following<A, T, H> {
    fn new(server: A, known: HashMap<Key, String>, anew: Anew, tell: T, report: H) -> Self {
        let known = known.into_iter().map(|(key, uid)| (key, Life { uid, version: None }));
        Self {
            server,
            anew,
            tell,
            report,
            health: Health::default(),
            known: known.collect(),
            ended: Ended::default(),
            doubtful: HashMap::new(),
            ask_again: Instant::now(),
            listed: None,
        }
    }

    async fn run<K>(&mut self, events: impl stream::Stream<Item = Result<Event<K>, String>>)
    where
        K: Resource + Clone,
        A: Ask<K>,
        T: FnMut(Change<K>),
        H: FnMut(&Health),
    {
        let mut events = pin!(events);
        loop {
            // What a list names last may answer it.
            let is_to_ask = !self.doubtful.is_empty() && self.listed.is_none();
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(event)) => self.hear(event).await,
                    Some(Err(error)) => self.fail(&error),
                    None => return,
                },
                () = sleep_until(self.ask_again), if is_to_ask => drop(self.ask().await),
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
            Event::Alive => {}
            Event::List => self.listed = Some(HashSet::new()),
            Event::Listed(object) => {
                let key = key(object.meta());
                self.listed.get_or_insert_default().insert(key.clone());
                self.weigh(key, object);
            }
            Event::Whole => {
                let listed = self.listed.take().unwrap_or_default();
                let lacking = self.known.keys().filter(|key| !listed.contains(*key));
                self.doubtful.extend(lacking.map(|key| (key.clone(), Doubt::Lacked)));
                match self.ask().await {
                    true => (self.tell)(Change::Complete),
                    false => self.anew.ask(),
                }
            }
            Event::Is(object) => self.weigh(key(object.meta()), object),
            Event::Gone(object) => {
                let (key, life) = (key(object.meta()), Life::of(object.meta()));
                match self.known.get(&key) {
                    Some(known) if known.uid == life.uid && life.is_before(known) => {
                        self.doubt(key);
                    }
                    Some(known) if known.uid == life.uid => self.drop(key),
                    // The end of an earlier life says nothing about this one.
                    _ => self.ended.add(life.uid),
                }
            }
        }
    }

    /// Takes what is news, and doubts what is older than what is known.
    fn weigh<K: Resource>(&mut self, key: Key, object: K)
    where
        T: FnMut(Change<K>),
        H: FnMut(&Health),
    {
        let life = Life::of(object.meta());
        let known = self.known.get(&key);
        if life.version.is_some() && known == Some(&life) {
            self.doubtful.remove(&key);
        } else if self.ended.has(&life.uid) || known.is_some_and(|known| life.is_before(known)) {
            self.doubt(key);
        } else {
            self.take(key, object);
        }
    }

    fn doubt(&mut self, key: Key)
    where
        H: FnMut(&Health),
    {
        info!(namespace = key.0, name = key.1, "something older was said of it than what is known");
        self.health.outdated += 1;
        (self.report)(&self.health);
        if self.doubtful.is_empty() {
            self.ask_again = Instant::now();
        }
        self.doubtful.insert(key, Doubt::Outdated);
    }

    /// Asks for everything that is doubtful: whether what was said before can be right.
    async fn ask<K>(&mut self) -> bool
    where
        K: Resource,
        A: Ask<K>,
        T: FnMut(Change<K>),
        H: FnMut(&Health),
    {
        let doubts = std::mem::take(&mut self.doubtful);
        if doubts.is_empty() {
            return true;
        }
        let server = &self.server;
        let asked = stream::iter(doubts).map(|(key, doubt)| async move {
            let answer = server.ask(key.clone()).await;
            (key, doubt, answer)
        });
        let answers: Vec<_> = asked.buffer_unordered(limits::ASKED_AT_ONCE).collect().await;
        let mut is_right = true;
        for (key, doubt, answer) in answers {
            let known = self.known.get(&key);
            let is_certain = known.is_some_and(|known| known.uid.is_empty());
            match answer {
                Ok(Some(object)) => {
                    let life = Life::of(object.meta());
                    let was_there = is_certain || known.is_some_and(|known| known.uid == life.uid);
                    if doubt == Doubt::Lacked && was_there {
                        is_right = false;
                        let (namespace, name) = (&key.0, &key.1);
                        warn!(namespace, name, "a list lacked an object that is there");
                        self.health.contradictions += 1;
                        (self.report)(&self.health);
                    }
                    if life.version.is_none() || known != Some(&life) {
                        self.take(key, object);
                    }
                }
                Ok(None) => self.drop(key),
                Err(error) => {
                    is_right &= !is_certain;
                    info!(
                        namespace = key.0,
                        name = key.1,
                        error,
                        "what was said of it is doubtful, and the server does not answer; it stays"
                    );
                    self.doubtful.insert(key, doubt);
                }
            }
        }
        self.ask_again = Instant::now() + limits::ASK_AGAIN;
        is_right
    }

    fn take<K: Resource>(&mut self, key: Key, object: K)
    where
        T: FnMut(Change<K>),
    {
        self.doubtful.remove(&key);
        let life = Life::of(object.meta());
        if let Some(before) = self.known.insert(key, life.clone())
            && before.uid != life.uid
        {
            self.ended.add(before.uid);
        }
        self.ended.remove(&life.uid);
        (self.tell)(Change::Is(object));
    }

    fn drop<K>(&mut self, key: Key)
    where
        T: FnMut(Change<K>),
    {
        self.doubtful.remove(&key);
        if let Some(life) = self.known.remove(&key) {
            self.ended.add(life.uid);
            (self.tell)(Change::Gone(key));
        }
    }

    fn fail(&mut self, error: &str)
    where
        H: FnMut(&Health),
    {
        if self.health.failure.as_deref() != Some(error) {
            warn!(error, "the API server cannot be followed; what is known stays");
        }
        // Half of a list is no list.
        self.listed = None;
        self.health.failure = Some(error.to_owned());
        self.health.failures += 1;
        (self.report)(&self.health);
    }
}

impl Life {
    fn of(metadata: &ObjectMeta) -> Self {
        let version = metadata.resource_version.as_deref();
        let version = version.and_then(|version| version.parse().ok());
        Self { uid: metadata.uid.clone().unwrap_or_default(), version }
    }

    /// Versions of one kind grow, over all lives of a name.
    fn is_before(&self, other: &Self) -> bool {
        self.version.zip(other.version).is_some_and(|(this, other)| this < other)
    }
}

fn key(metadata: &ObjectMeta) -> Key {
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

#[cfg(test)]
mod tests;
