//! A controller with an office that is as strict as a test wants, and agents that call it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use martlet_authority::{Authority, LEAF_LIFETIME, LeafRequest};
use martlet_identity::{
    Chain, Credentials, Csr, KeyDigest, RootPin, SigningKey, Svid, TrustBundle, fingerprint,
};
use martlet_model::{
    Label, LocalWorkload, Mode, NetnsSource, Part, SpiffeId, Trust, TrustDomain, Udp, Workload,
    WorkloadName,
};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    AccountToken, Arrival, Ask, Client, ClientSettings, Declaration, Declared, JoinToken, Joined,
    Joining, JoiningBy, NodeCaller, Office, Proof, Refusal, Secret, Server,
};

/// Longer than anything takes, on a machine that does other things.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn domain() -> TrustDomain {
    "prod.example".parse().unwrap()
}

pub fn name(name: &str) -> WorkloadName {
    WorkloadName { namespace: "shop".parse().unwrap(), name: name.parse().unwrap() }
}

pub fn node(name: &str) -> Label {
    name.parse().unwrap()
}

/// What `authority` certifies as whoever is wanted.
pub fn certify(authority: &Authority, csr: &Csr, identity: &SpiffeId, life: Duration) -> Chain {
    let now = SystemTime::now();
    if let Some(part) = Part::of(identity) {
        return authority.issue_part(csr, &part, life, now).unwrap();
    }
    let request = LeafRequest {
        identity: identity.clone(),
        workload: name("part"),
        node: node("one"),
        uid: None,
        lifetime: life,
    };
    authority.issue(csr, &request, now).unwrap()
}

/// Proves that it is `identity`, with the roots in the chain, as controllers do.
pub fn credentials(authority: &Authority, identity: &SpiffeId) -> Credentials {
    let key = SigningKey::generate().unwrap();
    let Chain(mut chain) = certify(authority, &key.csr().unwrap(), identity, LEAF_LIFETIME);
    chain.extend(authority.roots().iter().cloned());
    let roots = TrustBundle::new([(domain(), authority.roots().to_vec())]).unwrap();
    let credentials = Credentials::new(identity.clone(), Arc::new(roots));
    credentials.install(Svid::new(&key, Chain(chain), identity).unwrap());
    credentials
}

/// Grants what its lists say.
pub struct TestOffice {
    pub authority: Authority,
    /// By digest of the secret: for which node, and by which key it was used.
    pub tokens: Mutex<BTreeMap<String, (Label, Option<KeyDigest>)>>,
    pub removed: Mutex<Vec<Label>>,
    /// Where each workload runs.
    pub places: Mutex<BTreeMap<WorkloadName, Label>>,
    pub renewals: AtomicUsize,
    pub node_lifetime: Mutex<Duration>,
    pub wants_standings: Mutex<bool>,
    pub wants_arrivals: Mutex<bool>,
    /// What agents have said of them, and whose agents.
    pub arrived: Mutex<Vec<(Label, Arrival)>>,
}

impl TestOffice {
    fn trust(&self, version: u64) -> Trust {
        let roots = [(domain(), self.authority.roots().to_vec())].into();
        Trust { version, roots, ..Trust::default() }
    }

    /// The account's token names the node in its second part.
    fn join_by_account(&self, token: &AccountToken, joining: &Joining) -> Result<Joined, Refusal> {
        let said = token.reveal().split('.').nth(1);
        if said != Some(joining.node.as_str()) {
            return Err(Refusal::NotYours("the token is another node's".to_owned()));
        }
        let chain = self.node(&joining.node, &joining.csr);
        Ok(Joined { chain, trust: Arc::new(self.trust(1)) })
    }

    fn node(&self, node: &Label, csr: &Csr) -> Chain {
        let life = *self.node_lifetime.lock().unwrap();
        certify(&self.authority, csr, &Part::Node(node.clone()).identity(&domain()), life)
    }
}

impl Office for TestOffice {
    fn admit(&self, caller: &NodeCaller) -> Result<(), Refusal> {
        match self.removed.lock().unwrap().contains(&caller.node) {
            true => Err(Refusal::NotYours("the node was removed".to_owned())),
            false => Ok(()),
        }
    }

    async fn join(&self, joining: Joining) -> Result<Joined, Refusal> {
        let no = || Refusal::NotYours("the token is not good".to_owned());
        let key = joining.csr.key().map_err(|_| no())?;
        let mut tokens = self.tokens.lock().unwrap();
        let secret = match &joining.by {
            JoiningBy::Secret(secret) => secret,
            JoiningBy::Account(token) => return self.join_by_account(token, &joining),
            JoiningBy::Host(_) => {
                return Err(Refusal::NotYours("no host is known here".to_owned()));
            }
        };
        let (of, used) = tokens.get_mut(&secret.digest()).ok_or_else(no)?;
        if *of != joining.node || used.as_ref().is_some_and(|used| *used != key) {
            return Err(no());
        }
        *used = Some(key);
        let chain = self.node(&joining.node, &joining.csr);
        Ok(Joined { chain, trust: Arc::new(self.trust(1)) })
    }

