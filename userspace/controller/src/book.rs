//! All that the controller knows and decides by: what there is, the nodes, and the trust.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use imbl::OrdMap;
use martlet_authority::{
    Authority,
    log::Log,
    trust::{self, Store, TrustError},
};
use martlet_control::{AgentState, Declaration, Inventory};
use martlet_identity::{Chain, Credentials, KeyDigest, SigningKey, Svid, TrustBundle, fingerprint};
use martlet_kubernetes::{
    kept::Mesh,
    world::{Concern, Noted, Object, Picture, World},
};
use martlet_model::{Label, LocalWorkload, Part, Trust, TrustDomain, WorkloadName};
use martlet_standalone::DirectoryFile;
use tokio::sync::watch;

use crate::{members::Members, mirror::Mirror};

pub struct Book {
    pub trust_domain: TrustDomain,
    pub directory: Arc<ArcSwap<Known>>,
    pub nodes: Nodes,
    /// Where changes of the trust are kept beside the disk.
    mirror: Option<Mutex<Mirror>>,
    store: Mutex<Store>,
    /// What the store has said last.
    trust: watch::Sender<Arc<Trust>>,
    authority: ArcSwap<Authority>,
}

/// What there is on all nodes: as the directory file says, or the cluster.
#[derive(Debug, Default)]
pub struct Known {
    /// Without what is decided elsewhere: the trust.
    inventory: Inventory,
    /// Of a cluster: the nodes with an agent, and since when, in seconds since 1970.
    pub agents: OrdMap<Label, u64>,
    /// Of a cluster: how each policy stands, and what is wrong with which objects.
    pub concerns: Vec<Arc<Concern>>,
    pub problems: Arc<HashMap<Object, Noted>>,
    /// Of a cluster: what is set for the whole mesh.
    pub mesh: Arc<Mesh>,
}

/// By what it is known who the nodes are.
pub enum Nodes {
    /// Each has joined by a token.
    Members(Mutex<Members>),
    /// Those of the cluster that have an agent.
    Cluster,
}

impl Known {
    pub fn of_file(file: DirectoryFile) -> Result<Self> {
        let DirectoryFile { workloads, services, policies, local, .. } = file;
        let declaration =
            Declaration { workloads, services, policies, local, ..Declaration::default() };
        Ok(Self { inventory: declaration.inventory()?, ..Self::default() })
    }

    pub fn of_cluster(world: &mut World) -> Self {
        let (concerns, problems) = (world.concerns(), world.problems().clone());
        let Picture { workloads, services, policies, local, outside, agents, mesh, zones } =
            world.picture();
        let failure = mesh.settings.failure;
        let trust = Arc::default();
        let inventory =
            Inventory { workloads, services, policies, local, outside, trust, failure, zones };
        Self { inventory, agents, concerns, problems, mesh }
    }

    pub fn local(&self, name: &WorkloadName) -> Option<&LocalWorkload> {
        self.inventory.local.get(name).map(|local| &**local)
    }
}

impl Book {
    /// Opens what is in the state directory; at the first start, a root and an issuer are made.
    pub fn open(
        state: &Path,
        trust_domain: TrustDomain,
        directory: Arc<ArcSwap<Known>>,
        mirror: Option<Mirror>,
        now: SystemTime,
    ) -> Result<(Self, Log)> {
        let nodes = match mirror {
            Some(_) => Nodes::Cluster,
            None => Nodes::Members(Mutex::new(Members::open(state)?)),
        };
        let authority = state.join("authority");
        let store = Store::open(&authority, &trust_domain, now)
            .with_context(|| format!("opening the authority in {}", authority.display()))?;
        let log = Log::open(&state.join("log"), now).context("opening the log of issuance")?;
        let (trust, authority) = (store.trust(), store.authority());
        let book = Self {
            trust_domain,
            directory,
            nodes,
            mirror: mirror.map(Mutex::new),
            store: Mutex::new(store),
            trust: watch::Sender::new(trust),
            authority: ArcSwap::new(authority),
        };
        // A root that was just made is of no use to anybody before it is kept.
        book.with_store(|_| Ok(())).context("keeping the authority")?;
        Ok((book, log))
    }

    pub fn trust(&self) -> Arc<Trust> {
        self.trust.borrow().clone()
    }

    /// Tells of each change.
    pub fn trusts(&self) -> watch::Receiver<Arc<Trust>> {
        self.trust.subscribe()
    }

    pub fn authority(&self) -> Arc<Authority> {
        self.authority.load_full()
    }

