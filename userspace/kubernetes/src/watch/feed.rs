//! What an API server says of one kind of objects: all of them by a list in pages, and from then on a
//! watch of what becomes of them.
//!
//! ```text
//!   ┌─▶ list ──whole──▶ watch ──ended, silent, refused──▶ watch from the last version
//!   │                     │
//!   └─────────────────────┴── an expired version, an event that cannot be read, a list that was wrong
//! ```
//!
//! Every wait has a deadline, also that for a first byte: a server that takes a request and says nothing
//! would be believed to have nothing new. An event that cannot be read is one that is lost, and only a
//! list brings it back.

use std::{
    collections::VecDeque,
    fmt::Debug,
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{
    Stream, StreamExt as _,
    stream::{self, BoxStream},
};
use kube::{
    Api, Error, Resource,
    api::{ListParams, WatchEvent, WatchParams},
    runtime::{utils::Backoff as _, watcher::DefaultBackoff},
};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::limits;

/// What is said of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<K> {
    /// A list begins.
    List,
    Listed(K),
    /// The list has ended.
    Whole,
    Is(K),
    Gone(K),
    /// Nothing is new, by the server's own word.
    Alive,
}

/// Asks for a list soon, although the watch goes on well meanwhile.
#[derive(Debug, Clone, Default)]
pub struct Anew(Arc<AtomicBool>);

impl Anew {
    pub fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

/// What is said, for ever. `Err`: why nothing new is heard; it is tried again after a pause.
pub fn feed<K>(api: Api<K>, anew: Anew) -> impl Stream<Item = Result<Event<K>, String>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let (backoff, anew_backoff) = (DefaultBackoff::default(), DefaultBackoff::default());
    let (state, list_at) = (State::New, None);
    let feed = Feed { api, anew, anew_backoff, list_at, state, backoff, pause: None };
    stream::unfold(feed, |mut feed| async {
        let said = feed.next().await;
        Some((said, feed))
    })
}

struct Feed<K> {
    api: Api<K>,
    anew: Anew,
    anew_backoff: DefaultBackoff,
    /// When a list was asked for.
    list_at: Option<Instant>,
    state: State<K>,
    backoff: DefaultBackoff,
    /// Before anything else is asked for.
    pause: Option<Duration>,
}

enum State<K> {
    New,
    Listing(VecDeque<K>, Rest),
    /// All up to this version is known.
    Until(String),
    Watching(Watching<K>),
}

/// What comes after a page of a list.
#[derive(Debug, Clone)]
enum Rest {
    Page(Option<String>),
    Version(String),
}

struct Watching<K> {
    version: String,
    began: Instant,
    events: BoxStream<'static, kube::Result<WatchEvent<K>>>,
}

/// Why there is nothing new, and how it goes on.
struct Failed<K> {
    why: String,
    state: State<K>,
    /// The server wants to be left alone for so long.
    wait: Option<Duration>,
}

type Step<K> = Result<(Option<Event<K>>, State<K>), Failed<K>>;

