//! Takes the startup taint off the nodes whose agents are ready.
//!
//! A node is looked at when its agent's process has said that it is, and from time to time after that:
//! whoever makes the node's object anew gives it the taint again.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use martlet_control::{AgentState, Server};
use martlet_kubernetes::{Client, taint};
use martlet_model::Label;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::{limits, office::Clerk};

/// For ever.
pub async fn run(client: Client, server: Server<Clerk>) {
    let (mut looked, mut failure) = (Looked::default(), None);
    let mut rounds = interval(limits::WRITING_ROUND);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        let due = looked.due(&server.agents(), limits::TAINTS, Instant::now());
        let mut failed = None;
        for (node, ready_since) in due {
            match taint::remove(&client, &node).await {
                Ok(was_there) => {
                    if was_there {
                        info!(%node, taint = taint::NOT_READY, "the agent is ready, taint removed");
                    }
                    looked.note(node, ready_since, Instant::now());
                }
                Err(error) => failed = Some(format!("node {node}: {error}")),
            }
        }
        // Said on change only.
        if let Some(error) = failed.as_ref().filter(|_| failed != failure) {
            warn!(error, "the startup taint could not be removed");
        }
        failure = failed;
    }
}

/// Which nodes were looked at, and when.
#[derive(Default)]
struct Looked(HashMap<Label, (SystemTime, Instant)>);

impl Looked {
    /// Which are to be looked at now, and since when each is ready. Those that were not looked at since
    /// then come first.
    fn due(
        &mut self,
        agents: &[AgentState],
        most: usize,
        now: Instant,
    ) -> Vec<(Label, SystemTime)> {
        let ready = agents.iter().filter_map(|agent| Some((&agent.node, agent.ready_since?)));
        let mut due: Vec<_> = ready
            .filter_map(|(node, since)| {
                let waited = match self.0.get(node) {
                    Some((known, at)) if *known == since => now.saturating_duration_since(*at),
                    _ => Duration::MAX,
                };
                (waited >= limits::TAINT_AGAIN).then(|| (waited, (node.clone(), since)))
            })
            .collect();
        self.0.retain(|node, _| agents.iter().any(|agent| agent.node == *node));
        due.sort_unstable_by(|(one, _), (other, _)| other.cmp(one));
        due.into_iter().map(|(_, node)| node).take(most).collect()
    }

    fn note(&mut self, node: Label, ready_since: SystemTime, now: Instant) {
        self.0.insert(node, (ready_since, now));
    }
}

#[cfg(test)]
mod tests {
    use martlet_control::Acknowledgement;

    use super::*;

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    fn agents(all: &[(&str, Option<u64>)]) -> Vec<AgentState> {
        let agent = |&(node, ready): &(&str, Option<u64>)| AgentState {
            node: node.parse().unwrap(),
            agent_version: String::new(),
            is_connected: true,
            last_seen: at(0),
            told: 0,
            acknowledged: Acknowledgement::default(),
            ready_since: ready.map(at),
            usage: None,
        };
        all.iter().map(agent).collect()
    }

    fn names(due: &[(Label, SystemTime)]) -> Vec<&str> {
        due.iter().map(|(node, _)| node.as_str()).collect()
    }

    #[test]
    fn a_node_whose_agent_has_not_said_that_it_is_ready_is_left_alone() {
        let due = Looked::default().due(&agents(&[("one", None)]), 9, Instant::now());
        assert!(due.is_empty(), "{due:?}");
    }

    #[test]
    fn a_node_is_looked_at_once_for_each_process_and_again_after_a_while() {
        let (mut looked, now) = (Looked::default(), Instant::now());
        let one = agents(&[("one", Some(1))]);
        assert_eq!(names(&looked.due(&one, 9, now)), ["one"]);
        assert_eq!(names(&looked.due(&one, 9, now)), ["one"], "it was not looked at yet");
        looked.note("one".parse().unwrap(), at(1), now);
        assert!(looked.due(&one, 9, now).is_empty());
        assert_eq!(names(&looked.due(&one, 9, now + limits::TAINT_AGAIN)), ["one"]);
        let anew = agents(&[("one", Some(2))]);
        assert_eq!(names(&looked.due(&anew, 9, now)), ["one"]);
    }

    #[test]
    fn nodes_that_were_never_looked_at_come_before_those_that_were() {
        let (mut looked, now) = (Looked::default(), Instant::now());
        looked.note("a".parse().unwrap(), at(1), now);
        let both = agents(&[("a", Some(1)), ("b", Some(1))]);
        let due = looked.due(&both, 1, now + limits::TAINT_AGAIN);
        assert_eq!(names(&due), ["b"]);
    }
}
