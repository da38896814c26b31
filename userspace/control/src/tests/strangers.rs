//! Those who should not be believed: callers without the right certificate, and a controller that
//! says whatever a test wants.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use hyper_util::rt::TokioIo;
use martlet_authority::Authority;
use martlet_identity::{Chain, NodeKey, RootPin, control};
use martlet_model::{Part, SpiffeId, Trust};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Response, Status, Streaming,
    transport::{Channel, Endpoint},
};

use super::world::{Agent, Controller, Host, certify, credentials, domain, eventually, name, node};
use crate::{
    Telling, limits,
    message::{name_to, trust_to},
    proto::{
        CertificateRequest, CertificateResponse, FromAgent, Hello, JoinRequest, JoinResponse,
        RenewRequest, RenewResponse, TimeRequest, TimeResponse, ToAgent, Workload,
        control_client::ControlClient,
        control_server::{Control, ControlServer},
        from_agent::Said,
    },
};

async fn over<S>(secured: S) -> ControlClient<Channel>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let mut once = Some(TokioIo::new(secured));
    let connector = tower::service_fn(move |_| {
        let stream = once.take();
        async move { stream.ok_or_else(|| std::io::Error::other("used")) }
    });
    let endpoint = Endpoint::from_static("http://controller");
    ControlClient::new(endpoint.connect_with_connector(connector).await.unwrap())
}

/// A client of which nothing is bounded and nothing is kept.
pub async fn raw(controller: &Controller, of: &str) -> ControlClient<Channel> {
    let identity = Part::Node(node(of)).identity(&domain());
    let own = credentials(&controller.office().authority, &identity);
    let stream = TcpStream::connect(controller.address).await.unwrap();
    over(control::call(stream, &own).await.unwrap()).await
}

async fn nobody(controller: &Controller) -> ControlClient<Channel> {
    let pins = vec![RootPin::of(&controller.office().authority.roots()[0])];
    let stream = TcpStream::connect(controller.address).await.unwrap();
    over(control::call_pinned(stream, &domain(), pins).await.unwrap()).await
}

fn hello() -> FromAgent {
    FromAgent { said: Some(Said::Hello(Hello::default())) }
}

async fn follows(client: &mut ControlClient<Channel>, said: Vec<FromAgent>) -> Status {
    match client.follow(tokio_stream::iter(said)).await {
        Err(status) => status,
        Ok(told) => {
            let mut told = told.into_inner();
            loop {
                match told.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return Status::ok("ended"),
                    Err(status) => return status,
                }
            }
        }
    }
}

#[tokio::test]
async fn nobody_may_do_nothing_but_join() {
    let controller = Controller::start().await;
    let mut client = nobody(&controller).await;
    let refused = follows(&mut client, vec![hello()]).await;
    assert_eq!(refused.code(), Code::Unauthenticated);
    let refused = client.renew(RenewRequest { csr: vec![1] }).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let ask = CertificateRequest { number: 1, workload: None, csr: Vec::new() };
    let refused = client.issue(tokio_stream::iter([ask])).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let join = JoinRequest {
        secret: vec![7; 32],
        node: "one".into(),
        csr: vec![1],
        ..JoinRequest::default()
    };
    let refused = client.join(join).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "it got as far as its token");
    // And a node may.
    let mut client = raw(&controller, "one").await;
    let ended = follows(&mut client, vec![hello()]).await;
    assert_eq!(ended.code(), Code::Ok, "{ended}");
}

#[tokio::test]
async fn who_is_no_node_of_this_domain_does_not_get_as_far_as_a_call() {
    let controller = Controller::start().await;
    let ours = &controller.office().authority;
    let web = SpiffeId::for_workload(&domain(), "shop", "web").unwrap();
    let one = Part::Node(node("one")).identity(&domain());
    let foreign = Authority::ephemeral(&domain()).unwrap();
    for (authority, identity) in [(ours, &web), (&foreign, &one)] {
        let own = credentials(authority, identity);
        own.set_trust(credentials(ours, &one).trust());
        let stream = TcpStream::connect(controller.address).await.unwrap();
        // The server judges after the client: the first call fails.
        let Ok(secured) = control::call(stream, &own).await else { continue };
        let mut client = over(secured).await;
        let refused = client.renew(RenewRequest { csr: vec![1] }).await.unwrap_err();
        assert!(!matches!(refused.code(), Code::Ok | Code::InvalidArgument), "{refused}");
        let refused = client.time(TimeRequest {}).await.unwrap_err();
        assert!(!matches!(refused.code(), Code::Ok | Code::Unimplemented), "{refused}");
    }
    let mut client = raw(&controller, "one").await;
    let reached = client.renew(RenewRequest { csr: Vec::new() }).await.unwrap_err();
    assert_eq!(reached.code(), Code::InvalidArgument, "a node gets there");
}

