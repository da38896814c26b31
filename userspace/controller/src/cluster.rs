//! What there is on all nodes, as the cluster says: watched for ever, and told when it has changed.

use std::{
    collections::{BTreeMap, HashMap},
    env,
    future::pending,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context as _, Result};
use martlet_control::{AccountToken, Arrival};
use martlet_kubernetes::{
    Client, Config, ObjectMeta, address,
    api::PolicyObject,
    attest::{self, Agents, TokenError},
    kept::{self, KeptError, Mesh},
    lease::Lease,
    publish,
    seen::{
        Namespace, NamespaceObject, Node, NodeObject, Pod, PodObject, Problem, Service, ServiceKey,
        ServiceObject, Slice, SliceObject, SliceVersion,
    },
    vault::Vault,
    watch::{Change, Health, Key, Source, follow, resume},
    world::{Facts, Kind, Object, Set, Settings, World},
};
use martlet_model::{Label, TrustDomain, WorkloadName};
use martlet_standalone::InCluster;
use tokio::{
    sync::{OnceCell, mpsc, watch},
    time::{Instant, sleep_until},
};
use tracing::{debug, info, warn};

use crate::{book::Known, limits};

/// A cluster that is watched.
#[derive(Clone)]
pub struct Cluster {
    pub client: Client,
    /// Of this process's pod.
    pub own_name: String,
    /// Where agents reach it; `None` outside of a pod.
    own_address: Option<IpAddr>,
    slices: Arc<OnceCell<SliceVersion>>,
    agents: Agents,
    settings: Settings,
    /// How well each kind of objects is followed.
    health: Arc<Mutex<BTreeMap<&'static str, Health>>>,
    /// What agents say of pods that have just arrived, to whoever follows the cluster.
    arrivals: mpsc::Sender<Arrived>,
    arrived: Arc<Mutex<Option<mpsc::Receiver<Arrived>>>>,
    /// How many objects are not used as they are.
    problems: Arc<AtomicUsize>,
    /// The pods of which something else is known since that was asked for.
    touched: Arc<Mutex<Touched>>,
    /// What is set for the whole mesh.
    set: Arc<watch::Sender<Set>>,
}

/// `None`: nothing is to be said of it any more.
type Touched = HashMap<WorkloadName, Option<Arc<Facts>>>;

/// By the agent of which node.
type Arrived = (Label, Arrival);

/// What has happened to an object, read.
enum Seen {
    Namespace(Namespace),
    NoNamespace(Label),
    Pod(Pod),
    NoPod(WorkloadName),
    Service(Service),
    NoService(ServiceKey),
    Slice(Slice),
    NoSlice((Label, Label)),
    Node(Node),
    NoNode(Label),
    Policy(Box<PolicyObject>),
    NoPolicy((Label, Label)),
    Unreadable(Object, Arc<str>, Problem),
    /// All that there are of a kind have been told.
    Complete(&'static str),
}

/// The Secret with root and issuer, and all that is remembered of the trust.
const AUTHORITY: &str = "martlet-authority";
const LEASE: &str = "martlet-controller";

/// Without all of these nothing is known.
const KINDS: [&str; 5] =
    ["namespaces", "pods", "services", "endpointslices", "authorizationpolicies"];

impl Cluster {
    /// Of the pod that this process is in, or of the kubeconfig.
    pub async fn connect(domain: &TrustDomain, file: &InCluster) -> Result<Self> {
        let config = Config::infer().await.context("finding out how to reach the API server")?;
        info!(server = %config.cluster_url, "this is the API server");
        let client = Client::try_from(config).context("making a client of the API server")?;
        let agents = Agents {
            namespace: file.namespace.clone(),
            service_account: file.agent_service_account.clone(),
            audience: file.audience.clone(),
        };
        let settings = Settings {
            trust_domain: domain.clone(),
            system_namespace: file.namespace.clone(),
            agent_service_account: file.agent_service_account.clone(),
            udp: file.udp,
        };
        let own_name = own_name();
        let own_address = own_address()?;
        let (arrivals, arrived) = mpsc::channel(limits::ARRIVALS);
        Ok(Self {
            client,
            own_name,
            own_address,
            slices: Arc::default(),
            agents,
            settings,
            health: Arc::default(),
            arrivals,
            arrived: Arc::new(Mutex::new(Some(arrived))),
            problems: Arc::default(),
            touched: Arc::default(),
            set: Arc::default(),
        })
    }

