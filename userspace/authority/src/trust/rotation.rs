//! When a rotation may go on: a pure function of what the nodes have said.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::{Duration, SystemTime},
};

use martlet_model::Label;

use super::{Node, issuer::IssuerState};

/// How far a rotation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Both roots are trusted; the one that was there issues.
    Staged,
    /// Both roots are trusted; the one that stays issues.
    Switched,
}

/// What a rotation waits for, and what forcing it breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// `martlet trust pause`.
    Paused,
    /// The root's key is elsewhere, and its certificate for the new issuer is not here yet.
    NoIssuer,
    /// The same, and the certificate that was here has ended before it was used.
    IssuerExpired,
    /// Other trust domains may not have looked for the new root yet: they would refuse what it issues.
    NotShown { left: Duration },
    /// The other root is not there as it should be, so that nobody knows who needs it.
    Unreadable,
    /// It would refuse every certificate below the new root.
    NotAcknowledged { node: Label, has: u64, wants: u64 },
    /// Nothing is known about it: it is away, or has said nothing since the step before.
    Silent { node: Label },
    /// Certificates that would be believed by nobody any more.
    Leaves { node: Label, count: u64 },
    /// Connections that would end.
    Connections { node: Label, count: u64 },
}

/// What the decision rests on.
pub struct Facts<'a> {
    pub step: Step,
    pub is_paused: bool,
    pub issuer: IssuerState,
    /// Until when other domains are given time to learn of the new root, if there are any.
    pub shown_until: Option<SystemTime>,
    pub now: SystemTime,
    /// Since which version all nodes are told of both roots.
    pub version: u64,
    /// When the step was taken.
    pub since: SystemTime,
    /// All that ever were told anything.
    pub known: &'a BTreeSet<Label>,
    pub nodes: &'a [Node],
    /// Issuers below the root that stays.
    pub staying_issuers: &'a BTreeSet<String>,
    /// Digests of the keys of the root that goes; absent if it cannot be read.
    pub leaving_roots: Option<&'a BTreeSet<String>>,
}

/// Nothing, if the next step may be taken.
pub fn obstacles(facts: &Facts<'_>) -> Vec<Obstacle> {
    let mut found = Vec::new();
    if facts.is_paused {
        found.push(Obstacle::Paused);
    }
    match facts.issuer {
        IssuerState::Good => {}
        IssuerState::Missing => found.push(Obstacle::NoIssuer),
        IssuerState::Expired => found.push(Obstacle::IssuerExpired),
    }
    let left = facts.shown_until.and_then(|until| until.duration_since(facts.now).ok());
    if let Some(left) = left.filter(|left| !left.is_zero()) {
        found.push(Obstacle::NotShown { left });
    }
    if facts.leaving_roots.is_none() {
        found.push(Obstacle::Unreadable);
    }
    let nodes: BTreeMap<_, _> = facts.nodes.iter().map(|node| (&node.name, node)).collect();
    let unheard = facts.known.iter().filter(|name| !nodes.contains_key(name));
    found.extend(unheard.map(|name| Obstacle::Silent { node: name.clone() }));
    for node in nodes.values() {
        if node.trust_version < facts.version {
            let (has, wants) = (node.trust_version, facts.version);
            found.push(Obstacle::NotAcknowledged { node: node.name.clone(), has, wants });
        }
        if facts.step == Step::Switched {
            found.extend(needs(facts, node));
        }
    }
    found
}

/// What a node still has of the root that goes. An issuer that is not known to be one of those that
/// stay is counted as one that goes.
fn needs(facts: &Facts<'_>, node: &Node) -> Vec<Obstacle> {
    let mut found = Vec::new();
    let name = || node.name.clone();
    if node.last_seen <= facts.since {
        // What it said is from before the step.
        found.push(Obstacle::Silent { node: name() });
    }
    let goes = |issuer: &String| !facts.staying_issuers.contains(issuer);
    let leaves: u64 = node.leaves.iter().filter(|(of, _)| goes(of)).map(|(_, count)| count).sum();
    if leaves > 0 {
        found.push(Obstacle::Leaves { node: name(), count: leaves });
    }
    let is_leaving = |root: &String| facts.leaving_roots.is_none_or(|of| of.contains(root));
    let connections = node.connections.iter().filter(|(root, _)| is_leaving(root));
    let connections: u64 = connections.map(|(_, count)| count).sum();
    if connections > 0 {
        found.push(Obstacle::Connections { node: name(), count: connections });
    }
    found
}

