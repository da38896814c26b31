//! What the agent says in these tests.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use martlet_model::{
    AccessRecord, Closed, ConnectionId, Mode, Party, Protection, Reporter, Skew, SpiffeId,
    TlsFacts, WorkloadName,
    coverage::{Counterpart, Coverage, Datagrams, PairReport, Stream},
    report::{
        CertificateReport, Certificates, Check, CheckCategory, CheckReport, CheckResult,
        ConnectionReport, Connections, ControllerReport, Counter, Hook, LeafReport, Repair,
        RepairKind, Status, WorkloadReport, Workloads,
    },
};

use crate::fake::Fixed;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

pub fn reports() -> Fixed {
    Fixed {
        status: status(),
        workloads: workloads(),
        connections: connections(),
        coverage: coverage(),
        certificates: certificates(),
        check: CheckReport {
            success: true,
            categories: vec![category("kernel", vec![good("the kernel has what is needed")])],
        },
    }
}

pub fn nothing() -> Fixed {
    Fixed {
        status: Status { counters: Vec::new(), hooks: Vec::new(), ..status() },
        workloads: Workloads { workloads: Vec::new() },
        connections: Connections { connections: Vec::new() },
        coverage: Coverage { node: "one".parse().unwrap(), pairs: Vec::new() },
        certificates: Certificates { roots: Vec::new(), leaves: Vec::new() },
        check: CheckReport { success: true, categories: Vec::new() },
    }
}

pub fn status() -> Status {
    let hook = |name: &str, adopted| Hook { name: name.to_owned(), attached: true, adopted };
    let counter = |hook: &str, verdict: &str, count| Counter {
        hook: hook.to_owned(),
        verdict: verdict.to_owned(),
        count,
    };
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: "one".parse().unwrap(),
        trust_domain: "demo.example".parse().unwrap(),
        ready: true,
        not_ready: Vec::new(),
        uptime_seconds: 11_520,
        configuration: "3f2a9c".repeat(10) + "abcd",
        configuration_error: None,
        unconfined: Vec::new(),
        fails_open: false,
        controller: None,
        workloads: 3,
        connections: 12,
        idle_lanes: 4,
        hooks: vec![hook("martlet_connect4", true), hook("martlet_connect6", false)],
        counters: vec![
            counter("connect", "steered", 1234),
            counter("connect", "refused_no_memory", 0),
            counter("lookup", "passed_plaintext", 5),
        ],
        repairs: Vec::new(),
        predecessor: None,
    }
}

/// An older agent that something is wrong with.
pub fn not_ready() -> Status {
    let mut status = status();
    status.version = "0.0.9".to_owned();
    status.ready = false;
    status.not_ready = vec![
        "shop/web-0 is not steered: /run/netns/web is gone".to_owned(),
        "no certificate for shop/cart-0".to_owned(),
    ];
    status.configuration_error = Some("line 7, column 3: unknown field `mood`".to_owned());
    status.unconfined = vec!["landlock: this kernel has none".to_owned()];
    status.fails_open = true;
    status.predecessor = Some(3);
    status.controller = Some(ControllerReport {
        address: "controller.example.org:15012".to_owned(),
        away: Some("connection refused".to_owned()),
        since: seconds(-5 * HOUR),
        version: Some(7),
        refused: Some("10.1.0.2 belongs to both shop/web and shop/cart".to_owned()),
        clock: Some(Skew { ahead_ms: -42_500, within_ms: 3 }),
        certificate_expires: Some(seconds(7 * HOUR)),
    });
    status.hooks[1].attached = false;
    let repair = |kind, what: &str, count, error: Option<&str>| Repair {
        kind,
        what: what.to_owned(),
        count,
        last: seconds(-3 * HOUR),
        error: error.map(str::to_owned),
    };
    status.repairs = vec![
        repair(RepairKind::Entry, "MEMBERS: the entry 10.1.0.2 was removed", 3, None),
        repair(RepairKind::Link, "martlet_connect6 was detached", 1, Some("no memory")),
    ];
    status
}

pub fn workloads() -> Workloads {
    let one = |name: &str, account: &str, addresses: &[&str], node: &str, mode, state: &str| {
        WorkloadReport {
            name: workload(name),
            identity: identity(account),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            node: node.parse().unwrap(),
            mode,
            state: state.to_owned(),
            reason: None,
        }
    };
    let mut workloads = vec![
        one("web-0", "web", &["10.1.0.2", "fd00:1::2"], "one", Mode::Strict, "steered"),
        one("cart-0", "cart", &["10.1.0.3"], "one", Mode::Permissive, "failed"),
        one("db-0", "db", &["10.2.0.2"], "two", Mode::Strict, "remote"),
    ];
    workloads[1].reason = Some("/run/netns/cart is not a network namespace".to_owned());
    workloads[2].identity = "spiffe://other.example/ns/shop/sa/db".parse().unwrap();
    Workloads { workloads }
}

pub fn connections() -> Connections {
    let record = record();
    let lane = ConnectionReport {
        id: record.id,
        reporter: record.reporter,
        source: record.source,
        destination: record.destination,
        origin: record.origin,
        protection: Protection::MutualTls,
        tls: record.tls,
        age_ms: 192_000,
        bytes_sent: 77,
        bytes_received: 5_000_000,
    };
    let plain = ConnectionReport {
        id: ConnectionId(2),
        destination: Party { address: Some("192.0.2.7:443".parse().unwrap()), ..Party::default() },
        protection: Protection::Plaintext,
        tls: None,
        age_ms: 12,
        bytes_received: 0,
        ..lane.clone()
    };
    Connections { connections: vec![lane, plain] }
}

