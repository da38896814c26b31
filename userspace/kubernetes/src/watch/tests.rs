//! What becomes of objects that lists name, lack, and contradict each other about.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use tokio::time::advance;

use super::*;
use crate::seen::NamespaceObject;

type Answer = Result<Option<&'static str>, String>;
type Said = Result<Event<NamespaceObject>, String>;

fn failure() -> String {
    "it does not answer".to_owned()
}

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

/// `life`: a UID, and a version behind `@`.
fn object(name: &str, life: &str) -> NamespaceObject {
    let (uid, version) = life.split_once('@').map_or((life, None), |(uid, at)| (uid, Some(at)));
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        uid: Some(uid.to_owned()),
        resource_version: version.map(str::to_owned),
        ..ObjectMeta::default()
    };
    NamespaceObject { metadata }
}

#[derive(Default)]
struct Told {
    there: BTreeSet<String>,
    /// What was told of objects, in order: `name@version`.
    taken: Vec<String>,
    complete: u32,
    health: Health,
}

struct Test {
    told: Arc<Mutex<Told>>,
    answers: Answers,
    /// From before.
    known: HashMap<Key, String>,
    anew: Anew,
}

impl Test {
    fn new() -> Self {
        Self {
            told: Arc::default(),
            answers: Answers::default(),
            known: HashMap::new(),
            anew: Anew::default(),
        }
    }

    fn knowing(name: &str, uid: &str) -> Self {
        let test = Self::new();
        test.told.lock().unwrap().there.insert(name.to_owned());
        Self { known: [((String::new(), name.to_owned()), uid.to_owned())].into(), ..test }
    }

    fn taken(&self) -> String {
        self.told.lock().unwrap().taken.join(" ")
    }

    fn health(&self) -> Health {
        self.told.lock().unwrap().health.clone()
    }

    /// Plays events, lets `seconds` go by, and says what is there then.
    async fn play(&self, events: Vec<Said>, seconds: u64) -> String {
        let told = self.told.clone();
        let tell = |change| {
            let mut told = told.lock().unwrap();
            match change {
                Change::Is(object) => {
                    let NamespaceObject { metadata } = object;
                    let (name, at) = (metadata.name.unwrap(), metadata.resource_version);
                    told.taken.push(format!("{name}@{}", at.unwrap_or_default()));
                    told.there.insert(name);
                }
                Change::Gone((_, name)) => assert!(told.there.remove(&name), "{name}"),
                Change::Complete => told.complete += 1,
            }
        };
        let report = |health: &Health| self.told.lock().unwrap().health = health.clone();
        let (answers, known) = (self.answers.clone(), self.known.clone());
        let mut following = Following::new(answers, known, self.anew.clone(), tell, report);
        let events = stream::iter(events).chain(stream::pending());
        let run = following.run(events);
        let _ = timeout(std::time::Duration::from_secs(seconds), run).await;
        let told = self.told.lock().unwrap();
        told.there.iter().cloned().collect::<Vec<_>>().join(" ")
    }
}

fn list(names: &[&str]) -> Vec<Said> {
    let lives = names.iter().map(|name| (*name, "1"));
    list_of(&lives.collect::<Vec<_>>())
}

fn list_of(lives: &[(&str, &str)]) -> Vec<Said> {
    let applied = lives.iter().map(|(name, life)| Ok(Event::Listed(object(name, life))));
    [Ok(Event::List)].into_iter().chain(applied).chain([Ok(Event::Whole)]).collect()
}