#[tokio::test]
async fn what_is_malformed_or_too_large_is_refused() {
    let controller = Controller::start().await;
    let mut client = raw(&controller, "one").await;
    let large = vec![0; limits::CSR_BYTES + 1];
    let refused = client.renew(RenewRequest { csr: large.clone() }).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("csr"), "{refused}");
    let huge = vec![0; limits::AGENT_MESSAGE_BYTES + 1];
    let refused = client.renew(RenewRequest { csr: huge }).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    for (secret, of) in [(vec![1; 31], "one"), (vec![1; 32], "One"), (vec![1; 32], "")] {
        let join = JoinRequest {
            secret,
            node: of.to_owned(),
            csr: large.clone(),
            ..JoinRequest::default()
        };
        let refused = client.join(join).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
    let usage = crate::proto::Usage { leaves: [("x".to_owned(), 1)].into(), ..Default::default() };
    let bad = FromAgent { said: Some(Said::Usage(usage)) };
    for said in [vec![bad.clone()], vec![hello(), hello()], vec![hello(), bad]] {
        let refused = follows(&mut client, said).await;
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
}

#[tokio::test]
async fn an_agent_that_talks_too_much_is_let_go() {
    let controller = Controller::start().await;
    let mut client = raw(&controller, "one").await;
    let usage = FromAgent { said: Some(Said::Usage(Default::default())) };
    let said = std::iter::once(hello()).chain(std::iter::repeat_n(usage, 10_000));
    let refused = follows(&mut client, said.collect()).await;
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
}

/// A controller that is proven, and says what it was told to say.
pub struct Liar {
    authority: Arc<Authority>,
    address: SocketAddr,
    calls: Arc<Calls>,
}

struct Calls {
    says: Mutex<Vec<ToAgent>>,
    followed: AtomicUsize,
    /// By how many milliseconds its clock is ahead.
    ahead_ms: AtomicI64,
    complaints: Arc<AtomicUsize>,
    open: Mutex<Vec<mpsc::Sender<Result<Telling, Status>>>>,
}

/// That there is one workload; in order but for its trust, which [`Liar`] adds.
pub fn truth(version: u64) -> ToAgent {
    let workload = Workload {
        name: Some(name_to(&name("web"))),
        service_account: "web".to_owned(),
        identity: "spiffe://prod.example/ns/shop/sa/web".to_owned(),
        addresses: vec!["10.0.0.1".to_owned()],
        node: "one".to_owned(),
        mode: 1,
        policies: vec![],
    };
    let workloads = vec![workload];
    ToAgent { instance: 1, version, full: true, complete: true, workloads, ..Default::default() }
}

impl Liar {
    pub async fn start(mut says: Vec<ToAgent>) -> Self {
        let authority = Arc::new(Authority::ephemeral(&domain()).unwrap());
        let roots = [(domain(), authority.roots().to_vec())].into();
        let trust = Trust { version: 1, roots, ..Trust::default() };
        says.iter_mut().for_each(|message| message.trust = Some(trust_to(&trust)));
        let calls = Arc::new(Calls {
            says: Mutex::new(says),
            followed: AtomicUsize::new(0),
            ahead_ms: AtomicI64::new(0),
            complaints: Arc::default(),
            open: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let own = credentials(&authority, &Part::Controller.identity(&domain()));
        let service = ControlServer::from_arc(calls.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(secured) = control::answer(stream, &own).await else { continue };
                let service = hyper_util::service::TowerToHyperService::new(service.clone());
                tokio::spawn(async move {
                    let executor = hyper_util::rt::TokioExecutor::new();
                    let http = hyper::server::conn::http2::Builder::new(executor);
                    let _ = http.serve_connection(TokioIo::new(secured), service).await;
                });
            }
        });
        Self { authority, address, calls }
    }

    /// One that is a node already.
    pub fn agent(&self) -> Agent {
        let host = Host::new("one");
        let key = NodeKey::generate().unwrap();
        let identity = Part::Node(node("one")).identity(&domain());
        let csr = key.signing().csr().unwrap();
        let Chain(chain) =
            certify(&self.authority, &csr, &identity, martlet_authority::LEAF_LIFETIME);
        let roots = [(domain(), self.authority.roots().to_vec())].into();
        let trust = Trust { version: 1, roots, ..Trust::default() };
        let state = host.directory.path().join("state");
        crate::client_state(&state, &domain(), &node("one"), key, Chain(chain), trust);
        Agent::on(host, self.address)
    }

    pub fn set_clock(&self, ahead_ms: i64) {
        self.calls.ahead_ms.store(ahead_ms, Ordering::Relaxed);
    }

    pub async fn until_followed(&self) {
        let followed = || self.calls.followed.load(Ordering::Relaxed) > 0;
        eventually("somebody follows", followed).await;
    }

    pub fn complaints(&self) -> usize {
        self.calls.complaints.load(Ordering::Relaxed)
    }
}

#[tonic::async_trait]
impl Control for Calls {
    type FollowStream = ReceiverStream<Result<Telling, Status>>;
    type IssueStream = ReceiverStream<Result<CertificateResponse, Status>>;

    async fn join(&self, _: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        Err(Status::unimplemented("it lies"))
    }

    async fn renew(&self, _: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        Err(Status::unimplemented("it lies"))
    }

    async fn time(&self, _: Request<TimeRequest>) -> Result<Response<TimeResponse>, Status> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let ahead = self.ahead_ms.load(Ordering::Relaxed);
        let unix_ms = u64::try_from(now.as_millis()).unwrap().saturating_add_signed(ahead);
        Ok(Response::new(TimeResponse { unix_ms }))
    }

    async fn issue(
        &self,
        _: Request<Streaming<CertificateRequest>>,
    ) -> Result<Response<Self::IssueStream>, Status> {
        Err(Status::unimplemented("it lies"))
    }

    async fn follow(
        &self,
        request: Request<Streaming<FromAgent>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let (to_agent, told) = mpsc::channel(16);
        for message in self.says.lock().unwrap().iter() {
            to_agent.try_send(Ok(message.clone().into())).unwrap();
        }
        // Kept: it is silent afterwards, not gone.
        self.open.lock().unwrap().push(to_agent);
        self.followed.fetch_add(1, Ordering::Relaxed);
        let (mut said, complaints) = (request.into_inner(), self.complaints.clone());
        tokio::spawn(async move {
            while let Ok(Some(message)) = said.message().await {
                if matches!(message.said, Some(Said::Acknowledgement(said)) if !said.error.is_empty())
                {
                    complaints.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(told)))
    }
}
