//! Endpoints over loopback: both profiles, followed over time, with peers of other make and with
//! answers that are not to be believed.

#![allow(clippy::unwrap_used)]

use std::{
    net::SocketAddr,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use hyper::body::Bytes;
use martlet_federation::{
    BundleServer, Endpoint, EndpointError, FetchError, Followed, Follower, Profile, ServedBy,
    fetch, limits,
};
use martlet_identity::{
    BundleDocument, Chain, Credentials, SigningKey, Svid, TrustBundle,
    endpoint::{WebCertificate, WebRoots, answer_web},
    limits::MAX_DOCUMENT_BYTES,
};
use martlet_model::{Closed, SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(20);

fn domain(name: &str) -> TrustDomain {
    name.parse().unwrap()
}

/// A root and its key.
struct Root {
    der: Vec<u8>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Root {
    fn new(name: &str) -> Self {
        let (mut root, key) = (CertificateParams::default(), KeyPair::generate().unwrap());
        root.distinguished_name.push(DnType::CommonName, name);
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let made = root.self_signed(&key).unwrap();
        let (der, pem) = (made.der().to_vec(), made.pem());
        Self { der, pem, issuer: Issuer::new(root, key) }
    }

    /// Credentials for `identity`, signed by this root.
    fn credentials(&self, identity: &str) -> Arc<Credentials> {
        let (key, identity) =
            (SigningKey::generate().unwrap(), identity.parse::<SpiffeId>().unwrap());
        let csr = key.csr().unwrap().0;
        let csr = CertificateSigningRequestParams::from_der(&csr.as_slice().into());
        let mut csr = csr.unwrap();
        csr.params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into().unwrap())];
        csr.params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let chain = Chain(vec![csr.signed_by(&self.issuer).unwrap().der().to_vec()]);
        let nobody = Arc::new(TrustBundle::new([]).unwrap());
        let credentials = Credentials::new(identity.clone(), nobody);
        credentials.install(Svid::new(&key, chain, &identity).unwrap());
        Arc::new(credentials)
    }

    fn web(&self, name: &str) -> WebCertificate {
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let leaf = leaf.signed_by(&key, &self.issuer).unwrap();
        WebCertificate::from_pem(leaf.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap()
    }

    fn web_roots(&self) -> WebRoots {
        WebRoots::from_pem(self.pem.as_bytes()).unwrap()
    }
}

fn document(roots: &[&Root], sequence: u64) -> BundleDocument {
    let roots = roots.iter().map(|root| root.der.clone()).collect();
    let refresh_hint = Some(Duration::from_secs(120));
    BundleDocument { roots, sequence: Some(sequence), refresh_hint }
}

fn json(document: &BundleDocument) -> Bytes {
    document.to_json().unwrap().into()
}

fn trusting(entries: &[(&str, &Root)]) -> Arc<TrustBundle> {
    let entries = entries.iter().map(|(name, root)| (domain(name), vec![root.der.clone()]));
    Arc::new(TrustBundle::new(entries).unwrap())
}

/// One of our own servers, for as long as the test runs.
struct Published {
    address: SocketAddr,
    document: watch::Sender<Bytes>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Published {
    async fn new(served_by: ServedBy, first: &BundleDocument) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, document) = (listener.local_addr().unwrap(), watch::Sender::new(json(first)));
        let shutdown = CancellationToken::new();
        let (path, subscribed) = ("/bundle".to_owned(), document.subscribe());
        let server = BundleServer { listener, served_by, path, document: subscribed };
        let task = tokio::spawn(server.run(shutdown.clone()));
        Self { address, document, shutdown, task }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }
}

fn spiffe(address: SocketAddr, of: &str, identity: &str) -> Endpoint {
    Endpoint {
        domain: domain(of),
        url: format!("https://{address}/bundle").parse().unwrap(),
        profile: Profile::Spiffe(identity.parse().unwrap()),
    }
}

fn web(address: SocketAddr, host: &str, roots: WebRoots) -> Endpoint {
    let url = format!("https://{host}:{}/bundle", address.port()).parse().unwrap();
    Endpoint { domain: domain("b.org"), url, profile: Profile::Web(roots) }
}

const SERVER: &str = "spiffe://b.org/martlet/controller";

#[tokio::test]
async fn an_endpoint_that_proves_its_identity_by_a_bundle_that_we_hold_is_believed() {
    let (root, other) = (Root::new("b"), Root::new("other"));
    let served = document(&[&root], 1);
    let published = Published::new(ServedBy::Identity(root.credentials(SERVER)), &served).await;
    let endpoint = spiffe(published.address, "b.org", SERVER);
    assert_eq!(fetch(&endpoint, trusting(&[("b.org", &root)])).await.unwrap(), served);
    let refused = |endpoint: Endpoint, trust| async move {
        match fetch(&endpoint, trust).await.unwrap_err() {
            FetchError::Proof(problem) => problem.closed(),
            other => panic!("{other}"),
        }
    };
    let another = refused(endpoint.clone(), trusting(&[("b.org", &other)])).await;
    assert_eq!(another, Closed::PeerUntrusted);
    let unknown = refused(endpoint.clone(), trusting(&[("c.org", &root)])).await;
    assert_eq!(unknown, Closed::PeerWrongTrustDomain);
    let expected = spiffe(published.address, "b.org", "spiffe://b.org/martlet/controlle");
    assert_eq!(refused(expected, trusting(&[("b.org", &root)])).await, Closed::PeerUnexpected);
}

#[tokio::test]
async fn an_endpoint_that_proves_its_name_by_an_authority_of_the_web_is_believed() {
    let (root, authority, other) = (Root::new("b"), Root::new("web"), Root::new("other"));
    let certificate = watch::Sender::new(authority.web("localhost"));
    let served = document(&[&root], 1);
    let published = Published::new(ServedBy::Web(certificate.subscribe()), &served).await;
    let nobody = trusting(&[]);
    let good = web(published.address, "localhost", authority.web_roots());
    assert_eq!(fetch(&good, nobody.clone()).await.unwrap(), served);
    for bad in [
        web(published.address, "localhost", other.web_roots()),
        web(published.address, "127.0.0.1", authority.web_roots()),
        spiffe(published.address, "b.org", SERVER),
    ] {
        let refused = fetch(&bad, trusting(&[("b.org", &authority)])).await.unwrap_err();
        assert!(matches!(refused, FetchError::Proof(_)), "{refused}");
    }
    certificate.send_replace(authority.web("127.0.0.1"));
    assert!(fetch(&good, nobody.clone()).await.is_err());
    let renamed = web(published.address, "127.0.0.1", authority.web_roots());
    assert_eq!(fetch(&renamed, nobody).await.unwrap(), served);
}

#[tokio::test]
async fn curl_reads_our_endpoint_without_a_certificate_and_only_that() {
    let (root, authority) = (Root::new("b"), Root::new("web"));
    let served = document(&[&root], 7);
    let certificate = watch::Sender::new(authority.web("localhost"));
    let published = Published::new(ServedBy::Web(certificate.subscribe()), &served).await;
    let directory = tempfile::TempDir::new().unwrap();
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, &authority.pem).unwrap();
    let curl = |path: &str, more: &[&str]| {
        let mut curl = Command::new("curl");
        let url = format!("https://localhost:{}{path}", published.address.port());
        curl.args(["-sS", "-m", "20", "-w", "\n%{http_code} %{content_type}", "--cacert"]);
        curl.arg(&ca).args(more).arg(url);
        tokio::task::spawn_blocking(move || curl.output().unwrap())
    };
    let output = curl("/bundle", &[]).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, facts) = text.rsplit_once('\n').unwrap();
    assert_eq!(facts, "200 application/json");
    assert_eq!(BundleDocument::parse(body.as_bytes(), &domain("b.org")).unwrap(), served);
    for (path, more, status) in [
        ("/", &[][..], "404"),
        ("/bundle/", &[], "404"),
        ("/bundle", &["-X", "POST", "-d", "a"], "405"),
        ("/bundle", &["-X", "DELETE"], "405"),
    ] {
        let output = curl(path, more).await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.starts_with(&format!("\n{status} ")), "{path} {more:?}: {text}");
    }
    let old = curl("/bundle", &["--tls-max", "1.2"]).await.unwrap();
    assert!(!old.status.success());
}

