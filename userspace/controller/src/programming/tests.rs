//! What is written into policies' statuses, and when.

use std::time::{Duration, SystemTime};

use martlet_control::Acknowledgement;
use martlet_policy::{Action, Policy, Selector};

use super::*;

const AT: &str = "2026-01-01T00:00:00Z";

fn label(text: &str) -> Label {
    text.parse().unwrap()
}

fn concern(nodes: &[&str]) -> Concern {
    let (namespace, name) = (label("shop"), label("web"));
    let (action, selector) = (Action::Allow, Selector::All);
    let policy = Policy {
        namespace: namespace.clone(),
        name: name.clone(),
        selector,
        action,
        rules: vec![],
    };
    Concern {
        namespace,
        name,
        uid: "u".into(),
        generation: 1,
        policy: Arc::new(policy),
        refused: None,
        is_beyond: false,
        nodes: nodes.iter().map(|node| label(node)).collect(),
        status: PolicyStatus::default(),
    }
}

fn agents(said: &[(&str, u64, Option<&str>)]) -> HashMap<Label, AgentState> {
    let agent = |&(node, version, error): &(&str, u64, Option<&str>)| {
        let error = error.map(str::to_owned);
        let state = AgentState {
            node: label(node),
            agent_version: String::new(),
            is_connected: true,
            last_seen: SystemTime::UNIX_EPOCH,
            told: version,
            acknowledged: Acknowledgement { version, error, ..Acknowledgement::default() },
            ready_since: None,
            usage: None,
        };
        (label(node), state)
    };
    said.iter().map(agent).collect()
}

struct Stage {
    programming: Programming,
    concern: Concern,
    version: u64,
    now: Instant,
}

impl Stage {
    fn new(concern: Concern) -> Self {
        let now = Instant::now();
        let mut stage = Self { programming: Programming::new(now), concern, version: 5, now };
        stage.hear();
        stage
    }

    fn hear(&mut self) {
        self.programming.hear(&[Arc::new(self.concern.clone())], self.version, self.now);
    }

    /// What is written, which the policy then says.
    fn write(&mut self, said: &[(&str, u64, Option<&str>)]) -> Option<String> {
        let due = self.programming.due(&agents(said), 9, self.now, AT);
        let (key, status) = due.into_iter().next()?;
        self.programming.tried(&key, status.clone(), self.now);
        self.concern.status = status.clone();
        self.hear();
        let programmed = status.condition("Programmed").unwrap();
        Some(format!("{} {}", programmed.reason, status.agents))
    }

    fn later(&mut self, by: Duration) {
        self.now += by;
    }
}

#[test]
fn a_policy_is_settled_when_all_agents_have_taken_the_version_that_told_it() {
    let mut stage = Stage::new(concern(&["one", "two"]));
    assert_eq!(stage.write(&[("one", 5, None), ("two", 4, None)]).unwrap(), "Pending 1/2");
    assert_eq!(stage.write(&[("one", 5, None), ("two", 4, None)]), None, "it says so");
    assert_eq!(stage.write(&[("one", 5, None), ("two", 6, None)]).unwrap(), "Programmed 2/2");
    assert_eq!(stage.write(&[("one", 5, None), ("two", 6, None)]), None);
    assert!(stage.programming.is_settled());
}

#[test]
fn an_agent_that_did_not_take_it_is_not_counted() {
    let mut stage = Stage::new(concern(&["one"]));
    assert_eq!(stage.write(&[("one", 5, Some("no room"))]).unwrap(), "NotTaken 0/1");
    assert!(!stage.programming.is_settled());
}

#[test]
fn counts_on_the_way_are_not_written_each_time() {
    let mut stage = Stage::new(concern(&["one", "two", "three"]));
    assert_eq!(stage.write(&[]).unwrap(), "Pending 0/3");
    assert_eq!(stage.write(&[("one", 5, None)]), None, "it is too soon");
    stage.later(limits::STATUS_AGAIN);
    assert_eq!(stage.write(&[("one", 5, None)]).unwrap(), "Pending 1/3");
    let all = [("one", 5, None), ("two", 5, None), ("three", 5, None)];
    assert_eq!(stage.write(&all).unwrap(), "Programmed 3/3", "the end is said at once");
}

#[test]
fn what_was_in_effect_stays_said_while_a_new_controller_hears_of_it() {
    let mut stage = Stage::new(concern(&["one"]));
    assert_eq!(stage.write(&[("one", 5, None)]).unwrap(), "Programmed 1/1");
    let mut next = Stage::new(stage.concern);
    assert_eq!(next.write(&[]), None);
    next.later(limits::AGENTS_COME_BACK);
    assert_eq!(next.write(&[]).unwrap(), "Pending 0/1", "nobody has come back");
    assert_eq!(next.write(&[("one", 9, None)]).unwrap(), "Programmed 1/1");
}

#[test]
fn another_generation_is_in_effect_nowhere_until_it_is_taken() {
    let mut stage = Stage::new(concern(&["one"]));
    assert_eq!(stage.write(&[("one", 5, None)]).unwrap(), "Programmed 1/1");
    (stage.version, stage.concern.generation) = (6, 2);
    let policy = Policy { action: Action::Deny, ..(*stage.concern.policy).clone() };
    stage.concern.policy = Arc::new(policy);
    stage.hear();
    assert_eq!(stage.write(&[("one", 5, None)]).unwrap(), "Pending 0/1");
    assert_eq!(stage.write(&[("one", 6, None)]).unwrap(), "Programmed 1/1");
}

#[test]
fn a_node_that_comes_is_waited_for_and_the_others_are_not_asked_again() {
    let mut stage = Stage::new(concern(&["one"]));
    assert_eq!(stage.write(&[("one", 5, None)]).unwrap(), "Programmed 1/1");
    stage.later(Duration::from_secs(100));
    stage.version = 8;
    stage.concern.nodes.insert(label("two"));
    stage.hear();
    assert_eq!(stage.write(&[("one", 5, None)]), None, "it has a moment");
    stage.later(limits::STATUS_SETTLES);
    assert_eq!(stage.write(&[("one", 5, None)]).unwrap(), "Pending 1/2");
    assert_eq!(stage.write(&[("one", 5, None), ("two", 8, None)]).unwrap(), "Programmed 2/2");
}

#[test]
fn a_policy_that_is_gone_is_written_no_more() {
    let mut stage = Stage::new(concern(&["one"]));
    stage.programming.hear(&[], 6, stage.now);
    assert!(stage.programming.is_settled());
    assert_eq!(stage.write(&[]), None);
}
