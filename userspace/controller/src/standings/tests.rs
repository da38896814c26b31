//! What is written into pods, and when.

use std::{cell::RefCell, time::Duration};

use super::*;

/// A cluster's pods with their agents, and a clock that is moved by hand.
struct Play {
    standings: Standings,
    agents: RefCell<HashMap<WorkloadName, (Label, Standing)>>,
    now: Instant,
}

fn label(text: &str) -> Label {
    text.parse().unwrap()
}

fn name(text: &str) -> WorkloadName {
    WorkloadName { namespace: label("shop"), name: label(text) }
}

fn facts(uid: &str, wish: Wish, said: Option<Said>) -> Arc<Facts> {
    Arc::new(Facts { uid: uid.into(), node: label("one"), wish, said })
}

fn strict() -> Stands {
    Stands::Enrolled(Mode::Strict)
}

impl Play {
    fn new() -> Self {
        let (standings, agents) = (Standings::default(), RefCell::default());
        Self { standings, agents, now: Instant::now() }
    }

    fn know(&mut self, pod: &str, facts: Arc<Facts>) {
        self.standings.know([(name(pod), Some(facts))], self.now);
    }

    fn say(&mut self, node: &str, pod: &str, uid: &str, stands: Stands) {
        let standing = Standing { pod: uid.into(), stands };
        self.agents.borrow_mut().insert(name(pod), (label(node), standing));
        self.standings.hear(&label(node), &name(pod), self.now);
    }

    fn due(&mut self) -> Vec<Writing> {
        let agents = self.agents.borrow();
        let standing = |node: &Label, name: &WorkloadName| {
            let (of, standing) = agents.get(name)?;
            (of == node).then(|| standing.clone())
        };
        self.standings.due(100, self.now, standing)
    }

    /// All that is due, as `pod reason` or `pod -`.
    fn written(&mut self) -> Vec<String> {
        let due = self.due();
        let say = |one: &Writing| {
            format!("{} {}", one.pod.name, one.said.as_ref().map_or("-", |said| &said.reason))
        };
        let said = due.iter().map(say).collect();
        due.into_iter().for_each(|one| self.standings.wrote(one, self.now));
        said
    }

    fn later(&mut self, after: Duration) -> &mut Self {
        self.now += after;
        self
    }
}

#[test]
fn a_pods_state_is_what_its_own_nodes_agent_says_of_its_present_life() {
    let mut play = Play::new();
    play.know("web", facts("u2", Wish::Enrolled, None));
    play.say("two", "web", "u2", strict());
    assert_eq!(play.written(), [""; 0], "another node's agent has no say");
    play.say("one", "web", "u1", strict());
    assert_eq!(play.written(), [""; 0], "it is an earlier life");
    play.say("one", "web", "u2", strict());
    assert_eq!(play.written(), ["web Strict"]);
    play.later(limits::STANDING_AGAIN);
    assert_eq!(play.written(), [""; 0], "it is written once");
    play.say("one", "web", "u2", Stands::Enrolled(Mode::Permissive));
    assert_eq!(play.written(), ["web Permissive"]);
    play.later(limits::STANDING_AGAIN).say("one", "web", "u2", Stands::Refused("q".to_owned()));
    assert_eq!(play.written(), ["web Refused"]);
}

#[test]
fn what_waits_is_said_when_it_has_waited_for_a_while() {
    let mut play = Play::new();
    play.know("web", facts("u", Wish::Enrolled, None));
    assert_eq!(play.written(), [""; 0]);
    play.later(limits::STANDING_SETTLES).say("one", "web", "u", strict());
    assert_eq!(play.written(), ["web Strict"], "a pod that starts as others do is written once");
    play.know("cart", facts("u", Wish::Enrolled, None));
    assert_eq!(play.written(), [""; 0]);
    play.later(limits::STANDING_SETTLES);
    assert_eq!(play.written(), ["cart Pending"], "its agent says nothing");
}