impl<K> Feed<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    async fn next(&mut self) -> Result<Event<K>, String> {
        loop {
            if let Some(pause) = self.pause.take() {
                sleep(pause).await;
            }
            let stepped = match std::mem::replace(&mut self.state, State::New) {
                State::New => {
                    self.list_at = None;
                    Ok((Some(Event::List), State::Listing(VecDeque::new(), Rest::Page(None))))
                }
                State::Listing(page, rest) => list(&self.api, page, rest).await,
                State::Until(version) => {
                    if self.anew.take() {
                        let pause = self.anew_backoff.next().unwrap_or(limits::ASK_AGAIN);
                        self.list_at.get_or_insert(Instant::now() + pause);
                    }
                    watch(&self.api, version).await
                }
                State::Watching(watching) => self.hear(watching).await,
            };
            match stepped {
                Ok((event, state)) => {
                    self.state = state;
                    if let Some(event) = event {
                        return Ok(event);
                    }
                }
                Err(Failed { why, state, wait }) => {
                    self.state = state;
                    let pause = self.backoff.next().unwrap_or(limits::ASK_AGAIN);
                    let wait = wait.unwrap_or_default().min(limits::LONGEST_WAIT);
                    self.pause = Some(pause.max(wait));
                    return Err(why);
                }
            }
        }
    }

    async fn hear(&mut self, mut watching: Watching<K>) -> Step<K> {
        let failed = |why: String, state| Failed { why, state, wait: None };
        let idle = Duration::from_secs(limits::WATCH_SECONDS.into()) + limits::WATCH_LATE;
        let list_at = async {
            match self.list_at {
                Some(at) => sleep_until(at).await,
                None => pending().await,
            }
        };
        let heard = tokio::select! {
            heard = timeout(idle, watching.events.next()) => heard,
            () = list_at => return Ok((None, State::New)),
        };
        let Ok(event) = heard else {
            return Err(failed("a watch is silent".to_owned(), State::Until(watching.version)));
        };
        let (event, version) = match event {
            Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object))) => {
                let version = object.meta().resource_version.clone().unwrap_or_default();
                (Event::Is(object), version)
            }
            Some(Ok(WatchEvent::Deleted(object))) => {
                let version = object.meta().resource_version.clone().unwrap_or_default();
                (Event::Gone(object), version)
            }
            Some(Ok(WatchEvent::Bookmark(mark))) => (Event::Alive, mark.metadata.resource_version),
            Some(Ok(WatchEvent::Error(status))) if status.code == 410 => {
                return Err(failed(status.message.clone(), State::New));
            }
            Some(Ok(WatchEvent::Error(status))) => {
                return Err(failed(status.message.clone(), State::Until(watching.version)));
            }
            Some(Err(error @ Error::ReadEvents(_))) => {
                return Err(failed(error.to_string(), State::Until(watching.version)));
            }
            Some(Err(error)) => return Err(failed(error.to_string(), State::New)),
            None if watching.began.elapsed() < limits::SHORT_WATCH => {
                let why = "a watch has ended at once".to_owned();
                return Err(failed(why, State::Until(watching.version)));
            }
            None => return Ok((None, State::Until(watching.version))),
        };
        if version.is_empty() {
            return Err(failed("an event has no version".to_owned(), State::New));
        }
        self.backoff.reset();
        watching.version = version;
        Ok((Some(event), State::Watching(watching)))
    }
}

async fn list<K>(api: &Api<K>, mut page: VecDeque<K>, rest: Rest) -> Step<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    if let Some(object) = page.pop_front() {
        return Ok((Some(Event::Listed(object)), State::Listing(page, rest)));
    }
    let token = match rest {
        Rest::Page(token) => token,
        Rest::Version(version) => return Ok((Some(Event::Whole), State::Until(version))),
    };
    let parameters = ListParams::default().limit(limits::PAGE);
    let parameters = match token {
        Some(token) => parameters.continue_token(&token),
        None => parameters,
    };
    let failed = |why: String, wait| Failed { why, state: State::New, wait };
    let asked = timeout(limits::LIST, api.list(&parameters)).await;
    let list = asked.map_err(|_| failed("no list in time".to_owned(), None))?;
    let list = list.map_err(|error| failed(error.to_string(), wait(&error)))?;
    let some = |text: Option<String>| text.filter(|text| !text.is_empty());
    let rest = match (some(list.metadata.continue_), some(list.metadata.resource_version)) {
        (Some(token), _) => Rest::Page(Some(token)),
        (None, Some(version)) => Rest::Version(version),
        (None, None) => return Err(failed("a list has no version".to_owned(), None)),
    };
    Ok((None, State::Listing(list.items.into(), rest)))
}

async fn watch<K>(api: &Api<K>, version: String) -> Step<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let parameters = WatchParams::default().timeout(limits::WATCH_SECONDS);
    let asked = timeout(limits::WATCH_BEGINS, api.watch(&parameters, &version)).await;
    match asked {
        Ok(Ok(events)) => {
            let (began, events) = (Instant::now(), events.boxed());
            let watching = Watching { version, began, events };
            Ok((Some(Event::Alive), State::Watching(watching)))
        }
        Ok(Err(error)) => Err(Failed {
            why: error.to_string(),
            wait: wait(&error),
            state: if is_expired(&error) { State::New } else { State::Until(version) },
        }),
        Err(_) => {
            let why = "a watch does not begin".to_owned();
            Err(Failed { why, state: State::Until(version), wait: None })
        }
    }
}

fn is_expired(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.code == 410)
}

fn wait(error: &Error) -> Option<Duration> {
    let Error::Api(status) = error else { return None };
    let seconds = status.details.as_ref()?.retry_after_seconds;
    Some(Duration::from_secs(seconds.into()))
}