#[tokio::test]
async fn silent_callers_keep_nobody_else_out_and_are_bounded() {
    let root = Root::new("b");
    let served = document(&[&root], 1);
    let published = Published::new(ServedBy::Identity(root.credentials(SERVER)), &served).await;
    let endpoint = spiffe(published.address, "b.org", SERVER);
    let mut silent = Vec::new();
    for _ in 1..limits::CALLERS {
        silent.push(TcpStream::connect(published.address).await.unwrap());
    }
    assert_eq!(fetch(&endpoint, trusting(&[("b.org", &root)])).await.unwrap(), served);
    // With one more of them there is no place, until one of them leaves.
    silent.push(TcpStream::connect(published.address).await.unwrap());
    let mut waiting =
        tokio::spawn(async move { fetch(&endpoint, trusting(&[("b.org", &root)])).await });
    let second = Duration::from_secs(1);
    assert!(tokio::time::timeout(second, &mut waiting).await.is_err(), "there was a place");
    silent.clear();
    let found = tokio::time::timeout(DEADLINE, waiting).await.expect("a place is free").unwrap();
    assert_eq!(found.unwrap(), served);
}

/// An endpoint that proves itself and answers with these bytes.
async fn answering(authority: &Root, answer: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, certificate) = (listener.local_addr().unwrap(), authority.web("localhost"));
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = answer_web(stream, &certificate).await.unwrap();
        let mut question = [0; 4096];
        let length = stream.read(&mut question).await.unwrap();
        let question = String::from_utf8_lossy(&question[..length]).into_owned();
        assert!(question.starts_with("GET /bundle HTTP/1.1\r\n"), "{question}");
        let _ = stream.write_all(&answer).await;
        let _ = stream.shutdown().await;
    });
    address
}

