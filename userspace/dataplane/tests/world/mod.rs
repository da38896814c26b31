//! Two workloads, two data planes, real TLS, and TCP on the loopback device: cart calls web.

// Not every test file uses everything.
#![allow(dead_code, clippy::unwrap_used)]

use std::{
    collections::HashMap,
    io::ErrorKind,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use martlet_authority::{Authority, LEAF_LIFETIME, LeafRequest};
use martlet_dataplane::{Dataplane, Dial, Dialing, Local, View};
use martlet_identity::{Credentials, SigningKey, Svid, TrustBundle};
use martlet_model::{
    AccessRecord, Directory, Mode, Service, SpiffeId, TrustDomain, Workload, WorkloadName,
};
use martlet_policy::{Action, Policy, PolicySet, Rule, Selector};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{RwLock, mpsc},
    time::timeout,
};

pub const PATIENCE: Duration = Duration::from_secs(20);

/// Dials on the loopback device what stands for an address; remembers who was to be shown.
pub struct Roads {
    pub to: Mutex<HashMap<SocketAddr, SocketAddr>>,
    pub otherwise: SocketAddr,
    pub shown: Mutex<Option<SocketAddr>>,
    /// Nobody arrives while somebody holds this for writing.
    pub barrier: Arc<RwLock<()>>,
}

impl Roads {
    fn new(otherwise: SocketAddr) -> Arc<Self> {
        let (to, shown, barrier) = (Mutex::default(), Mutex::default(), Arc::default());
        Arc::new(Self { to, otherwise, shown, barrier })
    }
}

impl Dial for Roads {
    fn dial(&self, to: SocketAddr, shown_as: Option<SocketAddr>) -> Dialing<'_> {
        *self.shown.lock().unwrap() = shown_as;
        let to = self.to.lock().unwrap().get(&to).copied().unwrap_or(self.otherwise);
        Box::pin(async move {
            let _open = self.barrier.read().await;
            TcpStream::connect(to).await
        })
    }
}

pub fn domain() -> TrustDomain {
    "prod.example".parse().unwrap()
}

pub fn workload(name: &str, address: &str) -> Arc<Workload> {
    Arc::new(Workload {
        name: WorkloadName { namespace: "shop".parse().unwrap(), name: name.parse().unwrap() },
        service_account: name.parse().unwrap(),
        identity: SpiffeId::for_workload(&domain(), "shop", name).unwrap(),
        addresses: vec![address.parse().unwrap()],
        node: "one".parse().unwrap(),
        mode: Mode::Strict,
        policies: vec![],
    })
}

pub fn service(address: &str, endpoints: &[&str]) -> Arc<Service> {
    Arc::new(Service {
        namespace: "shop".parse().unwrap(),
        name: "web".parse().unwrap(),
        address: address.parse().unwrap(),
        endpoints: endpoints.iter().map(|endpoint| endpoint.parse().unwrap()).collect(),
        choice: martlet_model::Choice::default(),
    })
}

pub fn credentials(authority: &Authority, workload: &Workload) -> Arc<Credentials> {
    let trust = TrustBundle::new([(domain(), authority.roots().to_vec())]).unwrap();
    let credentials = Credentials::new(workload.identity.clone(), Arc::new(trust));
    credentials.install(svid(authority, workload, LEAF_LIFETIME));
    Arc::new(credentials)
}

pub fn svid(authority: &Authority, workload: &Workload, lifetime: Duration) -> Svid {
    let key = SigningKey::generate().unwrap();
    let request = LeafRequest {
        identity: workload.identity.clone(),
        workload: workload.name.clone(),
        node: workload.node.clone(),
        uid: None,
        lifetime,
    };
    let chain = authority.issue(&key.csr().unwrap(), &request, SystemTime::now()).unwrap();
    Svid::new(&key, chain, &workload.identity).unwrap()
}

/// Nobody may call anything in the namespace.
pub fn closed() -> Arc<PolicySet> {
    let policy = Policy {
        namespace: "shop".parse().unwrap(),
        name: "closed".parse().unwrap(),
        selector: Selector::All,
        action: Action::Deny,
        rules: vec![Rule { name: Some("nobody".into()), from: None, ports: None }],
    };
    Arc::new(PolicySet::new(vec![policy]).unwrap())
}

/// What differs between tests.
pub struct Setup {
    /// Who really answers at web's address.
    pub web_is: &'static str,
    /// Where cart wants to go.
    pub origin: Option<&'static str>,
    pub services: Vec<Arc<Service>>,
    pub record_capacity: usize,
}

impl Default for Setup {
    fn default() -> Self {
        Self { web_is: "web", origin: Some("10.0.0.3:8080"), services: vec![], record_capacity: 64 }
    }
}