    /// Which node's agent has this token.
    pub async fn agent(&self, token: &AccountToken) -> Result<Label, TokenError> {
        attest::agent(&self.client, &self.agents, token.reveal()).await.map(|agent| agent.node)
    }

    /// Where the authority is kept.
    pub fn vault(&self) -> Vault {
        Vault::new(&self.client, &self.settings.system_namespace, AUTHORITY)
    }

    /// Who of several replicas is the controller.
    pub fn lease(&self) -> Lease {
        Lease::new(&self.client, &self.settings.system_namespace, LEASE)
    }

    /// Lets the Service of the controller lead to this process, if it is in a pod.
    pub async fn lead_here(&self, port: u16) -> Result<(), String> {
        let Some(address) = self.own_address else { return Ok(()) };
        let (version, namespace) = (self.slice_version().await, &self.settings.system_namespace);
        address::lead(&self.client, version, namespace, address, port).await
    }

    /// Tells all agents the roots, in PEM.
    pub async fn publish(&self, roots: &str) -> Result<()> {
        let written = publish::roots(&self.client, &self.settings.system_namespace, roots).await;
        written.map_err(anyhow::Error::msg)
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.settings.trust_domain
    }

    /// What was set for the whole mesh last.
    pub async fn kept_mesh(&self) -> Result<Mesh, KeptError> {
        kept::read(&self.client, &self.settings.system_namespace).await
    }

    /// Keeps it for whoever is the controller next.
    pub async fn keep_mesh(&self, mesh: &Mesh) -> Result<(), String> {
        kept::write(&self.client, &self.settings.system_namespace, mesh).await
    }

    /// From now on this is set for the whole mesh.
    pub fn set_mesh(&self, set: Set) {
        self.set.send_if_modified(|before| {
            let is_other = !Arc::ptr_eq(&before.mesh, &set.mesh) || before.refused != set.refused;
            *before = set;
            is_other
        });
    }

    /// How well each kind of objects is followed.
    pub fn health(&self) -> BTreeMap<&'static str, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says how well a kind of objects is followed.
    pub fn note_health(&self, kind: &'static str, now: &Health) {
        let mut all = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(kind, now.clone());
    }