    fn wants_standings(&self) -> bool {
        *self.wants_standings.lock().unwrap()
    }

    fn wants_arrivals(&self) -> bool {
        *self.wants_arrivals.lock().unwrap()
    }

    fn arrive(&self, node: &Label, arrivals: Vec<Arrival>) {
        let arrivals = arrivals.into_iter().map(|arrival| (node.clone(), arrival));
        self.arrived.lock().unwrap().extend(arrivals);
    }

    async fn renew(&self, caller: &NodeCaller, csr: Csr) -> Result<Chain, Refusal> {
        self.renewals.fetch_add(1, Ordering::Relaxed);
        Ok(self.node(&caller.node, &csr))
    }

    async fn issue(&self, caller: &NodeCaller, asks: Vec<Ask>) -> Vec<Result<Chain, Refusal>> {
        let places = self.places.lock().unwrap().clone();
        let one = |ask: Ask| match places.get(&ask.workload) {
            Some(place) if *place == caller.node => {
                let account = ask.workload.name.as_str();
                let identity = SpiffeId::for_workload(&domain(), "shop", account).unwrap();
                Ok(certify(&self.authority, &ask.csr, &identity, LEAF_LIFETIME))
            }
            Some(_) => Err(Refusal::NotYours("it runs on another node".to_owned())),
            None => Err(Refusal::NotYours("there is no such workload".to_owned())),
        };
        asks.into_iter().map(one).collect()
    }
}

/// A running controller.
pub struct Controller {
    pub server: Server<TestOffice>,
    pub address: SocketAddr,
    shutdown: CancellationToken,
    running: JoinHandle<()>,
}

impl Controller {
    pub async fn start() -> Self {
        Self::at(Authority::ephemeral(&domain()).unwrap(), "127.0.0.1:0".parse().unwrap()).await
    }

    pub async fn at(authority: Authority, address: SocketAddr) -> Self {
        let credentials = credentials(&authority, &Part::Controller.identity(&domain()));
        let office = TestOffice {
            authority,
            tokens: Mutex::default(),
            removed: Mutex::default(),
            places: Mutex::default(),
            renewals: AtomicUsize::new(0),
            node_lifetime: Mutex::new(LEAF_LIFETIME),
            wants_standings: Mutex::new(true),
            wants_arrivals: Mutex::new(true),
            arrived: Mutex::default(),
        };
        let server = Server::new(office, Arc::new(credentials));
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        let listener: TcpListener = socket.listen(64).unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(server.clone().run(vec![listener], shutdown.clone()));
        Self { server, address, shutdown, running }
    }

    pub async fn stop(self) -> SocketAddr {
        self.shutdown.cancel();
        timeout(PATIENCE, self.running).await.expect("it stops").unwrap();
        self.address
    }

    pub fn office(&self) -> &TestOffice {
        self.server.office()
    }

    pub fn token(&self, of: &str) -> JoinToken {
        let secret = Secret::new();
        let digest = secret.digest();
        self.office().tokens.lock().unwrap().insert(digest, (node(of), None));
        let pins = vec![RootPin::of(&self.office().authority.roots()[0])];
        JoinToken { node: node(of), pins, secret }
    }

    pub fn declare(&self, more: usize, trust_version: u64) -> u64 {
        let inventory = self.declaration(more, trust_version).inventory().unwrap();
        self.server.declare(inventory).unwrap()
    }

    /// Workloads `web` on node one and `cart` on node two, and some more that nothing depends on.
    pub fn declaration(&self, more: usize, trust_version: u64) -> Declaration {
        let workload = |account: &str, on: &str, address: String| {
            Arc::new(Workload {
                name: name(account),
                service_account: node(account),
                identity: SpiffeId::for_workload(&domain(), "shop", account).unwrap(),
                addresses: vec![address.parse().unwrap()],
                node: node(on),
                mode: Mode::Strict,
                policies: vec![],
            })
        };
        let (web, cart) = (
            workload("web", "one", "10.0.0.1".to_owned()),
            workload("cart", "two", "10.0.0.2".to_owned()),
        );
        let local = [&web, &cart].map(|workload| LocalWorkload {
            workload: workload.clone(),
            netns: NetnsSource::Pid(1),
            udp: Udp::Pass,
            probes: Vec::new(),
            workload_api: false,
        });
        let others = (0..more).map(|number| {
            let address = std::net::Ipv4Addr::from(0x0a10_0000 + u32::try_from(number).unwrap());
            workload(&format!("pod-{number}"), "three", address.to_string())
        });
        let mut places = self.office().places.lock().unwrap();
        places.extend([(name("web"), node("one")), (name("cart"), node("two"))]);
        Declaration {
            workloads: [web, cart].into_iter().chain(others).collect(),
            local: local.into(),
            trust: Arc::new(self.office().trust(trust_version)),
            ..Declaration::default()
        }
    }

