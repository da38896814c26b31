//! What the tests of this crate are about: one record, one status, and so on.

use std::time::{Duration, Instant};

use martlet_model::{
    AccessRecord, Closed, ConnectionId, Party, Protection, Reporter, TlsFacts,
    coverage::{Coverage, CoverageTotals, Datagrams, Stream},
    report::{
        CertificateReport, Certificates, CheckReport, Connections, Counter, Hook, LeafReport,
        Status, Workloads,
    },
};

use crate::{Reports, SpanTotals, Totals};

/// Longer than anything here takes, shorter than a person waits.
pub const DEADLINE: Duration = Duration::from_secs(20);

pub fn party(address: &str, account: &str) -> Party {
    Party {
        address: Some(address.parse().unwrap()),
        identity: Some(format!("spiffe://demo.example/ns/shop/sa/{account}").parse().unwrap()),
        workload: Some(workload(&format!("{account}-0"))),
    }
}

pub fn workload(name: &str) -> martlet_model::WorkloadName {
    martlet_model::WorkloadName { namespace: "shop".parse().unwrap(), name: name.parse().unwrap() }
}

/// A connection of cart to web, as cart's agent tells it.
pub fn record() -> AccessRecord {
    AccessRecord {
        id: ConnectionId(0x1234),
        reporter: Reporter::Source,
        source: party("10.1.0.2:40000", "cart"),
        destination: party("[fd00:1::3]:8080", "web"),
        origin: Some("10.96.0.10:80".parse().unwrap()),
        protection: Protection::MutualTls,
        tls: Some(TlsFacts {
            version: "TLSv1.3".into(),
            cipher: "TLS13_AES_128_GCM_SHA256".into(),
            key_exchange: "X25519MLKEM768".into(),
        }),
        warm: true,
        bytes_sent: 77,
        bytes_received: 4096,
        duration: Duration::from_micros(1500),
        closed: Closed::Finished,
        policy: None,
    }
}

/// The same connection, refused by a policy at the far end.
pub fn refused() -> AccessRecord {
    AccessRecord {
        reporter: Reporter::Destination,
        closed: Closed::Denied,
        policy: Some("shop/only-cart, rule \"cart\"".to_owned()),
        ..record()
    }
}

pub fn status() -> Status {
    Status {
        version: "0.1.0".to_owned(),
        node: "one".parse().unwrap(),
        trust_domain: "demo.example".parse().unwrap(),
        ready: true,
        not_ready: Vec::new(),
        uptime_seconds: 60,
        configuration: "ab".repeat(32),
        configuration_error: None,
        unconfined: Vec::new(),
        fails_open: false,
        controller: None,
        workloads: 2,
        connections: 3,
        idle_lanes: 1,
        hooks: vec![Hook { name: "martlet_connect4".to_owned(), attached: true, adopted: false }],
        counters: vec![counter("connect", "steered", 12), counter("lookup", "passed_plaintext", 5)],
        repairs: Vec::new(),
        predecessor: None,
    }
}

pub fn counter(hook: &str, verdict: &str, count: u64) -> Counter {
    Counter { hook: hook.to_owned(), verdict: verdict.to_owned(), count }
}

pub fn certificates() -> Certificates {
    let certificate = CertificateReport {
        subject: "CN=shop/web-0".to_owned(),
        issuer: "CN=demo.example issuer".to_owned(),
        uris: vec!["spiffe://demo.example/ns/shop/sa/web".to_owned()],
        serial: "01".to_owned(),
        fingerprint: "cd".repeat(32),
        not_before: 1_800_000_000,
        not_after: 1_800_086_400,
    };
    let leaf = LeafReport {
        workload: workload("web-0"),
        chain: vec![certificate.clone()],
        renews_at: 1_800_043_200,
        renewal_error: None,
    };
    Certificates { roots: vec![certificate], leaves: vec![leaf] }
}

pub fn totals() -> Totals {
    Totals {
        connections_opened: 9,
        handshakes_originated: 4,
        handshakes_terminated: 3,
        handshakes_failed: 2,
        records_dropped: 1,
        workload_api_answered: 2,
        workload_api_refused: 1,
        spans: SpanTotals { exported: 6, overflowed: 5, undelivered: 4, refused: 3 },
        coverage: coverage(),
    }
}

fn coverage() -> CoverageTotals {
    let stream = |bytes, connections| Stream { bytes, connections };
    CoverageTotals {
        mtls: stream(9000, 3),
        plaintext: stream(500, 2),
        refused: stream(0, 1),
        unseen: stream(12, 1),
        other: Datagrams { bytes: 64, packets: 4 },
        other_refused: Datagrams { bytes: 8, packets: 1 },
    }
}

/// An agent that always says the same.
pub struct Fixed {
    pub status: Status,
}

impl Reports for Fixed {
    fn status(&self) -> Status {
        self.status.clone()
    }
    fn workloads(&self) -> Workloads {
        Workloads { workloads: Vec::new() }
    }
    fn connections(&self) -> Connections {
        Connections { connections: Vec::new() }
    }
    fn certificates(&self) -> Certificates {
        certificates()
    }
    fn check(&self) -> CheckReport {
        CheckReport { success: true, categories: Vec::new() }
    }
    fn coverage(&self) -> Coverage {
        Coverage { node: "one".parse().unwrap(), pairs: Vec::new() }
    }
    fn totals(&self) -> Totals {
        totals()
    }
}

/// Waits until the claim is true.
pub fn until(what: &str, mut claim: impl FnMut() -> bool) {
    let started = Instant::now();
    while !claim() {
        assert!(started.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        std::thread::yield_now();
    }
}

/// Compares a page of `docs` with what it should say; `MARTLET_BLESS=1` writes it.
pub fn same_as_page(name: &str, wanted: &str) {
    let path = format!("{}/../../docs/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("MARTLET_BLESS").is_some() {
        std::fs::write(&path, wanted).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, wanted, "docs/{name} is out of date; run the tests with MARTLET_BLESS=1");
}