#[tokio::test]
async fn answers_that_are_no_document_are_refused_with_their_reason() {
    let (authority, root) = (Root::new("web"), Root::new("b"));
    let good = json(&document(&[&root], 1));
    let answer = |head: &str, body: &[u8]| [head.as_bytes(), b"\r\n\r\n", body].concat();
    let length = format!("HTTP/1.1 200 OK\r\ncontent-length: {}", good.len());
    let long = format!("HTTP/1.1 200 OK\r\ncontent-length: {}", MAX_DOCUMENT_BYTES + 1);
    let moved = "HTTP/1.1 302 Found\r\nlocation: https://localhost/other\r\ncontent-length: 0";
    for (bytes, reason) in [
        (answer(&length, &good), None),
        (answer("HTTP/1.1 200 OK", &good), None),
        (answer(&length, &good[..good.len() - 1]), Some("the document is longer than")),
        (answer(&long, &vec![b' '; MAX_DOCUMENT_BYTES + 1]), Some("the document is longer than")),
        (answer(moved, b""), Some("the endpoint answered 302 Found instead of 200")),
        (answer("HTTP/1.1 500 No\r\ncontent-length: 0", b""), Some("the endpoint answered 500")),
        (answer("HTTP/1.1 204 No\r\ncontent-length: 0", b""), Some("the endpoint answered 204")),
        (
            answer("HTTP/1.1 200 OK\r\ncontent-length: 2", b"{}"),
            Some("the document cannot be used"),
        ),
        (b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), Some("the endpoint did not answer in HTTP")),
        (Vec::new(), Some("the endpoint did not answer in HTTP")),
    ] {
        let address = answering(&authority, bytes.clone()).await;
        let endpoint = web(address, "localhost", authority.web_roots());
        let outcome = fetch(&endpoint, trusting(&[])).await;
        match (outcome, reason) {
            (Ok(found), None) => assert_eq!(found, document(&[&root], 1)),
            (Err(error), Some(reason)) => {
                assert!(error.to_string().starts_with(reason), "{error}, not {reason}");
            }
            (outcome, reason) => panic!("{outcome:?}, not {reason:?}"),
        }
    }
}

#[test]
fn nobody_else_publishes_the_roots_of_our_own_domain() {
    let trust = watch::Sender::new(trusting(&[]));
    let endpoint = spiffe("127.0.0.1:1".parse().unwrap(), "a.org", SERVER);
    let refused = Follower::new(endpoint, &domain("a.org"), None, trust.subscribe()).err();
    assert_eq!(refused, Some(EndpointError::OwnDomain(domain("a.org"))));
}

/// A follower of `b.org` on a node of `a.org`, whose clock is moved by hand.
struct Following {
    following: martlet_federation::Following,
    followed: watch::Receiver<Followed>,
    trust: watch::Sender<Arc<TrustBundle>>,
    taken: Arc<Mutex<Vec<BundleDocument>>>,
    /// Why nothing is taken, if nothing is.
    refusal: watch::Sender<Option<&'static str>>,
}

impl Following {
    fn start(address: SocketAddr, trust: Arc<TrustBundle>) -> Self {
        let trust = watch::Sender::new(trust);
        let endpoint = spiffe(address, "b.org", SERVER);
        let (follower, following) =
            Follower::new(endpoint, &domain("a.org"), None, trust.subscribe()).unwrap();
        let followed = following.followed();
        let (taken, refusal) = (Arc::<Mutex<Vec<_>>>::default(), watch::Sender::new(None));
        let (into, refuses) = (taken.clone(), refusal.subscribe());
        let take = move |document| {
            let refusal: Option<&str> = *refuses.borrow();
            let outcome = match refusal {
                Some(why) => Err(why.to_owned()),
                None => {
                    into.lock().unwrap().push(document);
                    Ok(())
                }
            };
            std::future::ready(outcome)
        };
        tokio::spawn(follower.run(take, CancellationToken::new()));
        Self { following, followed, trust, taken, refusal }
    }