pub struct World {
    pub authority: Authority,
    /// Where cart's connections are intercepted.
    pub entrance: SocketAddr,
    /// Where web's lanes arrive.
    pub gate: SocketAddr,
    pub application: TcpListener,
    pub cart: Arc<Local>,
    pub web: Arc<Local>,
    pub roads_here: Arc<Roads>,
    pub roads_there: Arc<Roads>,
    pub here: Arc<Dataplane>,
    pub there: Arc<Dataplane>,
    pub view_here: Arc<ArcSwap<View>>,
    pub view_there: Arc<ArcSwap<View>>,
    pub records_here: mpsc::Receiver<AccessRecord>,
    pub records_there: mpsc::Receiver<AccessRecord>,
}

pub async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

pub async fn world() -> World {
    world_of(Setup::default()).await
}

pub async fn world_of(setup: Setup) -> World {
    let authority = Authority::ephemeral(&domain()).unwrap();
    let (cart, web) = (workload("cart", "127.0.0.1"), workload("web", "10.0.0.3"));
    let acting = workload(setup.web_is, "10.0.0.3");
    let directory = Directory::new([cart.clone(), web.clone()], setup.services).unwrap();
    let view = View { directory: Arc::new(directory), policies: Arc::default() };
    let view_here = Arc::new(ArcSwap::from_pointee(view.clone()));
    let view_there = Arc::new(ArcSwap::from_pointee(view));
    let (sink_here, records_here) = mpsc::channel(setup.record_capacity);
    let (sink_there, records_there) = mpsc::channel(setup.record_capacity);
    let here = Dataplane::new(view_here.clone(), sink_here);
    let there = Dataplane::new(view_there.clone(), sink_there);
    let (application, application_at) = listener().await;
    let (gate_listener, gate) = listener().await;
    let (entrance_listener, entrance) = listener().await;
    let options = socket2::SockRef::from(&entrance_listener);
    options.set_linger(Some(Duration::ZERO)).unwrap();
    options.set_tcp_nodelay(true).unwrap();
    let (roads_here, roads_there) = (Roads::new(gate), Roads::new(application_at));
    let keys = (credentials(&authority, &cart), credentials(&authority, &acting));
    let cart = Arc::new(Local::new(cart, keys.0, roads_here.clone()));
    let web = Arc::new(Local::new(web, keys.1, roads_there.clone()));
    let origin = setup.origin.map(|text| text.parse().unwrap());
    tokio::spawn({
        let (here, cart) = (here.clone(), cart.clone());
        async move {
            while let Ok((stream, from)) = entrance_listener.accept().await {
                here.outbound(cart.clone(), stream, from, origin);
            }
        }
    });
    tokio::spawn({
        let (there, web) = (there.clone(), web.clone());
        async move {
            while let Ok((stream, from)) = gate_listener.accept().await {
                there.inbound(web.clone(), stream, from, "10.0.0.3:8080".parse().unwrap());
            }
        }
    });
    World {
        authority,
        entrance,
        gate,
        application,
        cart,
        web,
        roads_here,
        roads_there,
        here,
        there,
        view_here,
        view_there,
        records_here,
        records_there,
    }
}

impl World {
    pub async fn open(&self) -> (TcpStream, TcpStream) {
        let caller = self.call().await;
        let (callee, _) = timeout(PATIENCE, self.application.accept()).await.unwrap().unwrap();
        (caller, callee)
    }

    pub async fn call(&self) -> TcpStream {
        TcpStream::connect(self.entrance).await.unwrap()
    }

    pub async fn record_here(&mut self) -> AccessRecord {
        timeout(PATIENCE, self.records_here.recv()).await.unwrap().unwrap()
    }

    pub async fn record_there(&mut self) -> AccessRecord {
        timeout(PATIENCE, self.records_there.recv()).await.unwrap().unwrap()
    }

    pub async fn records(&mut self) -> (AccessRecord, AccessRecord) {
        (self.record_here().await, self.record_there().await)
    }
}

pub fn set_policies(view: &ArcSwap<View>, policies: Arc<PolicySet>) {
    let directory = view.load().directory.clone();
    view.store(Arc::new(View { directory, policies }));
}

pub async fn read_all(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.unwrap()?;
    Ok(bytes)
}

/// Both ends are known to be up afterwards.
pub async fn greet(caller: &mut TcpStream, callee: &mut TcpStream) {
    caller.write_all(b"x").await.unwrap();
    timeout(PATIENCE, callee.read_u8()).await.unwrap().unwrap();
}

pub async fn is_reset(stream: &mut TcpStream) {
    assert_eq!(read_all(stream).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

/// A clean connection over a lane, so that one lies idle.
pub async fn warm(world: &mut World) {
    let (mut caller, callee) = world.open().await;
    caller.shutdown().await.unwrap();
    drop(callee);
    assert_eq!(read_all(&mut caller).await.unwrap(), b"");
    world.records().await;
    until("a lane is idle", || world.here.idle_lanes() == 1).await;
}

pub fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Waits until something holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let patience = timeout(PATIENCE, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(patience.await.is_ok(), "never: {what}");
}
