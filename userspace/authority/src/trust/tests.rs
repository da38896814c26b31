//! Three nodes, a rotation, and every way in which it can be stopped.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use martlet_identity::{Chain, SigningKey, TrustBundle, fingerprint, verify_chain};
use martlet_model::{Trust, TrustDomain};
use tempfile::TempDir;

use super::*;
use crate::{Authority, LEAF_LIFETIME, LeafRequest, NewRoot, cut};

mod changes;
mod crashes;
mod keys;

const TICK: Duration = Duration::from_secs(10);

fn domain() -> TrustDomain {
    "prod.example".parse().unwrap()
}

/// A controller, three nodes, and a clock that nobody but the test moves.
struct Lab {
    directory: TempDir,
    store: Option<Store>,
    nodes: Vec<Agent>,
    now: SystemTime,
    /// Connections that somebody lost.
    lost: usize,
}

struct Agent {
    name: Label,
    trust: Arc<Trust>,
    leaf: Chain,
    /// By the digest of the root that proved the other end.
    connections: Vec<(usize, String)>,
    said: Node,
}

impl Lab {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let now = SystemTime::now();
        let store = Store::open(directory.path(), &domain(), now).unwrap();
        let agent = |number: usize| {
            let name: Label = format!("n{number}").parse().unwrap();
            Agent {
                leaf: leaf(&store.authority(), &name, now),
                trust: store.trust(),
                connections: vec![],
                said: Node {
                    name: name.clone(),
                    last_seen: now,
                    trust_version: 0,
                    leaves: BTreeMap::new(),
                    connections: BTreeMap::new(),
                    oldest_expiry: None,
                    quarters: [0; 4],
                    next_renewal: None,
                },
                name,
            }
        };
        let nodes = (0..3).map(agent).collect();
        let mut lab = Self { directory, store: Some(store), nodes, now, lost: 0 };
        for of in 0..3 {
            lab.dial(of);
        }
        for of in 0..3 {
            lab.sync(of);
        }
        lab
    }

    fn store(&mut self) -> &mut Store {
        self.store.as_mut().unwrap()
    }

    fn said(&self) -> Vec<Node> {
        self.nodes.iter().map(|node| node.said.clone()).collect()
    }

    fn obstacles(&self) -> Vec<Obstacle> {
        self.store.as_ref().unwrap().obstacles(&self.said(), self.now)
    }

    /// The controller looks; whether anything changed.
    fn tick(&mut self) -> bool {
        self.now += TICK;
        let (said, now) = (self.said(), self.now);
        self.store().tick(&said, now).unwrap()
    }

    /// The controller dies and starts again.
    fn restart(&mut self) {
        self.store = None;
        self.store = Some(Store::open(self.directory.path(), &domain(), self.now).unwrap());
    }

    /// A node hears what it is told, does it, and says what it has.
    fn sync(&mut self, of: usize) {
        self.now += TICK;
        let (trust, authority, now) = (self.store().trust(), self.store().authority(), self.now);
        let node = &mut self.nodes[of];
        assert!(trust.version >= node.trust.version, "versions never go back");
        node.trust = trust;
        let own = bundle(&node.trust);
        let trusted: Vec<_> = own.root_keys(&domain()).iter().map(|key| key.digest()).collect();
        let before = node.connections.len();
        node.connections.retain(|(_, root)| trusted.contains(root));
        self.lost += before - node.connections.len();
        let issuer = fingerprint(&node.leaf.0[1]);
        if node.trust.issuer.as_ref().is_some_and(|wanted| *wanted != issuer) {
            node.leaf = leaf(&authority, &node.name, now);
        }
        let mut connections = BTreeMap::new();
        node.connections
            .iter()
            .for_each(|(_, root)| *connections.entry(root.clone()).or_default() += 1);
        node.said = Node {
            name: node.name.clone(),
            last_seen: now,
            trust_version: node.trust.version,
            leaves: [(fingerprint(&node.leaf.0[1]), 1)].into(),
            connections,
            oldest_expiry: Some(now + LEAF_LIFETIME),
            quarters: [0; 4],
            next_renewal: None,
        };
        self.all_believe_each_other();
    }

    /// Ends what a node has open, and connects with the others anew.
    fn dial(&mut self, of: usize) {
        let proven =
            |to: usize| (to, proves(&self.nodes[of].trust, &self.nodes[to].leaf, self.now));
        let proven: Vec<_> = (0..3).filter(|to| *to != of).map(proven).collect();
        self.nodes[of].connections = proven;
    }

    fn all_believe_each_other(&self) {
        for one in &self.nodes {
            for other in &self.nodes {
                let believed = verify_chain(&other.leaf, Arc::new(bundle(&one.trust)), self.now);
                assert_eq!(believed, Ok(()), "{} of {}", one.name, other.name);
            }
        }
    }

    fn step(&self) -> Option<Step> {
        let rotation = self.store.as_ref().unwrap().document.rotation.as_ref();
        rotation.map(|rotation| rotation.step.into())
    }

    fn own_roots(&self) -> Vec<Vec<u8>> {
        self.store.as_ref().unwrap().trust().roots[&domain()].clone()
    }

    fn rotate(&mut self) {
        let (said, now) = (self.said(), self.now);
        self.store().rotate(NewRoot::Made, None, &said, now).unwrap();
    }

    /// Everybody does what is to be done, again and again, until it is.
    fn run(&mut self) {
        for round in 0.. {
            assert!(round < 20, "{:?}", self.obstacles());
            for of in 0..3 {
                self.sync(of);
                self.dial(of);
                self.sync(of);
            }
            self.tick();
            if self.step().is_none() {
                return;
            }
        }
    }
}

