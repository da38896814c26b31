//! Events: what is wrong with an object, said where `kubectl describe` shows it.
//!
//! What is said again of the same object is the same Event with a greater count.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use k8s_openapi::{
    api::{
        core::v1::ObjectReference,
        events::v1::{Event, EventSeries},
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::time::{Instant, timeout};

use crate::{limits, publish::MANAGER, seen::Problem, world::Object};

/// Says what is wrong with objects.
pub struct Recorder {
    client: Client,
    /// Of which pod of the controller it is.
    instance: String,
    said: HashMap<Said, Last>,
}

/// What was said of which life of an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Said {
    object: Object,
    uid: Arc<str>,
    problem: Problem,
}

struct Last {
    event: String,
    count: i32,
    at: Instant,
}

impl Recorder {
    /// Says what is due, at most so much.
    ///
    /// # Errors
    ///
    /// As [`Recorder::say`]; what was not said is due again later.
    pub async fn say_due(&mut self, due: &mut Due, most: usize) -> Result<(), String> {
        for (object, uid, problem) in due.take(most, Instant::now()) {
            if let Err(why) = self.say(&object, &uid, &problem).await {
                let why = format!("an Event of {object}: {why}");
                due.failed(object, problem, Instant::now());
                return Err(why);
            }
        }
        Ok(())
    }

    pub fn new(client: &Client, instance: &str) -> Self {
        Self { client: client.clone(), instance: instance.to_owned(), said: HashMap::new() }
    }

    /// # Errors
    ///
    /// The server did not answer, or did not take it.
    pub async fn say(
        &mut self,
        object: &Object,
        uid: &Arc<str>,
        problem: &Problem,
    ) -> Result<(), String> {
        self.said.retain(|_, last| last.at.elapsed() < limits::EVENT_SERIES);
        let said = Said { object: object.clone(), uid: uid.clone(), problem: problem.clone() };
        let namespace = namespace(object);
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let now = Timestamp::now();
        let (event, count) = match self.said.get(&said) {
            Some(Last { event, count, .. }) => (event.clone(), count + 1),
            None => (name(&object.name, now), 1),
        };
        let writing = async {
            if count == 1 {
                let first = self.first(namespace, &event, &said, now);
                return api.create(&PostParams::default(), &first).await.map(drop);
            }
            let series = EventSeries { count, last_observed_time: MicroTime(now) };
            let patch = Patch::Merge(json!({ "series": series }));
            api.patch(&event, &PatchParams::default(), &patch).await.map(drop)
        };
        match timeout(limits::QUESTION, writing).await {
            Err(_) => Err("no answer in time".to_owned()),
            Ok(Ok(())) => {
                if self.said.len() < limits::EVENTS_REMEMBERED {
                    self.said.insert(said, Last { event, count, at: Instant::now() });
                }
                Ok(())
            }
            Ok(Err(error)) => {
                // It may have ended meanwhile: then the next one is a new one.
                self.said.remove(&said);
                Err(error.to_string())
            }
        }
    }