    /// The pods of which something else is known since this was asked last.
    pub fn touched(&self) -> HashMap<WorkloadName, Option<Arc<Facts>>> {
        std::mem::take(&mut *self.touched.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many objects are not used as they are.
    pub fn problems(&self) -> usize {
        self.problems.load(Ordering::Relaxed)
    }

    /// Takes what an agent says of pods of its own node. What there is no room for the API server says
    /// later.
    pub fn arrive(&self, node: &Label, arrivals: Vec<Arrival>) {
        for arrival in arrivals {
            if self.arrivals.try_send((node.clone(), arrival)).is_err() {
                debug!(%node, "a pod that has arrived is not taken");
            }
        }
    }

    /// Follows the cluster for ever. `tell` is called with what there is once all of it is known, and
    /// after every change.
    pub async fn follow(self, mut tell: impl FnMut(Known) + Send) {
        let (to, mut from) = mpsc::unbounded_channel();
        let following = self.clone().watch_all(to);
        let mut world = World::new(self.settings.clone());
        let mut missing: Vec<_> = KINDS.to_vec();
        let (mut due, mut is_other): (Option<Instant>, bool) = (None, false);
        let mut set = self.set.subscribe();
        // It may have been set before.
        set.mark_changed();
        let arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut arrived = arrived.expect("a cluster is followed once");
        let deciding = async {
            loop {
                let settled = async {
                    match due {
                        Some(due) => sleep_until(due).await,
                        None => pending().await,
                    }
                };
                let seen = tokio::select! {
                    seen = from.recv() => seen,
                    Ok(()) = set.changed() => {
                        world.set_mesh(set.borrow_and_update().clone());
                        is_other = true;
                        due.get_or_insert_with(Instant::now);
                        continue;
                    }
                    Some((node, arrival)) = arrived.recv() => {
                        let Arrival { name, pod, addresses } = arrival;
                        if world.set_arrival(&node, &name, &pod, addresses) {
                            is_other = true;
                            due.get_or_insert_with(|| Instant::now() + limits::CLUSTER_SETTLE);
                        }
                        continue;
                    }
                    () = settled => {
                        due = None;
                        self.note_touched(&mut world);
                        if missing.is_empty() && std::mem::take(&mut is_other) {
                            tell(Known::of_cluster(&mut world));
                        }
                        self.say_problems(&world);
                        continue;
                    }
                };
                let Some(seen) = seen else { return };
                due.get_or_insert_with(|| Instant::now() + limits::CLUSTER_SETTLE);
                if let Seen::Complete(kind) = &seen {
                    missing.retain(|other| other != kind);
                }
                is_other |= take(&mut world, seen);
            }
        };
        tokio::join!(following, deciding);
    }

    /// Before it is told to agents: what they say of a pod is about one that is known.
    fn note_touched(&self, world: &mut World) {
        let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        touched.extend(world.touched());
    }

    /// All of them, when there is another one.
    fn say_problems(&self, world: &World) {
        let now = world.problems().len();
        if now <= self.problems.swap(now, Ordering::Relaxed) {
            return;
        }
        for (object, problems) in world.problems().iter() {
            for problem in &problems.problems {
                let (reason, message) = (problem.reason, &problem.message);
                warn!(%object, reason, message, "an object of the cluster is not used as it is");
            }
        }
    }

    async fn watch_all(self, to: mpsc::UnboundedSender<Seen>) {
        let version = self.slice_version().await;
        let send = |kind: &'static str| {
            let (to, cluster) = (to.clone(), self.clone());
            let tell = move |seen: Option<Seen>| {
                if let Some(seen) = seen {
                    // Nobody listens any more at the end only.
                    let _ = to.send(seen);
                }
            };
            let report = move |now: &Health| cluster.note_health(kind, now);
            (tell, report)
        };
        let client = &self.client;
        let (tell, report) = send(KINDS[0]);
        // The list of namespaces shows by our own whether the server knows its cluster; a list of
        // policies shows nothing, so that it is asked for when that is known.
        let (proven, is_proven) = watch::channel(false);
        let own = self.settings.system_namespace.to_string();
        let namespaces = resume(
            Source::clusterwide(client),
            certain([(String::new(), own.clone())]),
            move |change: Change<NamespaceObject>| {
                tell(match change {
                    Change::Is(object) => {
                        let at = At::of(Kind::Namespace, &object.metadata);
                        Some(at.read(Namespace::try_from(object), Seen::Namespace))
                    }
                    Change::Gone((_, name)) => name.parse().ok().map(Seen::NoNamespace),
                    Change::Complete => {
                        proven.send_replace(true);
                        Some(Seen::Complete(KINDS[0]))
                    }
                });
            },
            report,
        );
        let (tell, report) = send(KINDS[1]);
        let pods = resume(
            Source::namespaced(client),
            certain(self.own_address.map(|_| (own, self.own_name.clone()))),
            move |change: Change<PodObject>| {
                tell(match change {
                    Change::Is(object) => {
                        let at = At::of(Kind::Pod, &object.metadata);
                        Pod::read(object).transpose().map(|read| at.read(read, Seen::Pod))
                    }
                    Change::Gone(key) => workload(key).map(Seen::NoPod),
                    Change::Complete => Some(Seen::Complete(KINDS[1])),
                });
            },
            report,
        );
        let (tell, report) = send(KINDS[2]);
        let services = follow(
            Source::namespaced(client),
            move |change: Change<ServiceObject>| {
                tell(match change {
                    Change::Is(object) => {
                        let at = At::of(Kind::Service, &object.metadata);
                        Some(at.read(Service::try_from(object), Seen::Service))
                    }
                    Change::Gone(key) => service(key).map(Seen::NoService),
                    Change::Complete => Some(Seen::Complete(KINDS[2])),
                });
            },
            report,
        );
        let (tell, report) = send(KINDS[3]);
        let slices = follow(
            Source::slices(client, version),
            move |change: Change<SliceObject>| {
                tell(match change {
                    Change::Is(object) => {
                        let at = At::of(Kind::EndpointSlice, &object.metadata);
                        Some(at.read(Slice::try_from(object), Seen::Slice))
                    }
                    Change::Gone(key) => pair(key).map(Seen::NoSlice),
                    Change::Complete => Some(Seen::Complete(KINDS[3])),
                });
            },
            report,
        );
        let (tell, report) = send(KINDS[4]);
        let policies = follow(
            Source::namespaced(client),
            move |change: Change<PolicyObject>| {
                tell(match change {
                    Change::Is(object) => Some(Seen::Policy(Box::new(object))),
                    Change::Gone(key) => pair(key).map(Seen::NoPolicy),
                    Change::Complete => Some(Seen::Complete(KINDS[4])),
                });
            },
            report,
        );
        // Nobody waits for it: without it each endpoint is as good as another.
        let (tell, report) = send("nodes");
        let nodes = follow(
            Source::clusterwide(client),
            move |change: Change<NodeObject>| {
                tell(match change {
                    Change::Is(object) => Node::try_from(object).ok().map(Seen::Node),
                    Change::Gone((_, name)) => name.parse().ok().map(Seen::NoNode),
                    Change::Complete => None,
                });
            },
            report,
        );
        let others = async {
            // Who tells it follows for ever.
            let _ = is_proven.clone().wait_for(|is_proven| *is_proven).await;
            tokio::join!(services, slices, policies, nodes);
        };
        tokio::join!(namespaces, pods, Box::pin(others));
    }

    async fn slice_version(&self) -> SliceVersion {
        *self.slices.get_or_init(|| self.ask_slice_version()).await
    }

    /// Asked until it is answered: to guess wrong is to see no endpoints.
    async fn ask_slice_version(&self) -> SliceVersion {
        let mut failure = String::new();
        loop {
            match SliceVersion::of(&self.client).await {
                Ok(version) => return version,
                Err(error) if error != failure => {
                    warn!(error, "the API server does not say which EndpointSlices it has");
                    failure = error;
                }
                Err(_) => {}
            }
            tokio::time::sleep(limits::CLUSTER_AGAIN).await;
        }
    }
}

/// Of the pod; outside of one, of the process.
fn own_name() -> String {
    env::var("MARTLET_POD_NAME").unwrap_or_else(|_| format!("process-{}", std::process::id()))
}

fn own_address() -> Result<Option<IpAddr>> {
    match env::var("MARTLET_POD_IP") {
        Ok(text) => text.parse().map(Some).context("MARTLET_POD_IP is no address"),
        Err(_) => Ok(None),
    }
}

/// Whether anything else may follow from it than what is said of pods.
fn take(world: &mut World, seen: Seen) -> bool {
    match seen {
        Seen::Namespace(one) => world.set_namespace(one),
        Seen::NoNamespace(name) => world.remove_namespace(&name),
        Seen::Pod(one) => return world.set_pod(one),
        Seen::NoPod(name) => world.remove_pod(&name),
        Seen::Service(one) => world.set_service(one),
        Seen::NoService(key) => world.remove_service(&key),
        Seen::Slice(one) => world.set_slice(one),
        Seen::NoSlice(name) => world.remove_slice(&name),
        Seen::Node(one) => return world.set_node(one),
        Seen::NoNode(name) => return world.remove_node(&name),
        Seen::Policy(object) => world.set_policy(&object),
        Seen::NoPolicy(name) => world.remove_policy(&name),
        Seen::Unreadable(object, uid, problem) => world.set_unreadable(object, &uid, problem),
        Seen::Complete(_) => {}
    }
    true
}

/// Which object it is, if it cannot be read.
struct At(Object, Arc<str>);

impl At {
    fn of(kind: Kind, metadata: &ObjectMeta) -> Self {
        let text = |of: &Option<String>| of.clone().unwrap_or_default();
        let object = Object::new(kind, &text(&metadata.namespace), &text(&metadata.name));
        Self(object, text(&metadata.uid).into())
    }

    /// An object that cannot be read changes nothing of what was known of it.
    fn read<T>(self, read: Result<T, Problem>, seen: impl FnOnce(T) -> Seen) -> Seen {
        match read {
            Ok(read) => seen(read),
            Err(problem) => Seen::Unreadable(self.0, self.1, problem),
        }
    }
}

/// What is there as long as this process is, so that a list that lacks it is no list of this cluster.
fn certain(keys: impl IntoIterator<Item = Key>) -> HashMap<Key, String> {
    keys.into_iter().map(|key| (key, String::new())).collect()
}

fn pair((namespace, name): Key) -> Option<(Label, Label)> {
    Some((namespace.parse().ok()?, name.parse().ok()?))
}

fn workload(key: Key) -> Option<WorkloadName> {
    pair(key).map(|(namespace, name)| WorkloadName { namespace, name })
}

fn service(key: Key) -> Option<ServiceKey> {
    pair(key).map(|(namespace, name)| ServiceKey { namespace, name })
}
