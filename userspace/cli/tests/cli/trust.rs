//! What `martlet` asks a controller, and what it prints of the answers.

use std::{
    path::{Path, PathBuf},
    process::Output,
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

use martlet_model::Skew;
use martlet_model::report::{
    Advanced, CertificateReport, EndpointFailure, EndpointProfile, EndpointReport, Export,
    ForeignReport, Invitation, IssuerReport, KeyPlace, NodeReport, Nodes, QuarantineReport,
    RootReport, RootRole, RotationReport, RotationStep, TrustNode, TrustReport,
};
use serde::Serialize;
use tempfile::TempDir;

use crate::{
    fake::{ok, serving},
    golden, run, stderr, stdout,
};

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// Half a minute off, so that a slow test prints the same.
fn ago(seconds: u64) -> u64 {
    now() - seconds - 30
}

fn ahead(seconds: u64) -> u64 {
    now() + seconds + 30
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn certificate(subject: &str, digit: char, age: u64, left: u64) -> CertificateReport {
    CertificateReport {
        subject: format!("CN={subject}"),
        issuer: "CN=prod.example root".to_owned(),
        uris: Vec::new(),
        serial: "01".to_owned(),
        fingerprint: std::iter::repeat_n(digit, 64).collect(),
        not_before: ago(age),
        not_after: ahead(left),
    }
}

fn steady() -> TrustReport {
    let node = |name: &str| TrustNode {
        name: name.parse().unwrap(),
        last_seen: Some(ago(2 * HOUR)),
        trust_version: Some(7),
        is_current: true,
        leaves: 12,
        connections: 40,
        oldest_expiry: Some(ahead(11 * HOUR)),
        quarters: [9, 2, 0, 1],
        next_renewal: Some(ahead(2 * HOUR)),
    };
    TrustReport {
        trust_domain: "prod.example".parse().unwrap(),
        version: 7,
        rotation: None,
        roots: vec![RootReport {
            certificate: certificate("root", 'a', 100 * DAY, 3550 * DAY),
            role: RootRole::Issuing,
            key: KeyPlace::Here,
            leaves: 24,
            connections: 80,
        }],
        issuers: vec![IssuerReport {
            certificate: certificate("issuer", 'b', DAY, 6 * DAY),
            is_current: true,
            renews_at: Some(ahead(2 * DAY + 12 * HOUR)),
            leaves: 24,
        }],
        leaves_of_unknown_issuers: 0,
        renewal_error: None,
        nodes: vec![node("worker-1"), node("worker-2")],
        foreign: Vec::new(),
        endpoints: Vec::new(),
        quarantines: Vec::new(),
    }
}

fn troubled() -> TrustReport {
    let mut report = steady();
    report.version = 9;
    report.rotation = Some(RotationReport {
        step: RotationStep::Staged,
        since: ago(2 * HOUR),
        is_paused: true,
        version: 9,
        waits_for: vec!["it is paused".to_owned(), "worker-2 has version 7 of 9".to_owned()],
    });
    report.roots.push(RootReport {
        certificate: certificate("root", 'c', 2 * HOUR, 3650 * DAY),
        role: RootRole::Coming,
        key: KeyPlace::Elsewhere,
        leaves: 0,
        connections: 0,
    });
    report.leaves_of_unknown_issuers = 3;
    report.renewal_error = Some("the command ended with 1".to_owned());
    let node = &mut report.nodes[1];
    (node.is_current, node.last_seen) = (false, Some(ago(3 * HOUR)));
    report.nodes.push(TrustNode {
        name: "worker-3".parse().unwrap(),
        last_seen: None,
        trust_version: None,
        is_current: false,
        leaves: 0,
        connections: 0,
        oldest_expiry: None,
        quarters: [0; 4],
        next_renewal: None,
    });
    report.foreign.push(ForeignReport {
        trust_domain: "partner.example".parse().unwrap(),
        roots: vec![certificate("root", 'd', DAY, 100 * DAY)],
        sequence: Some(3),
        refresh_hint: Some(300),
        fetched: ago(5 * DAY),
        is_stale: true,
        source: "/etc/martlet/partner.json".to_owned(),
        connections: 2,
    });
    let endpoint = |name: &str, profile| EndpointReport {
        trust_domain: name.parse().unwrap(),
        url: format!("https://{name}:15013/bundle"),
        profile,
        confirmed: None,
        looks: 3,
        looks_failed: 3,
        failure: None,
        is_removed: false,
        is_stale: true,
    };
    report.endpoints.push(EndpointReport {
        failure: Some(EndpointFailure {
            reason: "the endpoint cannot be reached: Connection refused".to_owned(),
            since: ago(HOUR),
            looks: 3,
        }),
        ..endpoint("new.example", EndpointProfile::HttpsSpiffe)
    });
    report.endpoints.push(EndpointReport {
        is_removed: true,
        ..endpoint("old.example", EndpointProfile::HttpsWeb)
    });
    report.quarantines.push(QuarantineReport {
        whom: "workload/prod.example/shop/cart-0".parse().unwrap(),
        since: ago(10 * 60),
        reason: "its image\nis not ours".to_owned(),
    });
    report
}

/// Says the same to whoever asks, and notes what was asked.
struct FakeController {
    directory: TempDir,
    asked: Arc<Mutex<Vec<String>>>,
}

impl FakeController {
    fn saying(answer: &impl Serialize) -> Self {
        Self::answering(ok(&serde_json::to_string(answer).unwrap()))
    }

    fn answering(answer: Vec<u8>) -> Self {
        let (directory, asked) = (TempDir::new().unwrap(), Arc::<Mutex<Vec<String>>>::default());
        let notes = asked.clone();
        serving(&directory.path().join("c.sock"), move |request| {
            let line = request.lines().next().unwrap_or_default();
            let body = request.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
            notes.lock().unwrap().push(format!("{} {body}", line.trim_end_matches(" HTTP/1.1")));
            answer.clone()
        });
        Self { directory, asked }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("c.sock")
    }

    fn martlet(&self, arguments: &[&str]) -> Output {
        let socket = self.socket();
        let mut all = vec!["--controller-socket", socket.to_str().unwrap()];
        all.extend(arguments);
        run(Path::new("/nowhere"), &all)
    }

    /// What a command printed, and what it has asked for.
    fn done(&self, arguments: &[&str]) -> (String, Vec<String>) {
        let output = self.martlet(arguments);
        assert!(output.status.success(), "{}", stderr(&output));
        (stdout(&output).to_owned(), std::mem::take(&mut *self.asked.lock().unwrap()))
    }
}

#[test]
fn trust_in_order_is_a_short_page() {
    let (page, asked) = FakeController::saying(&steady()).done(&["trust", "status"]);
    golden("trust-status", &page);
    assert_eq!(asked, ["GET /trust "]);
}

#[test]
fn a_rotation_says_what_it_waits_for_and_trouble_is_seen() {
    let controller = FakeController::saying(&troubled());
    golden("trust-status-rotating", &controller.done(&["trust", "status"]).0);
    golden("trust-list", &controller.done(&["trust", "list"]).0);
}

fn nodes() -> Nodes {
    let node = |name: &str, version, trust_version| NodeReport {
        name: name.parse().unwrap(),
        joined: ago(10 * DAY),
        is_connected: true,
        last_seen: Some(ago(2 * HOUR)),
        agent_version: Some("0.1.0".to_owned()),
        version: Some(version),
        trust_version: Some(trust_version),
        error: None,
        leaves: 12,
        connections: 40,
        clock: Some(Skew { ahead_ms: 1_200, within_ms: 3 }),
    };
    let mut away = node("worker-2", 39, 8);
    (away.is_connected, away.last_seen) = (false, Some(ago(3 * HOUR)));
    away.error = Some("workload shop/web: the namespace is gone".to_owned());
    away.clock = Some(Skew { ahead_ms: 42_500, within_ms: 3 });
    let mut unheard = node("worker-3", 0, 0);
    (unheard.is_connected, unheard.last_seen, unheard.agent_version) = (false, None, None);
    (unheard.version, unheard.trust_version, unheard.leaves) = (None, None, 0);
    let trust_domain = "prod.example".parse().unwrap();
    let nodes = vec![node("worker-1", 42, 9), away, unheard];
    Nodes { trust_domain, version: 42, trust_version: 9, nodes }
}

#[test]
fn nodes_are_shown_with_what_they_have_put_into_effect() {
    golden("nodes", &FakeController::saying(&nodes()).done(&["nodes"]).0);
    let none = Nodes { nodes: Vec::new(), ..nodes() };
    let (page, _) = FakeController::saying(&none).done(&["nodes"]);
    assert!(page.contains("martlet node join"), "{page}");
}

#[test]
fn who_lets_a_node_join_gets_all_that_the_host_needs() {
    let invitation = Invitation {
        node: "worker-4".parse().unwrap(),
        token: "martlet-join-1:worker-4:aa:bb".to_owned(),
        expires: ahead(HOUR),
        trust_domain: "prod.example".parse().unwrap(),
        controller: Some("controller.example.org:15012".to_owned()),
    };
    let controller = FakeController::saying(&invitation);
    let (page, asked) = controller.done(&["node", "join", "worker-4", "--valid", "90m"]);
    golden("node-join", &page);
    assert_eq!(asked, [r#"POST /nodes/join {"node":"worker-4","valid_seconds":5400}"#]);
    let (json, _) = controller.done(&["node", "join", "worker-4", "--output", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["token"], invitation.token.as_str());
}

#[test]
fn each_command_asks_for_what_it_says() {
    let controller = FakeController::saying(&nodes());
    let asks = |arguments: &[&str], wanted: &str| {
        let (said, asked) = controller.done(arguments);
        assert_eq!(asked.last().map(String::as_str), Some(wanted), "{arguments:?}");
        assert!(said.ends_with('\n'), "{said}");
    };
    asks(&["node", "remove", "worker-1"], r#"POST /nodes/remove {"node":"worker-1"}"#);
    asks(&["trust", "rotate"], "POST /trust/rotate null");
    asks(&["trust", "pause"], "POST /trust/pause null");
    asks(&["trust", "resume"], "POST /trust/resume null");
    asks(&["trust", "back"], "POST /trust/back null");
    asks(&["trust", "remove", "b.org"], r#"POST /trust/remove {"trust_domain":"b.org"}"#);
    asks(&["trust", "refresh", "b.org"], r#"POST /trust/refresh {"trust_domain":"b.org"}"#);
    for (kind, name, whom) in [
        ("cluster", "b.org", "cluster/b.org"),
        ("node", "worker-1", "node/prod.example/worker-1"),
        ("node", "b.org/worker-1", "node/b.org/worker-1"),
        ("workload", "shop/web", "workload/prod.example/shop/web"),
        ("workload", "b.org/shop/web", "workload/b.org/shop/web"),
        ("identity", "spiffe://b.org/ns/shop/sa/web", "identity/spiffe://b.org/ns/shop/sa/web"),
    ] {
        let wanted = format!(r#"POST /trust/quarantine {{"whom":"{whom}","reason":"why"}}"#);
        asks(&["trust", "quarantine", kind, name, "--reason", "why"], &wanted);
        let wanted = format!(r#"POST /trust/release {{"whom":"{whom}"}}"#);
        asks(&["trust", "release", kind, name], &wanted);
    }
    let bad = controller.martlet(&["trust", "quarantine", "cluster", "B.org"]);
    assert!(!bad.status.success());
    assert!(stderr(&bad).contains("names nobody to cut off"), "{}", stderr(&bad));
    let bad = controller.martlet(&["trust", "quarantine", "pod", "x"]);
    assert_eq!(bad.status.code(), Some(2));
}

#[test]
fn what_is_forced_is_said_to_have_broken_what_was_in_the_way() {
    let broken = vec!["worker-2 has version 7 of 9".to_owned()];
    let controller = FakeController::saying(&Advanced { broken });
    let (said, asked) = controller.done(&["trust", "rotate", "--force"]);
    assert_eq!(asked, ["POST /trust/force null"]);
    assert_eq!(said, "the next step was taken, although:\n  worker-2 has version 7 of 9\n");
}

#[test]
fn a_bundle_goes_out_as_it_is_and_comes_in_from_a_file() {
    let document = "{\n  \"keys\": []\n}".to_owned();
    let trust_domain = "b.org".parse().unwrap();
    let controller = FakeController::saying(&Export { trust_domain, document: document.clone() });
    let (said, _) = controller.done(&["trust", "export"]);
    assert_eq!(said, format!("{document}\n"));
    let roots = r#"{"keys": [{"x5c": ["TUFSVExFVA=="]}, {"kty": "EC"}]}"#.to_owned();
    let with_roots = Export { trust_domain: "b.org".parse().unwrap(), document: roots };
    let (said, _) = FakeController::saying(&with_roots).done(&["trust", "export", "--pem"]);
    assert_eq!(said, "-----BEGIN CERTIFICATE-----\nTUFSVExFVA==\n-----END CERTIFICATE-----\n");
    let file = controller.directory.path().join("b.json");
    std::fs::write(&file, &document).unwrap();
    let (_, asked) = controller.done(&["trust", "import", "b.org", file.to_str().unwrap()]);
    let body = asked[0].strip_prefix("POST /trust/import ").unwrap();
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!((&body["trust_domain"], &body["document"]), (&"b.org".into(), &document.into()));
    let missing = controller.martlet(&["trust", "import", "b.org", "/nowhere/b.json"]);
    assert!(stderr(&missing).contains("reading /nowhere/b.json"), "{}", stderr(&missing));
}

#[test]
fn without_a_controller_and_when_it_refuses_the_error_says_what_to_do() {
    let missing =
        run(Path::new("/nowhere"), &["--controller-socket", "/nowhere/c.sock", "trust", "status"]);
    assert!(!missing.status.success());
    let told = stderr(&missing);
    assert!(told.contains("no controller's socket") && told.contains("hint:"), "{told}");
    let answer =
        b"HTTP/1.1 409 Conflict\r\nContent-Length: 29\r\n\r\na rotation is under way\x1b[31m!\n";
    let refusing = FakeController::answering(answer.to_vec());
    let refused = refusing.martlet(&["trust", "rotate"]);
    assert_eq!(refused.status.code(), Some(1));
    let told = stderr(&refused);
    assert!(told.contains("a rotation is under way") && !told.contains('\x1b'), "{told}");
    let stranger = FakeController::answering(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec());
    let strange = stranger.martlet(&["nodes"]);
    assert!(stderr(&strange).contains("as a controller does"), "{}", stderr(&strange));
}