#[test]
fn what_the_controller_decides_needs_no_agent() {
    let mut play = Play::new();
    play.know("host", facts("u", Wish::Outside("hostNetwork".to_owned()), None));
    play.know("twice", facts("u", Wish::Refused("its address is another's".to_owned()), None));
    play.know("plain", facts("u", Wish::Nothing, None));
    let mut written = play.written();
    written.sort();
    assert_eq!(written, ["host Outside", "twice Refused"]);
}

#[test]
fn of_whom_nothing_is_wanted_any_more_what_was_said_is_taken_back() {
    let mut play = Play::new();
    let said = Said::new(true, "Strict", STRICT);
    play.know("web", facts("u", Wish::Nothing, Some(said)));
    assert_eq!(play.written(), ["web -"]);
}

#[test]
fn an_agent_that_is_away_changes_nothing_of_what_it_said() {
    let mut play = Play::new();
    let said = Said::new(true, "Strict", STRICT);
    play.know("web", facts("u", Wish::Enrolled, Some(said)));
    play.later(Duration::from_secs(3600));
    assert_eq!(play.written(), [""; 0]);
    play.say("one", "web", "u", Stands::Pending("no network namespace".to_owned()));
    assert_eq!(play.written(), [""; 0]);
    play.later(limits::STANDING_SETTLES);
    assert_eq!(play.written(), ["web Pending"]);
}

#[test]
fn a_pod_that_changes_all_the_time_is_written_seldom() {
    let mut play = Play::new();
    play.know("web", facts("u", Wish::Enrolled, None));
    let (mut written, began) = (0, play.now);
    for number in 0..600 {
        let reason = Stands::Refused(format!("attempt {number}"));
        let stands = if number % 2 == 0 { strict() } else { reason };
        play.later(Duration::from_millis(100)).say("one", "web", "u", stands);
        written += play.written().len();
    }
    let most = (play.now - began).as_secs() / limits::STANDING_AGAIN.as_secs() + 1;
    assert!((2..=most).contains(&(written as u64)), "{written}");
    let before = written;
    for number in 0..600 {
        let reason = Stands::Refused(format!("attempt {number}"));
        play.later(Duration::from_millis(100)).say("one", "web", "u", reason);
        written += play.written().len();
    }
    assert!(written - before <= 3, "only its text changes: {}", written - before);
}

#[test]
fn somebody_who_writes_over_it_is_answered_seldom() {
    let mut play = Play::new();
    play.know("web", facts("u", Wish::Enrolled, None));
    play.say("one", "web", "u", strict());
    let mut written = play.written().len();
    for _ in 0..100 {
        play.later(Duration::from_millis(100)).know("web", facts("u", Wish::Enrolled, None));
        written += play.written().len();
    }
    assert!((2..=3).contains(&written), "{written}");
}

#[test]
fn what_could_not_be_written_is_tried_again_after_a_pause() {
    let mut play = Play::new();
    play.know("web", facts("u", Wish::Enrolled, None));
    play.say("one", "web", "u", strict());
    assert_eq!(play.due().len(), 1);
    play.standings.failed(&name("web"), play.now);
    assert_eq!(play.due(), []);
    assert_eq!(play.later(limits::STANDING_AGAIN).written(), ["web Strict"]);
}

#[test]
fn no_more_than_is_asked_for_is_due_and_whoever_waits_longest_is_first() {
    let mut play = Play::new();
    for number in 0..10 {
        play.later(Duration::from_millis(1));
        play.know(&format!("x{}", 9 - number), facts("u", Wish::Refused(String::new()), None));
    }
    let due = play.standings.due(3, play.now, |_, _| None);
    let names: Vec<_> = due.iter().map(|one| one.pod.name.as_str()).collect();
    assert_eq!(names, ["x9", "x8", "x7"]);
    assert_eq!(play.standings.waiting(), 7);
    let gone = (0..7).map(|number| (name(&format!("x{number}")), None));
    play.standings.know(gone, play.now);
    assert_eq!(play.standings.waiting(), 0, "who is gone waits for nothing");
}