    /// Those who have joined by a token; `None` if nobody can.
    pub fn members(&self) -> Option<MutexGuard<'_, Members>> {
        match &self.nodes {
            Nodes::Members(members) => Some(members.lock().unwrap_or_else(PoisonError::into_inner)),
            Nodes::Cluster => None,
        }
    }

    /// All nodes, and since when each is one, in seconds since 1970.
    pub fn nodes(&self) -> BTreeMap<Label, u64> {
        match self.members() {
            Some(members) => {
                let nodes = members.nodes().iter();
                nodes.map(|(name, member)| (name.clone(), member.joined)).collect()
            }
            None => {
                self.directory.load().agents.iter().map(|(name, at)| (name.clone(), *at)).collect()
            }
        }
    }

    /// Whether this node, with this key, is one now.
    pub fn is_node(&self, node: &Label, key: &KeyDigest) -> bool {
        match self.members() {
            Some(members) => members.has(node, key),
            // Its certificate says that its key was an agent's of this node.
            None => self.directory.load().agents.contains_key(node),
        }
    }

    /// Looks at the trust.
    pub fn look_at_store<T>(&self, look: impl FnOnce(&Store) -> T) -> T {
        look(&self.store.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the trust. Blocks: every change is kept before it has any effect.
    pub fn with_store<T>(
        &self,
        act: impl FnOnce(&mut Store) -> Result<T, TrustError>,
    ) -> Result<T, TrustError> {
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let mut done = act(&mut store);
        if let Some(mirror) = &self.mirror {
            let mut mirror = mirror.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(why) = mirror.keep() {
                store.reload(SystemTime::now())?;
                done = Err(TrustError::NotKept(why));
            }
        }
        self.authority.store(store.authority());
        let trust = store.trust();
        self.trust.send_if_modified(|now| {
            let is_other = !Arc::ptr_eq(now, &trust);
            *now = trust;
            is_other
        });
        done
    }

    pub fn inventory(&self) -> Inventory {
        Inventory { trust: self.trust(), ..self.directory.load().inventory.clone() }
    }

    /// What every node that is one has said. Of whom nothing is known yet, it is not known that it
    /// needs nothing: it counts as one that has heard of nothing.
    pub fn said(&self, agents: &[AgentState]) -> Vec<trust::Node> {
        let agents: HashMap<_, _> = agents.iter().map(|agent| (&agent.node, agent)).collect();
        let said = |(name, since): (Label, u64)| {
            let joined = SystemTime::UNIX_EPOCH + Duration::from_secs(since);
            let agent = agents.get(&name).copied();
            let usage = agent.and_then(|agent| agent.usage.clone());
            let trust_version = match (&usage, agent) {
                (Some(_), Some(agent)) => agent.acknowledged.trust_version,
                _ => 0,
            };
            let usage = usage.unwrap_or_default();
            let instant = |seconds: u64| {
                let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
                at.filter(|_| seconds != 0)
            };
            trust::Node {
                name,
                last_seen: agent.map_or(joined, |agent| agent.last_seen),
                trust_version,
                leaves: usage.leaves,
                connections: usage.connections,
                oldest_expiry: instant(usage.oldest_expiry),
                quarters: usage.quarters,
                next_renewal: instant(usage.next_renewal),
            }
        };
        self.nodes().into_iter().map(said).collect()
    }

    /// Makes the controller's own certificate if it is due, of another issuer, or not there; and
    /// says by which roots nodes are believed.
    pub fn certify_controller(&self, credentials: &Credentials, now: SystemTime) -> Result<()> {
        let (authority, trust) = (self.authority(), self.trust());
        let own_roots = trust.roots.get(&self.trust_domain).cloned().unwrap_or_default();
        // Without quarantines: a node that is cut off must hear when it is released.
        let bundle = TrustBundle::new([(self.trust_domain.clone(), own_roots.clone())])?;
        credentials.set_trust(Arc::new(bundle));
        let issuer = fingerprint(authority.issuer());
        let is_good = credentials.current().is_some_and(|own| {
            let by = own.chain().0.get(1).map(|der| fingerprint(der));
            let is_early =
                now + Duration::from_secs(120) >= own.not_after() || own.renews_at(0.0) <= now;
            let shows = own.chain().0.get(2..).unwrap_or_default();
            by.as_ref() == Some(&issuer) && !is_early && shows == own_roots
        });
        if is_good {
            return Ok(());
        }
        let key = SigningKey::generate()?;
        let lifetime = martlet_authority::LEAF_LIFETIME;
        let Chain(mut chain) =
            authority.issue_part(&key.csr()?, &Part::Controller, lifetime, now)?;
        // Nodes that have nothing yet know the controller by a root's fingerprint.
        chain.extend(own_roots);
        credentials.install(Svid::new(&key, Chain(chain), credentials.identity())?);
        Ok(())
    }
}