fn events(parts: impl IntoIterator<Item = Vec<Said>>) -> Vec<Said> {
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
    let gone = Test::knowing("a", "1");
    assert_eq!(gone.play(list(&["b"]), 1).await, "b");
    let there = Test::knowing("a", "1");
    there.answers.set("a", Ok(Some("1")));
    assert_eq!(there.play(list(&["b"]), 1).await, "a b");
    let unsaid = Test::knowing("a", "1");
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
    let half = vec![Ok(Event::List), Err(failure())];
    assert_eq!(test.play(events([list(&["a", "b"]), half]), 60).await, "a b");
    assert_eq!(test.told.lock().unwrap().complete, 1);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_reported_and_forgotten_with_the_next_event() {
    let test = Test::new();
    let failing = vec![Err(failure()), Err(failure())];
    test.play(events([list(&["a"]), failing]), 1).await;
    let health = test.told.lock().unwrap().health.clone();
    assert!(health.failure.is_some());
    assert_eq!(health.failures, 2);

    let test = Test::new();
    let failing = vec![Err(failure())];
    test.play(events([list(&["a"]), failing, list(&["a"])]), 1).await;
    let health = test.told.lock().unwrap().health.clone();
    assert_eq!((health.failure, health.failures), (None, 1));
}

#[tokio::test(start_paused = true)]
async fn an_object_goes_when_it_is_deleted_but_not_with_an_earlier_life() {
    let deleted = |uid| vec![Ok(Event::Gone(object("a", uid)))];
    let again = |uid| vec![Ok(Event::Is(object("a", uid)))];
    let test = Test::new();
    assert_eq!(test.play(events([list(&["a"]), deleted("1")]), 1).await, "");
    let test = Test::new();
    assert_eq!(test.play(events([list(&["a"]), again("2"), deleted("1")]), 1).await, "a");
    let test = Test::new();
    assert_eq!(test.play(events([list(&["a"]), again("2"), deleted("2")]), 1).await, "");
}

fn is(name: &str, life: &str) -> Vec<Said> {
    vec![Ok(Event::Is(object(name, life)))]
}

fn gone(name: &str, life: &str) -> Vec<Said> {
    vec![Ok(Event::Gone(object(name, life)))]
}

#[tokio::test(start_paused = true)]
async fn what_is_older_than_what_is_known_is_asked_for_and_not_taken() {
    for older in [is("a", "1@5"), list_of(&[("a", "1@5")]), is("a", "0@5")] {
        let test = Test::new();
        test.answers.set("a", Ok(Some("1@7")));
        test.play(events([list_of(&[("a", "1@7")]), older]), 1).await;
        assert_eq!(test.taken(), "a@7");
        assert_eq!((test.health().outdated, test.health().contradictions), (1, 0));
    }
    // Of the server itself it is taken: it was restored from a backup.
    let restored = Test::new();
    restored.answers.set("a", Ok(Some("1@5")));
    restored.play(events([list_of(&[("a", "1@7")]), list_of(&[("a", "1@5")])]), 1).await;
    assert_eq!(restored.taken(), "a@7 a@5");
    // Without its word it stays as it was.
    let silent = Test::new();
    silent.answers.set("a", Err(failure()));
    assert_eq!(silent.play(events([list_of(&[("a", "1@7")]), is("a", "1@5")]), 30).await, "a");
    assert_eq!(silent.taken(), "a@7");
}

#[tokio::test(start_paused = true)]
async fn what_is_newer_is_taken_and_what_is_the_same_is_not_told_again() {
    let test = Test::new();
    let said = [list_of(&[("a", "1@7")]), is("a", "1@7"), list_of(&[("a", "1@7")]), is("a", "1@9")];
    test.play(events(said), 1).await;
    assert_eq!(test.taken(), "a@7 a@9");
    assert_eq!(test.health().outdated, 0);
}

#[tokio::test(start_paused = true)]
async fn what_has_ended_is_not_back_by_an_old_list_or_event_but_by_the_servers_own_word() {
    for back in [list_of(&[("a", "1@5")]), is("a", "1@5")] {
        let test = Test::new();
        let ended = events([list_of(&[("a", "1@5")]), gone("a", "1@6"), back.clone()]);
        assert_eq!(test.play(ended.clone(), 1).await, "");
        let test = Test::new();
        test.answers.set("a", Ok(Some("1@5")));
        assert_eq!(test.play(ended, 1).await, "a");
    }
    let other = events([list_of(&[("a", "1@5")]), gone("a", "1@6"), is("a", "2@8")]);
    assert_eq!(Test::new().play(other, 1).await, "a");
}

#[tokio::test(start_paused = true)]
async fn an_end_that_is_older_than_what_is_known_is_asked_about() {
    let test = Test::new();
    test.answers.set("a", Ok(Some("1@7")));
    assert_eq!(test.play(events([list_of(&[("a", "1@7")]), gone("a", "1@6")]), 1).await, "a");
}

#[tokio::test(start_paused = true)]
async fn a_list_that_was_wrong_is_not_complete_and_is_taken_anew() {
    let test = Test::new();
    test.answers.set("a", Ok(Some("1")));
    test.play(events([list(&["a", "b"]), list(&["b"])]), 1).await;
    assert_eq!(test.told.lock().unwrap().complete, 1);
    assert!(test.anew.take());

    // The name has begun another life since: the list was right.
    let test = Test::new();
    test.answers.set("a", Ok(Some("2")));
    test.play(events([list(&["a", "b"]), list(&["b"])]), 1).await;
    assert_eq!(test.told.lock().unwrap().complete, 2);
    assert!(!test.anew.take());
}

#[tokio::test(start_paused = true)]
async fn a_first_list_that_lacks_what_is_certain_is_not_complete() {
    for (answer, is_complete) in [(Ok(Some("1")), 0), (Err(failure()), 0), (Ok(None), 1)] {
        let test = Test::knowing("a", "");
        test.answers.set("a", answer);
        test.play(list(&["b"]), 1).await;
        assert_eq!(test.told.lock().unwrap().complete, is_complete);
        assert_eq!(test.anew.take(), is_complete == 0);
    }
    let test = Test::knowing("a", "");
    test.play(list(&["a", "b"]), 1).await;
    assert_eq!(test.told.lock().unwrap().complete, 1);
}