fn leaf(authority: &Authority, node: &Label, now: SystemTime) -> Chain {
    let csr = SigningKey::generate().unwrap().csr().unwrap();
    let identity = format!("spiffe://prod.example/ns/shop/sa/{node}").parse().unwrap();
    let workload =
        martlet_model::WorkloadName { namespace: "shop".parse().unwrap(), name: node.clone() };
    let (node, lifetime) = (node.clone(), LEAF_LIFETIME);
    authority
        .issue(&csr, &LeafRequest { identity, workload, node, uid: None, lifetime }, now)
        .unwrap()
}

fn bundle(trust: &Trust) -> TrustBundle {
    TrustBundle::new(trust.roots.clone()).unwrap()
}

/// The root that proves a leaf to whoever has this trust.
fn proves(trust: &Trust, leaf: &Chain, now: SystemTime) -> String {
    let alone = |root: &Vec<u8>| TrustBundle::new([(domain(), vec![root.clone()])]).unwrap();
    let bundles = trust.roots[&domain()].iter().map(alone);
    let proves = |bundle: &TrustBundle| verify_chain(leaf, Arc::new(bundle.clone()), now).is_ok();
    let bundle = bundles.into_iter().find(proves).expect("a root proves it");
    bundle.root_keys(&domain())[0].digest()
}

#[test]
fn a_root_is_rotated_in_steps_and_nobody_loses_anything() {
    let mut lab = Lab::new();
    let old = lab.own_roots();
    lab.rotate();
    assert_eq!((lab.step(), lab.own_roots().len()), (Some(Step::Staged), 2));
    assert!(!lab.tick(), "nobody has acknowledged yet");
    lab.sync(0);
    lab.sync(1);
    assert!(!lab.tick(), "one has not");
    let waits = lab.obstacles();
    assert!(
        matches!(waits.as_slice(), [Obstacle::NotAcknowledged { node, .. }] if node.as_str() == "n2")
    );
    lab.sync(2);
    assert!(lab.tick());
    assert_eq!((lab.step(), lab.own_roots().len()), (Some(Step::Switched), 2));
    assert!(!lab.tick(), "all have leaves of the old root");
    for of in 0..3 {
        lab.sync(of);
        assert!(!lab.tick(), "connections live that the old root proves");
    }
    let waits = lab.obstacles();
    assert!(
        waits.iter().all(|wait| matches!(wait, Obstacle::Connections { count: 2, .. })),
        "{waits:?}"
    );
    for of in 0..3 {
        lab.dial(of);
        assert!(!lab.tick(), "n{of} has not said it yet");
        lab.sync(of);
    }
    assert!(lab.tick());
    assert_eq!((lab.step(), lab.own_roots().len(), lab.lost), (None, 1, 0));
    assert_ne!(lab.own_roots(), old);
    (0..3).for_each(|of| lab.sync(of));
    assert_eq!(lab.lost, 0);
}

