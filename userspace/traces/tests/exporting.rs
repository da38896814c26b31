//! Records on their way to a collector: one that takes them, and all the others.

#![allow(clippy::unwrap_used)]

#[path = "support/collector.rs"]
mod collector;

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

use martlet_model::{
    AccessRecord, Closed, ConnectionId, Party, Protection, Ratio, Reporter, TlsFacts,
};
use martlet_traces::{AuthoritiesError, Counts, Settings, Spans, open};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use collector::{Answer, Collector, until};

/// What a record is offered in at most, whatever becomes of it.
const AT_ONCE: Duration = Duration::from_millis(100);

fn record(id: u64) -> AccessRecord {
    AccessRecord {
        id: ConnectionId(id),
        reporter: Reporter::Source,
        source: Party::default(),
        destination: Party::default(),
        origin: None,
        protection: Protection::MutualTls,
        tls: Some(TlsFacts {
            version: "TLSv1.3".into(),
            cipher: "TLS13_AES_128_GCM_SHA256".into(),
            key_exchange: "X25519MLKEM768".into(),
        }),
        warm: false,
        bytes_sent: 1,
        bytes_received: 2,
        duration: Duration::from_millis(3),
        closed: Closed::Finished,
        policy: None,
    }
}

fn settings(url: &str, authorities: Option<PathBuf>) -> Settings {
    Settings {
        collector: url.parse().unwrap(),
        authorities,
        ratio: Ratio::ALL,
        node: "one".parse().unwrap(),
        are_pods: false,
        version: "0.1.0".to_owned(),
    }
}

/// An exporter that runs until it is dropped.
struct Running {
    spans: Spans,
    counts: Arc<Counts>,
    _runtime: Runtime,
}

impl Running {
    fn start(settings: Settings) -> Self {
        let runtime = Runtime::new().unwrap();
        let (spans, exporter) = open(settings).unwrap();
        runtime.spawn(exporter.run(CancellationToken::new()));
        Self { counts: spans.counts(), spans, _runtime: runtime }
    }

    fn to(address: SocketAddr) -> Self {
        Self::start(settings(&format!("http://{address}"), None))
    }

    fn offer(&self, ids: std::ops::RangeInclusive<u64>) {
        ids.for_each(|id| self.spans.offer(&record(id), SystemTime::now()));
    }

    /// Exported, overflowed, undelivered, refused.
    fn counted(&self) -> [u64; 4] {
        let Counts { exported, overflowed, undelivered, refused } = &*self.counts;
        [exported, overflowed, undelivered, refused].map(|count| count.load(Ordering::Relaxed))
    }

