//! All that the controller knows and decides by: the directory file, the nodes, and the trust.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use martlet_authority::{
    Attested, Attestor, Authority, Denied,
    log::Log,
    trust::{self, Store},
};
use martlet_control::{AgentState, Declaration};
use martlet_identity::{Chain, Credentials, SigningKey, Svid, TrustBundle, fingerprint};
use martlet_model::{Label, Part, Trust, TrustDomain, Workload, WorkloadName};
use martlet_standalone::DirectoryFile;

use crate::members::Members;

pub struct Book {
    pub trust_domain: TrustDomain,
    pub directory: Arc<ArcSwap<Known>>,
    pub members: Mutex<Members>,
    store: Mutex<Store>,
    /// What the store has said last.
    trust: ArcSwap<Trust>,
    authority: ArcSwap<Authority>,
}

/// A directory file, and its workloads by name.
#[derive(Debug)]
pub struct Known {
    file: DirectoryFile,
    by_name: HashMap<WorkloadName, Arc<Workload>>,
}

/// What runs where, as the directory file says.
#[derive(Debug, Clone)]
pub struct Places(pub Arc<ArcSwap<Known>>);

impl Known {
    pub fn new(file: DirectoryFile) -> Self {
        let by_name = file.workloads.iter().map(|one| (one.name.clone(), one.clone())).collect();
        Self { file, by_name }
    }

    pub fn workload(&self, name: &WorkloadName) -> Option<&Arc<Workload>> {
        self.by_name.get(name)
    }
}

impl Book {
    /// Opens what is in the state directory; at the first start, a root and an issuer are made.
    pub fn open(state: &Path, directory: DirectoryFile, now: SystemTime) -> Result<(Self, Log)> {
        let trust_domain = directory.trust_domain.clone();
        let members = Members::open(state)?;
        let authority = state.join("authority");
        let store = Store::open(&authority, &trust_domain, now)
            .with_context(|| format!("opening the authority in {}", authority.display()))?;
        let log = Log::open(&state.join("log"), now).context("opening the log of issuance")?;
        let (trust, authority) = (store.trust(), store.authority());
        let book = Self {
            trust_domain,
            directory: Arc::new(ArcSwap::from_pointee(Known::new(directory))),
            members: Mutex::new(members),
            store: Mutex::new(store),
            trust: ArcSwap::new(trust),
            authority: ArcSwap::new(authority),
        };
        Ok((book, log))
    }

    pub fn trust(&self) -> Arc<Trust> {
        self.trust.load_full()
    }

    pub fn authority(&self) -> Arc<Authority> {
        self.authority.load_full()
    }

    pub fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the trust, or changes it. Blocks: every change is written to the disk.
    pub fn with_store<T>(&self, act: impl FnOnce(&mut Store) -> T) -> T {
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let done = act(&mut store);
        self.authority.store(store.authority());
        self.trust.store(store.trust());
        done
    }

    pub fn declaration(&self) -> Declaration {
        let known = self.directory.load();
        let directory = &known.file;
        Declaration {
            workloads: directory.workloads.clone(),
            services: directory.services.clone(),
            policies: directory.policies.clone(),
            local: directory.local.clone(),
            trust: self.trust(),
        }
    }

    /// What every node that is one has said. Of whom nothing is known yet, it is not known that it
    /// needs nothing: it counts as one that has heard of nothing.
    pub fn said(&self, agents: &[AgentState]) -> Vec<trust::Node> {
        let members = self.members();
        let agents: HashMap<_, _> = agents.iter().map(|agent| (&agent.node, agent)).collect();
        let said = |(name, member): (&Label, &crate::members::Member)| {
            let joined = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(member.joined);
            let agent = agents.get(name).copied();
            let usage = agent.and_then(|agent| agent.usage.clone());
            let trust_version = match (&usage, agent) {
                (Some(_), Some(agent)) => agent.acknowledged.trust_version,
                _ => 0,
            };
            let usage = usage.unwrap_or_default();
            let expiry = Some(usage.oldest_expiry).filter(|at| *at != 0);
            trust::Node {
                name: name.clone(),
                last_seen: agent.map_or(joined, |agent| agent.last_seen),
                trust_version,
                leaves: usage.leaves,
                connections: usage.connections,
                oldest_expiry: expiry
                    .map(|at| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(at)),
            }
        };
        members.nodes().iter().map(said).collect()
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
            let is_early = now + std::time::Duration::from_secs(120) >= own.not_after()
                || own.renews_at(0.0) <= now;
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

impl Attestor for Places {
    async fn attest(&self, node: &Label, workload: &WorkloadName) -> Result<Attested, Denied> {
        let directory = self.0.load();
        match directory.workload(workload) {
            None => Err(Denied::UnknownWorkload),
            Some(known) if known.node != *node => Err(Denied::OtherNode),
            Some(known) => Ok(Attested {
                identity: known.identity.clone(),
                node: known.node.clone(),
                uid: None,
            }),
        }
    }
}