/// Times are told from now. Half an hour is added to all: the pages cut off below an hour.
pub fn certificates() -> Certificates {
    let root = certificate("root", "CN=demo.example root", -10 * DAY, 3000 * DAY);
    let issuer = certificate("issuer", "CN=demo.example issuer", -350 * DAY, 15 * DAY);
    let leaf = |name: &str, from, to, renews| {
        let mut leaf = certificate(name, &format!("CN=shop/{name}"), from, to);
        leaf.uris = vec![identity(name.split('-').next().unwrap()).to_string()];
        LeafReport {
            workload: workload(name),
            chain: vec![leaf, issuer.clone()],
            renews_at: seconds(renews),
            renewal_error: None,
        }
    };
    let mut leaves = vec![
        leaf("web-0", -2 * DAY, 10 * DAY, 4 * DAY),
        leaf("cart-0", -8 * DAY, DAY, -3 * DAY),
        leaf("old-0", -8 * DAY, -2 * DAY, -5 * DAY),
    ];
    leaves[1].renewal_error = Some("the issuer has expired; make a new one".to_owned());
    let waiting =
        LeafReport { workload: workload("new-0"), chain: Vec::new(), ..leaves[0].clone() };
    leaves.push(waiting);
    Certificates { roots: vec![root], leaves }
}

fn certificate(name: &str, subject: &str, from: i64, to: i64) -> CertificateReport {
    let digits: String = name.bytes().cycle().take(32).map(|byte| format!("{byte:02x}")).collect();
    CertificateReport {
        subject: subject.to_owned(),
        issuer: "CN=demo.example".to_owned(),
        uris: Vec::new(),
        serial: "01".to_owned(),
        fingerprint: digits,
        not_before: seconds(from),
        not_after: seconds(to),
    }
}

fn seconds(from_now: i64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let half_an_hour = HOUR / 2;
    let past = if from_now < 0 { -half_an_hour } else { half_an_hour };
    u64::try_from(i64::try_from(now.as_secs()).unwrap() + from_now + past).unwrap()
}

pub fn troubled() -> CheckReport {
    let check = |description: &str, result, error: &str, hint: &str| Check {
        description: description.to_owned(),
        result,
        error: Some(error.to_owned()),
        hint: Some(hint.to_owned()),
    };
    let kernel = vec![
        good("the kernel has what is needed"),
        check("sk_lookup is there", CheckResult::Error, "no such program type", "use Linux 5.9"),
    ];
    let files = check("the issuer lives", CheckResult::Warning, "15d left", "make a new one");
    let categories = vec![category("kernel", kernel), category("identity", vec![files])];
    CheckReport { success: false, categories }
}

pub fn category(name: &str, checks: Vec<Check>) -> CheckCategory {
    CheckCategory { category_name: name.to_owned(), checks }
}

pub fn good(description: &str) -> Check {
    let result = CheckResult::Success;
    Check { description: description.to_owned(), result, error: None, hint: None }
}

pub fn record() -> AccessRecord {
    let party = |address: &str, name: &str, account: &str| Party {
        address: Some(address.parse().unwrap()),
        identity: Some(identity(account)),
        workload: Some(workload(name)),
    };
    AccessRecord {
        id: ConnectionId(1),
        reporter: Reporter::Source,
        source: party("10.1.0.3:40000", "cart-0", "cart"),
        destination: party("10.1.0.2:8080", "web-0", "web"),
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

pub fn denied() -> AccessRecord {
    AccessRecord {
        id: ConnectionId(2),
        reporter: Reporter::Destination,
        bytes_sent: 0,
        bytes_received: 0,
        closed: Closed::Denied,
        policy: Some("shop/only-cart".to_owned()),
        protection: Protection::None,
        ..record()
    }
}

fn identity(account: &str) -> SpiffeId {
    format!("spiffe://demo.example/ns/shop/sa/{account}").parse().unwrap()
}

fn workload(name: &str) -> WorkloadName {
    WorkloadName { namespace: "shop".parse().unwrap(), name: name.parse().unwrap() }
}

pub fn coverage() -> Coverage {
    let workload = |name: &str| Counterpart::Workload(self::workload(name));
    let pairs = vec![
        pair(workload("cart-0"), workload("web-0"), [(7 << 30, 40), (0, 0), (0, 2), (0, 0)]),
        pair(workload("web-0"), workload("cart-0"), [(900 << 20, 0), (0, 0), (0, 0), (0, 0)]),
        pair(Counterpart::Private, workload("web-0"), [(0, 0), (77_000, 3), (0, 0), (0, 0)]),
        pair(workload("web-0"), Counterpart::Private, [(0, 0), (1_000_000, 0), (0, 0), (0, 0)]),
        pair(workload("old-0"), workload("web-0"), [(0, 0), (0, 0), (0, 0), (512, 1)]),
        PairReport {
            other: Datagrams { bytes: 4096, packets: 64 },
            other_refused: Datagrams { bytes: 12, packets: 1 },
            ..pair(workload("cart-0"), Counterpart::Node, [(0, 0), (0, 0), (0, 0), (0, 0)])
        },
        pair(Counterpart::FormerWorkload, workload("web-0"), [(100, 1), (0, 0), (0, 0), (0, 0)]),
    ];
    Coverage { node: "one".parse().unwrap(), pairs }
}

/// Of mTLS, plaintext, refused, unseen.
fn pair(from: Counterpart, to: Counterpart, streams: [(u64, u64); 4]) -> PairReport {
    let [mtls, plaintext, refused, unseen] =
        streams.map(|(bytes, connections)| Stream { bytes, connections });
    let (other, other_refused) = (Datagrams::default(), Datagrams::default());
    PairReport { from, to, mtls, plaintext, refused, unseen, other, other_refused }
}