#[test]
fn it_is_taken_back_from_every_step() {
    for switched in [false, true] {
        for syncs in 0..=3 {
            let mut lab = Lab::new();
            let old = lab.own_roots();
            lab.rotate();
            if switched {
                (0..3).for_each(|of| lab.sync(of));
                assert!(lab.tick());
            }
            (0..syncs).for_each(|of| lab.sync(of));
            let now = lab.now;
            lab.store().back(now).unwrap();
            lab.run();
            assert_eq!(
                (lab.own_roots(), lab.lost),
                (old, 0),
                "switched: {switched}, {syncs} syncs"
            );
            // And forwards once more, to another root.
            lab.rotate();
            lab.run();
            assert_eq!(lab.lost, 0);
        }
    }
}

#[test]
fn back_twice_goes_forwards() {
    let mut lab = Lab::new();
    let old = lab.own_roots();
    lab.rotate();
    (0..3).for_each(|of| lab.sync(of));
    assert!(lab.tick());
    let now = lab.now;
    lab.store().back(now).unwrap();
    lab.sync(0);
    lab.store().back(now + TICK).unwrap();
    lab.run();
    assert_ne!(lab.own_roots(), old);
    assert_eq!(lab.lost, 0);
}

#[test]
fn a_paused_rotation_stays_where_it_is() {
    let mut lab = Lab::new();
    lab.rotate();
    for step in [Step::Staged, Step::Switched] {
        lab.store().pause().unwrap();
        for _ in 0..5 {
            (0..3).for_each(|of| lab.sync(of));
            (0..3).for_each(|of| lab.dial(of));
            (0..3).for_each(|of| lab.sync(of));
            assert!(!lab.tick());
            lab.restart();
        }
        assert_eq!(lab.step(), Some(step));
        assert_eq!(lab.obstacles(), [Obstacle::Paused]);
        lab.store().resume().unwrap();
        assert!(lab.tick());
    }
    assert_eq!((lab.step(), lab.lost), (None, 0));
}

#[test]
fn force_goes_on_and_names_what_it_breaks() {
    let mut lab = Lab::new();
    lab.rotate();
    lab.sync(0);
    let (said, now) = (lab.said(), lab.now);
    let broken = lab.store().force(&said, now).unwrap();
    assert_eq!(broken.len(), 2, "{broken:?}");
    let names: Vec<_> = broken.iter().filter_map(Obstacle::node).map(Label::as_str).collect();
    assert_eq!((names, lab.step()), (vec!["n1", "n2"], Some(Step::Switched)));
    let now = now + TICK;
    let broken = lab.store().force(&said, now).unwrap();
    let leaves = broken.iter().filter(|what| matches!(what, Obstacle::Leaves { .. })).count();
    let connections =
        broken.iter().filter(|what| matches!(what, Obstacle::Connections { .. })).count();
    assert_eq!((leaves, connections, lab.step()), (3, 3, None));
    let refused = lab.store().force(&said, now).unwrap_err();
    assert!(matches!(refused, TrustError::NotRotating));
}

#[test]
fn a_node_that_is_away_is_waited_for_until_it_is_forgotten() {
    let mut lab = Lab::new();
    lab.tick();
    lab.rotate();
    let gone = lab.nodes[2].name.clone();
    lab.sync(0);
    lab.sync(1);
    for _ in 0..3 {
        // A controller that has started anew knows nothing of a node that is away.
        lab.restart();
        let (said, now) = (lab.said()[..2].to_vec(), lab.now + TICK);
        assert!(!lab.store().tick(&said, now).unwrap());
        assert_eq!(lab.store().obstacles(&said, now), [Obstacle::Silent { node: gone.clone() }]);
    }
    assert!(lab.store().forget(&gone).unwrap());
    let (said, now) = (lab.said()[..2].to_vec(), lab.now + TICK);
    assert!(lab.store().tick(&said, now).unwrap());
    assert_eq!(lab.step(), Some(Step::Switched));
}

#[test]
fn an_issuer_renews_itself_and_its_root_is_known_by_all_its_issuers() {
    let mut lab = Lab::new();
    let first = fingerprint(lab.store().authority().issuer());
    let version = lab.store().trust().version;
    lab.now += Duration::from_secs(4 * 86_400);
    assert!(lab.tick());
    let second = fingerprint(lab.store().authority().issuer());
    assert_ne!(first, second);
    assert_eq!(lab.store().trust().version, version, "nodes need not be told");
    for of in 0..3 {
        let authority = lab.store().authority();
        let leaf = leaf(&authority, &lab.nodes[of].name, lab.now);
        lab.nodes[of].leaf = leaf;
    }
    lab.rotate();
    lab.run();
    assert_eq!(lab.lost, 0);
    assert!(lab.store().authority().lasts().unwrap().renews.is_some());
}
