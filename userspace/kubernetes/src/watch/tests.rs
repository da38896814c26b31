//! What becomes of objects that lists name, lack, and contradict each other about.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use kube::runtime::watcher::Error;
use tokio::time::advance;

use super::*;
use crate::seen::NamespaceObject;

type Answer = Result<Option<&'static str>, String>;

/// A server that answers what it is told to, by name.
#[derive(Clone, Default)]
struct Answers(Arc<Mutex<HashMap<String, Answer>>>);

impl Answers {
    fn set(&self, name: &str, answer: Answer) {
        self.0.lock().unwrap().insert(name.to_owned(), answer);
    }
}

impl Ask<NamespaceObject> for Answers {
    async fn ask(&self, (_, name): Key) -> Result<Option<NamespaceObject>, String> {
        let answer = self.0.lock().unwrap().get(&name).cloned().unwrap_or(Ok(None))?;
        Ok(answer.map(|uid| object(&name, uid)))
    }
}

fn object(name: &str, uid: &str) -> NamespaceObject {
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        uid: Some(uid.to_owned()),
        ..ObjectMeta::default()
    };
    NamespaceObject { metadata }
}

#[derive(Default)]
struct Told {
    there: BTreeSet<String>,
    complete: u32,
    health: Health,
}

struct Test {
    told: Arc<Mutex<Told>>,
    answers: Answers,
    /// From before.
    known: HashMap<Key, String>,
}

impl Test {
    fn new() -> Self {
        Self { told: Arc::default(), answers: Answers::default(), known: HashMap::new() }
    }

    fn knowing(name: &str) -> Self {
        let test = Self::new();
        test.told.lock().unwrap().there.insert(name.to_owned());
        Self { known: [((String::new(), name.to_owned()), "1".to_owned())].into(), ..test }
    }

    /// Plays events, lets `seconds` go by, and says what is there then.
    async fn play(
        &self,
        events: Vec<watcher::Result<Event<NamespaceObject>>>,
        seconds: u64,
    ) -> String {
        let told = self.told.clone();
        let tell = |change| {
            let mut told = told.lock().unwrap();
            match change {
                Change::Is(object) => {
                    let NamespaceObject { metadata } = object;
                    told.there.insert(metadata.name.unwrap());
                }
                Change::Gone((_, name)) => assert!(told.there.remove(&name), "{name}"),
                Change::Complete => told.complete += 1,
            }
        };
        let report = |health: &Health| self.told.lock().unwrap().health = health.clone();
        let mut following = Following::new(self.answers.clone(), self.known.clone(), tell, report);
        let events = stream::iter(events).chain(stream::pending());
        let run = following.run(events);
        let _ = timeout(std::time::Duration::from_secs(seconds), run).await;
        let told = self.told.lock().unwrap();
        told.there.iter().cloned().collect::<Vec<_>>().join(" ")
    }
}

fn list(names: &[&str]) -> Vec<watcher::Result<Event<NamespaceObject>>> {
    let applied = names.iter().map(|name| Ok(Event::InitApply(object(name, "1"))));
    [Ok(Event::Init)].into_iter().chain(applied).chain([Ok(Event::InitDone)]).collect()
}

fn events(
    parts: impl IntoIterator<Item = Vec<watcher::Result<Event<NamespaceObject>>>>,
) -> Vec<watcher::Result<Event<NamespaceObject>>> {
    parts.into_iter().flatten().collect()
}

#[tokio::test(start_paused = true)]
async fn what_a_list_lacks_and_the_server_does_not_have_goes() {
    let test = Test::new();
    assert_eq!(test.play(events([list(&["a", "b", "c"]), list(&["b"])]), 1).await, "b");
    assert_eq!(test.told.lock().unwrap().complete, 2);
}

#[tokio::test(start_paused = true)]
async fn what_was_known_before_goes_by_no_list_either() {
    let gone = Test::knowing("a");
    assert_eq!(gone.play(list(&["b"]), 1).await, "b");
    let there = Test::knowing("a");
    there.answers.set("a", Ok(Some("1")));
    assert_eq!(there.play(list(&["b"]), 1).await, "a b");
    let unsaid = Test::knowing("a");
    unsaid.answers.set("a", Err("away".to_owned()));
    assert_eq!(unsaid.play(list(&["b"]), 1).await, "a b");
}

#[tokio::test(start_paused = true)]
async fn what_a_list_lacks_and_the_server_has_stays_and_is_counted() {
    let test = Test::new();
    test.answers.set("a", Ok(Some("1")));
    test.answers.set("c", Ok(Some("1")));
    assert_eq!(test.play(events([list(&["a", "b", "c"]), list(&[])]), 1).await, "a c");
    assert_eq!(test.told.lock().unwrap().health.contradictions, 2);
}

#[tokio::test(start_paused = true)]
async fn what_nothing_is_known_about_stays_until_something_is() {
    let test = Test::new();
    test.answers.set("a", Err("not now".to_owned()));
    assert_eq!(test.play(events([list(&["a"]), list(&[])]), 60).await, "a");

    let test = Test::new();
    test.answers.set("a", Err("not now".to_owned()));
    let later = async {
        advance(limits::ASK_AGAIN * 3).await;
        test.answers.set("a", Ok(None));
    };
    let (there, ()) = tokio::join!(test.play(events([list(&["a"]), list(&[])]), 60), later);
    assert_eq!(there, "");
}

#[tokio::test(start_paused = true)]
async fn a_list_that_ends_half_way_removes_nothing() {
    let test = Test::new();
    let half = vec![Ok(Event::Init), Err(Error::NoResourceVersion)];
    assert_eq!(test.play(events([list(&["a", "b"]), half]), 60).await, "a b");
    assert_eq!(test.told.lock().unwrap().complete, 1);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_reported_and_forgotten_with_the_next_event() {
    let test = Test::new();
    let failing = vec![Err(Error::NoResourceVersion), Err(Error::NoResourceVersion)];
    test.play(events([list(&["a"]), failing]), 1).await;
    let health = test.told.lock().unwrap().health.clone();
    assert!(health.failure.is_some());
    assert_eq!(health.failures, 2);

    let test = Test::new();
    let failing = vec![Err(Error::NoResourceVersion)];
    test.play(events([list(&["a"]), failing, list(&["a"])]), 1).await;
    let health = test.told.lock().unwrap().health.clone();
    assert_eq!((health.failure, health.failures), (None, 1));
}

#[tokio::test(start_paused = true)]
async fn an_object_goes_when_it_is_deleted_but_not_with_an_earlier_life() {
    let deleted = |uid| vec![Ok(Event::Delete(object("a", uid)))];
    let again = |uid| vec![Ok(Event::Apply(object("a", uid)))];
    let test = Test::new();
    assert_eq!(test.play(events([list(&["a"]), deleted("1")]), 1).await, "");
    let test = Test::new();
    assert_eq!(test.play(events([list(&["a"]), again("2"), deleted("1")]), 1).await, "a");
    let test = Test::new();
    assert_eq!(test.play(events([list(&["a"]), again("2"), deleted("2")]), 1).await, "");
}