    fn wait_for(&self, wanted: [u64; 4]) {
        until(&format!("{wanted:?}"), || match self.counted() {
            counted if counted == wanted => Ok(()),
            counted => Err(format!("{counted:?}")),
        });
    }
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

#[test]
fn what_is_offered_arrives_in_batches_over_one_connection() {
    let collector = Collector::start(listener(), Answer::Take);
    let running = Running::to(collector.address());
    running.offer(1..=1300);
    running.wait_for([1300, 0, 0, 0]);
    let mut ids: Vec<_> = collector.told().iter().map(|told| told.span.span_id.clone()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!((ids.len(), collector.connections()), (1300, 1));
}

#[test]
fn what_is_beyond_the_ratio_is_not_sent_and_not_lost() {
    let collector = Collector::start(listener(), Answer::Take);
    let half = Settings {
        ratio: "0.5".parse().unwrap(),
        ..settings(&format!("http://{}", collector.address()), None)
    };
    let running = Running::start(half);
    running.offer(u64::MAX - 10..=u64::MAX);
    running.offer(1..=10);
    running.wait_for([10, 0, 0, 0]);
}

#[test]
fn a_collector_that_is_not_there_costs_spans_and_nobody_waits() {
    let address = listener().local_addr().unwrap();
    let running = Running::to(address);
    let began = Instant::now();
    running.offer(1..=5);
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    running.wait_for([0, 0, 5, 0]);
}

#[test]
fn a_collector_that_never_answers_costs_spans_and_nobody_waits() {
    let collector = Collector::start(listener(), Answer::Nothing);
    let running = Running::to(collector.address());
    running.offer(1..=5);
    running.wait_for([0, 0, 5, 0]);
    assert!(collector.connections() > 1, "it is tried again");
}

#[test]
fn what_does_not_fit_is_lost_at_once() {
    let (spans, _exporter) = open(settings("http://127.0.0.1:1", None)).unwrap();
    let began = Instant::now();
    (1..=4106).for_each(|id| spans.offer(&record(id), SystemTime::now()));
    assert!(began.elapsed() < 10 * AT_ONCE, "{:?}", began.elapsed());
    assert_eq!(spans.counts().overflowed.load(Ordering::Relaxed), 10);
}

#[test]
fn a_collector_that_comes_back_gets_what_waits() {
    let listener = listener();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let running = Running::to(address);
    running.offer(1..=5);
    let collector = Collector::start(TcpListener::bind(address).unwrap(), Answer::Take);
    running.wait_for([5, 0, 0, 0]);
    drop(collector);
    let again = until("port", || TcpListener::bind(address).map_err(|error| error.to_string()));
    let collector = Collector::start(again, Answer::Take);
    running.offer(6..=7);
    running.wait_for([7, 0, 0, 0]);
    assert_eq!(collector.told().len(), 2);
}

#[test]
fn what_the_collector_refuses_is_not_sent_again() {
    let collector = Collector::start(listener(), Answer::Refuse);
    let running = Running::to(collector.address());
    running.offer(1..=5);
    running.wait_for([0, 0, 0, 5]);
    let partly = Collector::start(self::listener(), Answer::Reject(2));
    let running = Running::to(partly.address());
    running.offer(1..=5);
    running.wait_for([3, 0, 0, 2]);
}

#[test]
fn the_last_spans_are_sent_before_the_end() {
    let collector = Collector::start(listener(), Answer::Take);
    let runtime = Runtime::new().unwrap();
    let url = format!("http://{}", collector.address());
    let (spans, exporter) = open(settings(&url, None)).unwrap();
    let shutdown = CancellationToken::new();
    let running = runtime.spawn(exporter.run(shutdown.clone()));
    spans.offer(&record(1), SystemTime::now());
    shutdown.cancel();
    drop(spans);
    runtime.block_on(running).unwrap();
    assert_eq!(collector.told().len(), 1);
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// With a certificate for `localhost`.
fn over_tls(issuer: &CertifiedIssuer<'_, KeyPair>) -> Collector {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let chain = vec![params.signed_by(&key, issuer).unwrap().der().clone()];
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let secure = async move |stream| acceptor.accept(stream).await.ok();
    Collector::start_with(listener(), Answer::Take, secure)
}

fn written(directory: &Path, issuer: &CertifiedIssuer<'_, KeyPair>) -> PathBuf {
    let path = directory.join("ca.crt");
    fs::write(&path, issuer.pem()).unwrap();
    path
}

#[test]
fn over_tls_only_a_collector_that_proves_itself_gets_spans() {
    let (ours, theirs) = (authority(), authority());
    let directory = TempDir::new().unwrap();
    let path = written(directory.path(), &ours);
    for (issuer, host, wanted) in [
        (&ours, "localhost", [1, 0, 0, 0]),
        (&theirs, "localhost", [0, 0, 1, 0]),
        (&ours, "127.0.0.1", [0, 0, 1, 0]),
    ] {
        let collector = over_tls(issuer);
        let url = format!("https://{host}:{}", collector.address().port());
        let running = Running::start(settings(&url, Some(path.clone())));
        running.offer(1..=1);
        running.wait_for(wanted);
        assert_eq!(collector.told().len() as u64, wanted[0], "{host}");
    }
}

#[test]
fn authorities_that_cannot_be_read_stop_the_start() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("ca.crt");
    let opened = || open(settings("https://collector:4317", Some(path.clone()))).map(drop);
    assert!(matches!(opened(), Err(AuthoritiesError::Read { .. })));
    fs::write(&path, "nothing").unwrap();
    assert!(matches!(opened(), Err(AuthoritiesError::Bad { .. })));
    written(directory.path(), &authority());
    assert!(opened().is_ok());
}
