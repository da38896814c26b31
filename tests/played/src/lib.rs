//! A played API server: what a real one cannot be made to do, it does when it is told to.
//!
//! It keeps objects as JSON, gives each change a version, and answers as the real one does where the
//! product asks: get, list in pages, watch, create, replace, patch, delete, and reviews of tokens. That
//! it does so the same tests show against a real one (`tests/kubernetes/tests/contract.rs`).
//! And for each kind it can be told to be wrong ([`Lists`], [`Watches`], [`Gets`]).
//!
//! | file | what it does |
//! |---|---|
//! | `path` | what a request is about |
//! | `store` | the objects, and what became of them |
//! | `faults` | what it does wrong |
//! | `serve` | answers |
//! | `watching` | one watch |

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod faults;
mod path;
mod serve;
mod store;
mod watching;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use serde_json::{Value, json};
use tokio::sync::watch;

pub use faults::{Gets, Lists, Watches};
use path::Collection;
use store::Store;

/// Ends when it is dropped.
pub struct Played {
    address: SocketAddr,
    shared: Arc<Shared>,
    _running: tokio::sync::oneshot::Sender<()>,
}

pub(crate) struct Shared {
    store: Mutex<Store>,
    /// Grows with whatever a watch may have to look at.
    news: watch::Sender<u64>,
}

impl Shared {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let changed = change(&mut self.store());
        self.news.send_modify(|count| *count += 1);
        changed
    }
}

impl Played {
    /// With the namespaces that every cluster has.
    pub fn start() -> Self {
        let shared = Arc::new(Shared { store: Mutex::default(), news: watch::Sender::default() });
        let (bound, port) = std::sync::mpsc::channel();
        let (running, ended) = tokio::sync::oneshot::channel();
        let serving = shared.clone();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                bound.send(listener.local_addr().unwrap()).unwrap();
                tokio::select! {
                    served = axum::serve(listener, serve::router(serving)) => served.unwrap(),
                    _ = ended => {}
                }
            });
            runtime.shutdown_background();
        });
        let played = Self { address: port.recv().unwrap(), shared, _running: running };
        for name in ["default", "kube-system"] {
            played.apply("v1", "namespaces", json!({ "metadata": { "name": name } }));
        }
        played
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// For whoever wants to reach it as any other.
    pub fn kubeconfig(&self) -> String {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "played", "cluster": { "server": format!("http://{}", self.address) } }],
            "users": [{ "name": "played", "user": {} }],
            "contexts": [{ "name": "played", "context": { "cluster": "played", "user": "played" } }],
            "current-context": "played",
        });
        config.to_string()
    }

    /// There is this object from now on, instead of what had its name.
    ///
    /// `version`: `v1`, or group and version.
    pub fn apply(&self, version: &str, plural: &str, object: Value) {
        let of = Collection::new(version, plural);
        self.shared.change(|store| store.set(&of, object));
    }

    /// Many at once.
    pub fn apply_all(&self, version: &str, plural: &str, objects: impl IntoIterator<Item = Value>) {
        let of = Collection::new(version, plural);
        self.shared.change(|store| {
            for object in objects {
                store.set(&of, object);
            }
        });
    }

    /// The same, but what those are told who watch cannot be read.
    pub fn garble(&self, version: &str, plural: &str, object: Value) {
        let of = Collection::new(version, plural);
        self.shared.change(|store| {
            store.set(&of, object);
            store.garble(&of);
        });
    }

    /// The same, but nobody who watches hears of it: only lists tell it, and all versions have expired.
    pub fn apply_unheard(
        &self,
        version: &str,
        plural: &str,
        objects: impl IntoIterator<Item = Value>,
    ) {
        let of = Collection::new(version, plural);
        self.shared.change(|store| {
            for object in objects {
                store.set(&of, object);
            }
            store.expire();
        });
    }

    /// One goes, and nobody who watches hears of it.
    pub fn delete_unheard(&self, version: &str, plural: &str, namespace: &str, name: &str) {
        let of = Collection::new(version, plural);
        self.shared.change(|store| {
            store.remove(&of, namespace, name);
            store.expire();
        });
    }

    /// What stands there; nobody is told of it.
    pub fn get(&self, version: &str, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let of = Collection::new(version, plural);
        self.shared.store().get(&of, namespace, name)
    }

    /// Whether there was one.
    pub fn delete(&self, version: &str, plural: &str, namespace: &str, name: &str) -> bool {
        let of = Collection::new(version, plural);
        self.shared.change(|store| store.remove(&of, namespace, name)).is_some()
    }

    /// All of a kind, as they are listed now: to be listed again when they are others.
    pub fn snapshot(&self, version: &str, plural: &str) -> Lists {
        let (at, items) = self.shared.store().list(&Collection::new(version, plural), None);
        Lists::AsTheyWere { version: at, items }
    }

    /// Only the latest version of everything can be watched from: whoever watches is told so, and
    /// lists that are half read have ended.
    pub fn expire(&self) {
        self.shared.change(Store::expire);
    }

    /// Ends all open watches of a kind.
    pub fn cut(&self, plural: &str) {
        self.shared.change(|store| store.faults.of(plural).cuts += 1);
    }

    /// All open watches of a kind say nothing any more, neither do they end: nobody is behind their
    /// connections.
    pub fn stall(&self, plural: &str) {
        self.shared.change(|store| store.faults.of(plural).stalls += 1);
    }

    /// Says a line to all who watch a kind now: an event, or what is none.
    pub fn say(&self, plural: &str, line: &str) {
        self.shared.change(|store| store.faults.of(plural).said.push(format!("{line}\n")));
    }

    pub fn set_lists(&self, plural: &str, lists: Lists) {
        self.shared.change(|store| store.faults.of(plural).lists = lists);
    }

    pub fn set_watches(&self, plural: &str, watches: Watches) {
        self.shared.change(|store| store.faults.of(plural).watches = watches);
    }

    pub fn set_gets(&self, plural: &str, gets: Gets) {
        self.shared.change(|store| store.faults.of(plural).gets = gets);
    }

    /// How many whole lists of a kind were asked for, right or wrong.
    pub fn lists(&self, plural: &str) -> u64 {
        self.shared.store().faults.of(plural).listed
    }

    /// How often one object of a kind was asked for.
    pub fn gets(&self, plural: &str) -> u64 {
        self.shared.store().faults.of(plural).got
    }

    /// How often a kind was asked to be watched.
    pub fn watches(&self, plural: &str) -> u64 {
        self.shared.store().faults.of(plural).watched
    }

    /// How many watch a kind now.
    pub fn watching(&self, plural: &str) -> u64 {
        self.shared.store().faults.of(plural).watching
    }

    /// Whoever shows this token is who `user` says, as a review of a token says it.
    pub fn vouch(&self, token: &str, user: Value) {
        self.shared.store().tokens.insert(token.to_owned(), user);
    }
}
