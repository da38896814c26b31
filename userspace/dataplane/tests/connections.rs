//! Two workloads, two data planes, real TLS, and TCP on the loopback device.

#![allow(clippy::unwrap_used)]

use std::{
    io::ErrorKind,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use martlet_authority::{Authority, LEAF_LIFETIME, LeafRequest};
use martlet_dataplane::{Dataplane, Dial, Dialing, Local, View};
use martlet_identity::{Credentials, SigningKey, Svid, TrustBundle, originate};
use martlet_model::{
    AccessRecord, Closed, Directory, Mode, Protection, SpiffeId, TrustDomain, Workload,
    WorkloadName,
};
use martlet_policy::{Action, Policy, PolicySet, Rule, Selector};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Dials one place, whatever is asked for; remembers who was to be shown.
struct Fixed {
    to: SocketAddr,
    shown: Mutex<Option<SocketAddr>>,
}

impl Dial for Fixed {
    fn dial(&self, _to: SocketAddr, shown_as: Option<SocketAddr>) -> Dialing<'_> {
        *self.shown.lock().unwrap() = shown_as;
        Box::pin(TcpStream::connect(self.to))
    }
}

fn domain() -> TrustDomain {
    "prod.example".parse().unwrap()
}

fn workload(name: &str, address: &str) -> Arc<Workload> {
    Arc::new(Workload {
        name: WorkloadName { namespace: "shop".parse().unwrap(), name: name.parse().unwrap() },
        service_account: name.parse().unwrap(),
        identity: SpiffeId::for_workload(&domain(), "shop", name).unwrap(),
        addresses: vec![address.parse().unwrap()],
        node: "one".parse().unwrap(),
        mode: Mode::Strict,
    })
}

fn credentials(authority: &Authority, workload: &Workload) -> Arc<Credentials> {
    let key = SigningKey::generate().unwrap();
    let request = LeafRequest {
        identity: workload.identity.clone(),
        workload: workload.name.clone(),
        node: workload.node.clone(),
        lifetime: LEAF_LIFETIME,
    };
    let chain = authority.issue(&key.csr().unwrap(), &request, SystemTime::now()).unwrap();
    let trust = TrustBundle::new([(domain(), authority.roots().to_vec())]).unwrap();
    let credentials = Credentials::new(workload.identity.clone(), Arc::new(trust));
    credentials.install(Svid::new(&key, chain, &workload.identity).unwrap());
    Arc::new(credentials)
}

/// cart calls web.
struct World {
    /// Where cart's connections are intercepted.
    entrance: SocketAddr,
    /// Where web's lanes arrive.
    gate: SocketAddr,
    application: TcpListener,
    cart: Arc<Credentials>,
    web: Arc<Workload>,
    shown: Arc<Fixed>,
    source: Arc<Dataplane>,
    source_records: mpsc::Receiver<AccessRecord>,
    destination_records: mpsc::Receiver<AccessRecord>,
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// `denied`: whether web's agent, and it alone, knows a policy that refuses cart.
async fn world(denied: bool, web_is: &str) -> World {
    let authority = Authority::ephemeral(&domain()).unwrap();
    let (cart, web) = (workload("cart", "127.0.0.1"), workload("web", "10.0.0.3"));
    let acting = workload(web_is, "10.0.0.3");
    let directory = || Directory::new([cart.clone(), web.clone()], []).unwrap();
    let policy = Policy {
        namespace: "shop".parse().unwrap(),
        name: "closed".parse().unwrap(),
        selector: Selector::All,
        action: Action::Deny,
        rules: vec![Rule { name: Some("nobody".into()), from: None, ports: None }],
    };
    let policies = PolicySet::new(if denied { vec![policy] } else { vec![] }).unwrap();
    let view =
        |policies| Arc::new(ArcSwap::from_pointee(View { directory: directory(), policies }));
    let (source_sink, source_records) = mpsc::channel(64);
    let (destination_sink, destination_records) = mpsc::channel(64);
    let source = Dataplane::new(view(PolicySet::default()), source_sink);
    let destination = Dataplane::new(view(policies), destination_sink);
    let (application, application_at) = listener().await;
    let (gate, gate_at) = listener().await;
    let (entrance, entrance_at) = listener().await;
    let cart_credentials = credentials(&authority, &cart);
    let caller = Arc::new(Local {
        workload: cart,
        credentials: cart_credentials.clone(),
        dial: Arc::new(Fixed { to: gate_at, shown: Mutex::default() }),
    });
    let shown = Arc::new(Fixed { to: application_at, shown: Mutex::default() });
    let callee = Arc::new(Local {
        workload: web.clone(),
        credentials: credentials(&authority, &acting),
        dial: shown.clone(),
    });
    let origin: SocketAddr = "10.0.0.3:8080".parse().unwrap();
    let carrying = source.clone();
    tokio::spawn(async move {
        while let Ok((stream, from)) = entrance.accept().await {
            tokio::spawn(carrying.clone().outbound(caller.clone(), stream, from, Some(origin)));
        }
    });
    tokio::spawn(async move {
        while let Ok((stream, from)) = gate.accept().await {
            tokio::spawn(destination.clone().inbound(callee.clone(), stream, from, origin));
        }
    });
    World {
        entrance: entrance_at,
        gate: gate_at,
        application,
        cart: cart_credentials,
        web,
        shown,
        source,
        source_records,
        destination_records,
    }
}

impl World {
    async fn open(&self) -> (TcpStream, TcpStream) {
        let caller = TcpStream::connect(self.entrance).await.unwrap();
        let (callee, _) = timeout(PATIENCE, self.application.accept()).await.unwrap().unwrap();
        (caller, callee)
    }