    /// What is known after the look that is under way.
    async fn next(&mut self) -> Followed {
        tokio::time::timeout(DEADLINE, self.followed.changed()).await.expect("it looks").unwrap();
        self.followed.borrow_and_update().clone()
    }

    /// What is known after the next look: the interval and the jitter later. The clock jumps there; it
    /// must not run ahead by itself, since the endpoint is real.
    async fn after(&mut self, interval: u64) -> Followed {
        // The follower has said what it found just before it waits.
        tokio::task::yield_now().await;
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(interval * 11 / 10 + 1)).await;
        tokio::time::resume();
        self.next().await
    }

    fn last(&self) -> Option<BundleDocument> {
        self.taken.lock().unwrap().last().cloned()
    }
}

#[tokio::test]
async fn a_follower_looks_as_often_as_the_document_says_and_counts_what_fails() {
    let (old, new) = (Root::new("b old"), Root::new("b new"));
    let first = document(&[&old], 5);
    let published = Published::new(ServedBy::Identity(old.credentials(SERVER)), &first).await;
    let mut following = Following::start(published.address, trusting(&[("b.org", &old)]));

    let known = following.next().await;
    assert_eq!(following.last().as_ref(), Some(&first));
    assert!(known.confirmed.is_some() && known.failure.is_none());

    let second = document(&[&old, &new], 6);
    published.document.send_replace(json(&second));
    let confirmed = following.after(120).await.confirmed.unwrap();
    assert_eq!(following.last().as_ref(), Some(&second));

    following.refusal.send_replace(Some("its sequence number went back"));
    for looks in 1..=2 {
        let known = following.after(120).await;
        assert_eq!(known.confirmed, Some(confirmed));
        let failure = known.failure.unwrap();
        assert_eq!(
            (failure.reason.as_str(), failure.looks),
            ("its sequence number went back", looks)
        );
    }
    following.refusal.send_replace(None);
    published.document.send_replace(Bytes::from_static(b"{\"keys\": []}"));
    let failure = following.after(120).await.failure.unwrap();
    assert!(failure.reason.starts_with("the document cannot be used"), "{}", failure.reason);
    assert_eq!((failure.looks, following.last().as_ref()), (3, Some(&second)));

    published.document.send_replace(json(&second));
    let known = following.after(120).await;
    assert!(known.failure.is_none() && known.confirmed.unwrap() > confirmed);
    assert_eq!((known.looks, known.failed), (6, 3));

    published.stop().await;
    let failure = following.after(120).await.failure.unwrap();
    assert!(failure.reason.starts_with("the endpoint cannot be reached"), "{}", failure.reason);
    assert_eq!(following.last().as_ref(), Some(&second));
}

#[tokio::test]
async fn whoever_asks_is_told_what_came_of_a_look_that_began_afterwards() {
    let root = Root::new("b");
    let first = document(&[&root], 1);
    let published = Published::new(ServedBy::Identity(root.credentials(SERVER)), &first).await;
    let mut following = Following::start(published.address, trusting(&[("b.org", &root)]));
    following.next().await;
    let second = document(&[&root], 2);
    published.document.send_replace(json(&second));
    assert_eq!(following.following.look().await, Some(Ok(())));
    assert_eq!(following.last(), Some(second));
    published.stop().await;
    let failed = following.following.look().await.unwrap().unwrap_err();
    assert!(failed.starts_with("the endpoint cannot be reached"), "{failed}");
}

#[tokio::test]
async fn an_endpoint_is_asked_as_soon_as_there_is_a_bundle_that_proves_it() {
    let (old, new) = (Root::new("b old"), Root::new("b new"));
    let both = document(&[&old, &new], 1);
    let published = Published::new(ServedBy::Identity(new.credentials(SERVER)), &both).await;
    let mut following = Following::start(published.address, trusting(&[]));
    let failure = following.next().await.failure.unwrap();
    assert!(failure.reason.contains("martlet trust import b.org FILE"), "{}", failure.reason);
    // This one is from before a rotation: it does not prove the endpoint.
    following.trust.send_replace(trusting(&[("b.org", &old)]));
    let failure = following.next().await.failure.unwrap();
    assert!(failure.reason.starts_with("the endpoint did not prove itself"), "{}", failure.reason);
    assert_eq!(following.last(), None);
    let roots = vec![old.der.clone(), new.der.clone()];
    following.trust.send_replace(Arc::new(TrustBundle::new([(domain("b.org"), roots)]).unwrap()));
    assert!(following.next().await.failure.is_none());
    assert_eq!(following.last(), Some(both));
}