    fn first(&self, namespace: &str, event: &str, said: &Said, now: Timestamp) -> Event {
        let Said { object, uid, problem } = said;
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Event {
            metadata: ObjectMeta {
                name: Some(event.to_owned()),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            regarding: Some(ObjectReference {
                api_version: Some(object.kind.api_version().to_owned()),
                kind: Some(object.kind.as_str().to_owned()),
                namespace: some(&object.namespace),
                name: some(&object.name),
                uid: some(uid),
                ..ObjectReference::default()
            }),
            reason: Some(problem.reason.to_owned()),
            note: Some(cut(&problem.message)),
            type_: Some("Warning".to_owned()),
            action: Some("Reading".to_owned()),
            event_time: Some(MicroTime(now)),
            reporting_controller: Some(format!("martlet.dev/{MANAGER}")),
            reporting_instance: Some(self.instance.clone()),
            ..Event::default()
        }
    }
}

/// In which namespace the Events of an object are. Of what has none, some servers (1.20 is one)
/// take those with a time in microseconds here only, and others here, too.
fn namespace(object: &Object) -> &str {
    match object.namespace.as_str() {
        "" => "kube-system",
        namespace => namespace,
    }
}

/// Names of objects have 253 characters at most, and this one has a suffix.
fn name(of: &str, now: Timestamp) -> String {
    let of: String = of.chars().take(230).collect();
    format!("{}.{:x}", of.trim_end_matches(['.', '-']), now.as_nanosecond())
}

/// A server takes no longer note.
fn cut(message: &str) -> String {
    let end = message.floor_char_boundary(limits::EVENT_NOTE_BYTES);
    message[..end].to_owned()
}

/// What is to be said when: at once what was not said yet, and now and then again what lasts.
#[derive(Debug, Default)]
pub struct Due {
    at: BTreeMap<(Object, Problem), (Arc<str>, Instant)>,
}

impl Due {
    /// These are all problems that there are. Of what is wrong no longer nothing more is said.
    pub fn become_like<'a>(
        &mut self,
        problems: impl IntoIterator<Item = (&'a Object, &'a Arc<str>, &'a Problem)>,
        now: Instant,
    ) {
        let mut before = std::mem::take(&mut self.at);
        for (object, uid, problem) in problems {
            let key = (object.clone(), problem.clone());
            let at = match before.remove(&key) {
                // Another life of the name has not been spoken of.
                Some((of, at)) if of == *uid => at,
                _ => now,
            };
            self.at.insert(key, (uid.clone(), at));
        }
    }

    /// At most so many that are due, the earliest first.
    pub fn take(&mut self, most: usize, now: Instant) -> Vec<(Object, Arc<str>, Problem)> {
        let mut due: Vec<_> = self.at.iter().filter(|(_, (_, at))| *at <= now).collect();
        due.sort_by_key(|(_, (_, at))| *at);
        let due: Vec<_> = due.into_iter().take(most).map(|(key, _)| key.clone()).collect();
        let mut taken = Vec::new();
        for key in due {
            if let Some((uid, at)) = self.at.get_mut(&key) {
                *at = now + limits::EVENT_AGAIN;
                taken.push((key.0, uid.clone(), key.1));
            }
        }
        taken
    }

    /// It could not be said.
    pub fn failed(&mut self, object: Object, problem: Problem, now: Instant) {
        if let Some((_, at)) = self.at.get_mut(&(object, problem)) {
            *at = now + limits::ASK_AGAIN;
        }
    }

    /// When something is due next.
    pub fn next(&self) -> Option<Instant> {
        self.at.values().map(|(_, at)| *at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::Kind;

    fn object(name: &str) -> Object {
        Object::new(Kind::Pod, "shop", name)
    }

    fn names(taken: &[(Object, Arc<str>, Problem)]) -> String {
        taken.iter().map(|(object, ..)| object.name.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_lasts_is_said_again_after_a_while_and_what_has_ended_is_not() {
        let (mut due, now) = (Due::default(), Instant::now());
        let (web, cart, problem) = (object("web"), object("cart"), Problem::new("A", "why"));
        let uid: Arc<str> = "1".into();
        let both = [(&web, &uid, &problem), (&cart, &uid, &problem)];
        due.become_like(both, now);
        assert_eq!(names(&due.take(1, now)), "cart", "no more than are asked for");
        due.become_like(both, now);
        assert_eq!(names(&due.take(9, now)), "web", "the other was said already");
        assert_eq!(names(&due.take(9, now)), "");
        let later = now + limits::EVENT_AGAIN;
        assert_eq!(due.next(), Some(later));
        due.become_like([both[0]], later);
        assert_eq!(names(&due.take(9, later)), "web");
        let again: Arc<str> = "2".into();
        due.become_like([(&web, &again, &problem)], later);
        assert_eq!(names(&due.take(9, later)), "web", "it is another pod");
        due.become_like([], later);
        assert_eq!(due.next(), None);
    }

    #[test]
    fn events_of_what_has_no_namespace_are_where_every_server_takes_them() {
        assert_eq!(namespace(&object("web")), "shop");
        assert_eq!(namespace(&Object::new(Kind::Namespace, "", "shop")), "kube-system");
    }

    #[test]
    fn an_events_name_and_note_fit() {
        let name = name(&"a".repeat(253), Timestamp::now());
        assert!(name.len() <= 253, "{name}");
        assert_eq!(cut(&"ü".repeat(2000)).len(), limits::EVENT_NOTE_BYTES);
    }
}