impl Obstacle {
    /// Whose it is, if it is a node's.
    pub fn node(&self) -> Option<&Label> {
        match self {
            Self::Paused
            | Self::NoIssuer
            | Self::IssuerExpired
            | Self::NotShown { .. }
            | Self::Unreadable => None,
            Self::NotAcknowledged { node, .. }
            | Self::Silent { node }
            | Self::Leaves { node, .. }
            | Self::Connections { node, .. } => Some(node),
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Paused => f.write_str("it is paused (martlet trust resume)"),
            Self::NoIssuer => f.write_str(
                "the new root, whose key is elsewhere, has no issuer yet: `martlet trust csr` asks \
                 for one, `martlet trust install` takes it",
            ),
            Self::IssuerExpired => f.write_str(
                "the issuer of the new root, whose key is elsewhere, has expired: `martlet trust \
                 csr` asks for another, `martlet trust install` takes it",
            ),
            Self::NotShown { left } => {
                let minutes = left.as_secs().div_ceil(60);
                write!(
                    f,
                    "other trust domains may not have fetched the new root yet; they are given \
                     {minutes} more min"
                )
            }
            Self::Unreadable => f.write_str("the certificate of the other root cannot be read"),
            Self::NotAcknowledged { node, has, wants } => {
                write!(
                    f,
                    "node {node} does not trust the new root: it has version {has} of {wants}"
                )
            }
            Self::Silent { node } => write!(f, "node {node} has said nothing since then"),
            Self::Leaves { node, count } => {
                write!(f, "node {node} has {count} certificates below the old root")
            }
            Self::Connections { node, count } => {
                write!(f, "node {node} has {count} connections that the old root proves")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn node(name: &str) -> Node {
        Node {
            name: name.parse().unwrap(),
            last_seen: at(200),
            trust_version: 7,
            leaves: [("new".to_owned(), 3)].into(),
            connections: [("new-root".to_owned(), 5)].into(),
            oldest_expiry: None,
            quarters: [0; 4],
            next_renewal: None,
        }
    }

    fn found(step: Step, nodes: &[Node], known: &[&str]) -> Vec<Obstacle> {
        obstacles(&Facts {
            step,
            is_paused: false,
            issuer: IssuerState::Good,
            shown_until: None,
            now: at(200),
            version: 7,
            since: at(100),
            known: &known.iter().map(|name| name.parse().unwrap()).collect(),
            nodes,
            staying_issuers: &["new".to_owned()].into(),
            leaving_roots: Some(&["old-root".to_owned()].into()),
        })
    }

    #[test]
    fn nothing_is_waited_for_when_all_have_what_they_need() {
        for step in [Step::Staged, Step::Switched] {
            assert_eq!(found(step, &[node("one"), node("two")], &["one", "two"]), []);
            assert_eq!(found(step, &[], &[]), []);
        }
    }

    #[test]
    fn every_need_of_every_node_is_an_obstacle() {
        let one = || "one".parse().unwrap();
        let with = |change: fn(&mut Node)| {
            let mut node = node("one");
            change(&mut node);
            [node]
        };
        let behind = Obstacle::NotAcknowledged { node: one(), has: 6, wants: 7 };
        fn leaf(node: &mut Node, issuer: &str, count: u64) {
            node.leaves.insert(issuer.to_owned(), count);
        }
        type Change = fn(&mut Node);
        let cases: [(Change, Obstacle, bool); 5] = [
            (|node| node.trust_version = 6, behind, true),
            (|node| node.last_seen = at(100), Obstacle::Silent { node: one() }, false),
            (|node| leaf(node, "old", 2), Obstacle::Leaves { node: one(), count: 2 }, false),
            (
                |node| leaf(node, "never heard of", 1),
                Obstacle::Leaves { node: one(), count: 1 },
                false,
            ),
            (
                |node| node.connections.extend([("old-root".to_owned(), 9)]),
                Obstacle::Connections { node: one(), count: 9 },
                false,
            ),
        ];
        for (change, obstacle, is_one_before_the_switch) in cases {
            let wanted = std::slice::from_ref(&obstacle);
            assert_eq!(found(Step::Switched, &with(change), &["one"]), wanted);
            let wanted = if is_one_before_the_switch { wanted } else { &[] };
            assert_eq!(found(Step::Staged, &with(change), &["one"]), wanted);
        }
    }

    #[test]
    fn other_domains_are_given_time_to_learn_of_the_new_root() {
        let shown = |until: u64| {
            let (known, nodes) = (BTreeSet::new(), []);
            obstacles(&Facts {
                step: Step::Staged,
                is_paused: false,
                issuer: IssuerState::Good,
                shown_until: Some(at(until)),
                now: at(200),
                version: 7,
                since: at(100),
                known: &known,
                nodes: &nodes,
                staying_issuers: &BTreeSet::new(),
                leaving_roots: Some(&BTreeSet::new()),
            })
        };
        assert_eq!(shown(200), []);
        assert_eq!(shown(261), [Obstacle::NotShown { left: Duration::from_secs(61) }]);
        assert!(shown(261)[0].to_string().contains("2 more min"));
    }

    #[test]
    fn a_node_that_was_known_and_says_nothing_is_waited_for() {
        let silent = [Obstacle::Silent { node: "two".parse().unwrap() }];
        for step in [Step::Staged, Step::Switched] {
            assert_eq!(found(step, &[node("one")], &["one", "two"]), silent);
        }
    }
}