    async fn records(&mut self) -> (AccessRecord, AccessRecord) {
        let source = timeout(PATIENCE, self.source_records.recv()).await.unwrap().unwrap();
        let there = timeout(PATIENCE, self.destination_records.recv()).await.unwrap().unwrap();
        (source, there)
    }
}

async fn read_all(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.unwrap()?;
    Ok(bytes)
}

/// Both ends are known to be up afterwards.
async fn greet(caller: &mut TcpStream, callee: &mut TcpStream) {
    caller.write_all(b"x").await.unwrap();
    timeout(PATIENCE, callee.read_u8()).await.unwrap().unwrap();
}

fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

#[tokio::test]
async fn a_server_may_speak_first_and_each_side_may_finish_alone() {
    let mut world = world(false, "web").await;
    let (mut caller, mut callee) = world.open().await;
    let source = caller.local_addr().unwrap();
    callee.write_all(b"220 ready").await.unwrap();
    let mut greeting = [0; 9];
    timeout(PATIENCE, caller.read_exact(&mut greeting)).await.unwrap().unwrap();
    caller.write_all(b"question").await.unwrap();
    caller.shutdown().await.unwrap();
    assert_eq!(read_all(&mut callee).await.unwrap(), b"question");
    callee.write_all(b"answer after the half-close").await.unwrap();
    drop(callee);
    assert_eq!(read_all(&mut caller).await.unwrap(), b"answer after the half-close");
    let (here, there) = world.records().await;
    assert_eq!(*world.shown.shown.lock().unwrap(), Some(source), "the application sees the caller");
    assert_eq!((here.closed, there.closed), (Closed::Finished, Closed::Finished));
    assert_eq!(here.id, there.id);
    assert_eq!(here.protection, Protection::MutualTls);
    assert_eq!((here.bytes_sent, here.bytes_received), (8, 36));
    assert_eq!((there.bytes_sent, there.bytes_received), (8, 36));
    assert_eq!(here.destination.identity, Some(world.web.identity.clone()));
    assert_eq!(there.source.identity.unwrap().as_str(), "spiffe://prod.example/ns/shop/sa/cart");
    assert_eq!(there.tls.unwrap().key_exchange, "X25519MLKEM768");
}

#[tokio::test]
async fn a_lane_is_used_again_after_a_clean_end() {
    let mut world = world(false, "web").await;
    for round in 0..3 {
        let (mut caller, mut callee) = world.open().await;
        caller.write_all(b"ping").await.unwrap();
        caller.shutdown().await.unwrap();
        assert_eq!(read_all(&mut callee).await.unwrap(), b"ping");
        drop(callee);
        assert_eq!(read_all(&mut caller).await.unwrap(), b"");
        let (here, there) = world.records().await;
        assert_eq!((here.warm, there.warm), (round > 0, round > 0), "round {round}");
    }
    assert_eq!(world.source.idle_lanes(), 1);
}

#[tokio::test]
async fn new_credentials_are_used_at_once() {
    let mut world = world(false, "web").await;
    for _ in 0..2 {
        let (caller, callee) = world.open().await;
        drop((caller, callee));
        let (here, _) = world.records().await;
        assert!(!here.warm);
        world.cart.set_trust(world.cart.trust());
    }
}

#[tokio::test]
async fn a_reset_stays_a_reset_in_both_directions() {
    let mut world = world(false, "web").await;
    let (mut caller, mut callee) = world.open().await;
    greet(&mut caller, &mut callee).await;
    reset(caller);
    assert_eq!(read_all(&mut callee).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    let (here, there) = world.records().await;
    assert_eq!((here.closed, there.closed), (Closed::ResetByCaller, Closed::ResetByCaller));
    let (mut caller, mut callee) = world.open().await;
    greet(&mut caller, &mut callee).await;
    reset(callee);
    assert_eq!(read_all(&mut caller).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    let (here, there) = world.records().await;
    assert_eq!((here.closed, there.closed), (Closed::ResetByCallee, Closed::ResetByCallee));
    assert_eq!(world.source.idle_lanes(), 0, "such lanes are not kept");
}

#[tokio::test]
async fn the_far_agent_refuses_and_names_the_rule_at_both_ends() {
    let mut world = world(true, "web").await;
    let mut caller = TcpStream::connect(world.entrance).await.unwrap();
    caller.write_all(b"let me in").await.unwrap();
    assert_eq!(read_all(&mut caller).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    let (here, there) = world.records().await;
    assert_eq!((here.closed, there.closed), (Closed::Denied, Closed::Denied));
    assert_eq!(here.policy.as_deref(), Some("shop/closed: nobody"));
    assert_eq!(there.policy.as_deref(), Some("shop/closed: nobody"));
    assert_eq!(there.bytes_sent, 0);
}

#[tokio::test]
async fn somebody_else_at_the_address_gets_no_byte() {
    let mut world = world(false, "impostor").await;
    let mut caller = TcpStream::connect(world.entrance).await.unwrap();
    caller.write_all(b"a secret").await.unwrap();
    assert_eq!(read_all(&mut caller).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    let (here, there) = world.records().await;
    assert_eq!(here.closed, Closed::PeerUnexpected);
    assert_eq!(there.closed, Closed::RefusedByPeer);
    assert_eq!(here.bytes_sent, 0);
}

#[tokio::test]
async fn an_application_that_does_not_listen_is_a_reset_for_the_caller() {
    let mut world = world(false, "web").await;
    let (unused, _) = listener().await;
    drop(std::mem::replace(&mut world.application, unused));
    let mut caller = TcpStream::connect(world.entrance).await.unwrap();
    assert_eq!(read_all(&mut caller).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    let (here, there) = world.records().await;
    let refused = Closed::ApplicationRefused;
    assert_eq!((here.closed, there.closed), (refused, refused));
}

/// A byte stream that is cheap to make and to check.
fn pattern(from: usize, length: usize) -> Vec<u8> {
    (from..from + length).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_bytes_arrive_unchanged_both_ways_at_once() {
    const TOTAL: usize = 24 << 20;
    let mut world = world(false, "web").await;
    let (caller, callee) = world.open().await;
    let work = |stream: TcpStream| async move {
        let (mut reader, mut writer) = stream.into_split();
        let write = async move {
            let mut at = 0;
            while at < TOTAL {
                let length = (at % 70_001 + 1).min(TOTAL - at);
                writer.write_all(&pattern(at, length)).await.unwrap();
                at += length;
            }
        };
        let read = async move {
            let (mut at, mut buffer) = (0, vec![0; 50_000]);
            loop {
                let length = reader.read(&mut buffer).await.unwrap();
                if length == 0 {
                    break at;
                }
                assert!(buffer[..length] == pattern(at, length), "different after {at}");
                at += length;
            }
        };
        tokio::join!(write, read).1
    };
    let both = async { tokio::join!(work(caller), work(callee)) };
    assert_eq!(timeout(Duration::from_secs(120), both).await.unwrap(), (TOTAL, TOTAL));
    let (here, there) = world.records().await;
    assert_eq!((here.closed, there.closed), (Closed::Finished, Closed::Finished));
    assert_eq!((here.bytes_sent, here.bytes_received), (TOTAL as u64, TOTAL as u64));
}

#[tokio::test]
async fn a_reader_that_does_not_read_stops_the_writer() {
    const FAR_TOO_MUCH: usize = 256 << 20;
    let world = world(false, "web").await;
    let (caller, _callee) = world.open().await;
    let chunk = vec![7; 64 * 1024];
    let mut written = 0;
    // Nothing is taken for a second: the writer waits.
    while let Ok(ready) = timeout(Duration::from_secs(1), caller.writable()).await {
        ready.unwrap();
        written += caller.try_write(&chunk).unwrap_or(0);
        assert!(written < FAR_TOO_MUCH, "{written} bytes were taken and not delivered");
    }
}

#[tokio::test]
async fn a_peer_that_breaks_the_protocol_is_cut_off() {
    let mut world = world(false, "web").await;
    for bytes in [
        &[9, 0, 0, 0][..],                                             // unknown type
        &[2, 0, 0, 4, 1, 2, 3, 4],                                     // data before open
        &[3, 0, 0, 0],                                                 // finish before open
        &[2, 1, 0, 1],                                                 // data over the limit
        &[1, 0, 0, 3, 0, 0, 0],                                        // a short open
        &[1, 0, 0, 10, 0, 80, 0, 0, 0, 0, 0, 0, 0, 1, 5, 0, 0, 1, 19], // a refusal by the caller
        &[1, 0, 0, 10, 0, 80, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 10, 0, 80, 0, 0, 0, 0, 0, 0, 0, 2],
    ] {
        let transport = TcpStream::connect(world.gate).await.unwrap();
        let mut lane = originate(transport, &world.cart, &world.web.identity).await.unwrap();
        lane.write_all(bytes).await.unwrap();
        lane.flush().await.unwrap();
        let record = timeout(PATIENCE, world.destination_records.recv()).await.unwrap().unwrap();
        assert_eq!(record.closed, Closed::LaneViolation, "{bytes:?}");
        let mut rest = Vec::new();
        let _ = timeout(PATIENCE, lane.read_to_end(&mut rest)).await.unwrap();
        assert!(rest.is_empty(), "{rest:?}");
    }
}