    /// What everybody with a leaf of another issuer hears.
    pub fn trust_that_wants(&self, version: u64, issuer: &[u8]) -> Arc<Trust> {
        let issuer = Some(fingerprint(issuer));
        Arc::new(Trust { issuer, ..self.office().trust(version) })
    }
}

/// Where an agent keeps what it has to keep.
pub struct Host {
    pub directory: TempDir,
    pub node: Label,
    is_pod: bool,
}

impl Host {
    pub fn new(node: &str) -> Self {
        Self { directory: TempDir::new().unwrap(), node: node.parse().unwrap(), is_pod: false }
    }

    pub fn with_token(self, token: &JoinToken) -> Self {
        std::fs::write(self.token(), token.reveal().as_bytes()).unwrap();
        self
    }

    pub fn token(&self) -> PathBuf {
        self.directory.path().join("token")
    }

    /// Of a pod, whose token names a node, and knows these roots.
    pub fn with_account(self, node: &str, roots: &[Vec<u8>]) -> Self {
        let roots: String = roots.iter().map(|der| martlet_authority::pem(der)).collect();
        std::fs::write(self.token(), format!("e30.{node}.c2ln")).unwrap();
        std::fs::write(self.directory.path().join("roots"), roots).unwrap();
        Self { is_pod: true, ..self }
    }

    fn proof(&self) -> Proof {
        match self.is_pod {
            true => {
                Proof::Account { token: self.token(), roots: self.directory.path().join("roots") }
            }
            false => Proof::Token(self.token()),
        }
    }

    pub fn client(&self, controller: SocketAddr) -> Client {
        let settings = ClientSettings {
            trust_domain: domain(),
            node: self.node.clone(),
            controller: controller.to_string(),
            proof: self.proof(),
            state: self.directory.path().join("state"),
            agent_version: "1.2.3".to_owned(),
        };
        Client::open(settings).unwrap()
    }
}

/// A client that runs until it is dropped.
pub struct Agent {
    pub client: Client,
    shutdown: CancellationToken,
    running: JoinHandle<()>,
    /// Kept as long as the agent.
    _host: Option<Host>,
}

impl Agent {
    pub fn on(host: Host, controller: SocketAddr) -> Self {
        let started = Self::start(&host, controller);
        Self { _host: Some(host), ..started }
    }

    pub fn start(host: &Host, controller: SocketAddr) -> Self {
        let (client, shutdown) = (host.client(controller), CancellationToken::new());
        let running = tokio::spawn(client.clone().run(shutdown.clone()));
        Self { client, shutdown, running, _host: None }
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        timeout(PATIENCE, self.running).await.expect("it stops").unwrap();
    }

    pub async fn until_declared(&self, version: u64) -> Arc<Declared> {
        let at_least = |all: &Option<Arc<Declared>>| {
            all.as_ref().is_some_and(|declared| declared.version >= version)
        };
        let mut declared = self.client.declared();
        match timeout(PATIENCE, declared.wait_for(at_least)).await {
            Ok(declared) => declared.unwrap().clone().unwrap(),
            Err(_) => panic!("not {version}: {:?}", self.client.link().borrow()),
        }
    }

    pub async fn until_connected(&self) {
        until(&mut self.client.link(), |link| link.connected.is_ok()).await;
    }

    /// Why there is no connection, when the reason has this in it.
    pub async fn until_down(&self, why: &str) -> String {
        let is = |link: &crate::Link| link.connected.as_ref().is_err_and(|is| is.contains(why));
        let mut link = self.client.link();
        match timeout(PATIENCE, link.wait_for(is)).await {
            Ok(link) => link.unwrap().connected.clone().unwrap_err(),
            Err(_) => panic!("not {why:?}, but {:?}", self.client.link().borrow()),
        }
    }
}

pub async fn until<T: Clone>(watched: &mut watch::Receiver<T>, is: impl FnMut(&T) -> bool) -> T {
    let waited = timeout(PATIENCE, watched.wait_for(is)).await;
    waited.expect("it comes to be").unwrap().clone()
}

/// Looks again and again at what cannot be waited for.
pub async fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let looking = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("never: {what}"));
}
