//! Who gets a certificate: every combination of node, workload, state and answer; races; floods.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fmt::Display,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use martlet_authority::{
    Ask, Attested, Attestor, Denied,
    log::{Event, Line, verify},
};
use martlet_identity::{Csr, describe};
use martlet_lab::evidence;
use martlet_model::{Label, Part, WorkloadName};
use support::{World, ask, attested, csr, identity, label, office, openssl_csr, outcome, workload};
use tempfile::TempDir;

const NODES: [&str; 4] = ["one", "two", "one.evil", "unknown"];
const WORKLOADS: [&str; 5] = ["shop/cart", "shop/gone", "shop/ending", "shop/moved", "pay/cart"];

/// Written down by hand, node by node: what each of the five workloads may have there. `cart` runs on
/// `one`, `moved` has gone from `one` to `two`, `pay/cart` runs on `two` with an account of `shop`.
const RUNNING: [[&str; 5]; 4] = [
    ["issued", "unknown_workload", "workload_ending", "other_node", "other_node"],
    ["other_node", "unknown_workload", "other_node", "issued", "identity"],
    ["other_node", "unknown_workload", "other_node", "other_node", "other_node"],
    ["other_node", "unknown_workload", "other_node", "other_node", "other_node"],
];

struct Cluster;

impl Attestor for Cluster {
    async fn attest(&self, node: &Label, name: &WorkloadName) -> Result<Attested, Denied> {
        let (runs_on, state) = match name.to_string().as_str() {
            "shop/cart" => ("one", Ok(attested("cart", "one", "u-1"))),
            "shop/ending" => ("one", Err(Denied::Ending)),
            "shop/moved" => ("two", Ok(attested("moved", "two", "u-3"))),
            "pay/cart" => ("two", Ok(attested("cart", "two", "u-4"))),
            _ => return Err(Denied::UnknownWorkload),
        };
        match node.as_str() == runs_on {
            true => state,
            false => Err(Denied::OtherNode),
        }
    }
}

#[tokio::test]
async fn a_node_gets_certificates_for_what_runs_on_it_and_for_nothing_else() {
    let office = office(Cluster);
    let mut combinations = 0;
    for (node, wanted) in NODES.iter().zip(RUNNING) {
        let asks = WORKLOADS.iter().map(|name| ask(name)).collect();
        let answers = office.batch(node, asks, SystemTime::now()).await;
        for ((name, wanted), answer) in WORKLOADS.iter().zip(wanted).zip(&answers) {
            assert_eq!(outcome(answer), wanted, "{name} on {node}");
            if let Ok(chain) = answer {
                let leaf = describe(&chain.0[0]).unwrap();
                let account = name.split_once('/').unwrap().1;
                assert_eq!(leaf.uris, [format!("spiffe://prod.example/ns/shop/sa/{account}")]);
                assert!(leaf.subject.contains(&format!("CN={name}")), "{}", leaf.subject);
                assert!(leaf.subject.contains(&format!("OU={node}")), "{}", leaf.subject);
            }
            combinations += 1;
        }
    }
    assert_eq!(combinations, 20);
    let test = "a_node_gets_certificates_for_what_runs_on_it_and_for_nothing_else";
    evidence(test, &[("combinations", &combinations), ("wrong", &0)]).unwrap();
}

/// The other half of the combinations: what an attestor may answer, whoever asks.
#[tokio::test]
async fn an_attestor_is_believed_only_as_far_as_its_answer_fits() {
    let world = World::default();
    let office = office(&world);
    let good = attested("cart", "one", "u-1");
    let of = |uri: &str| Attested { identity: identity(uri), ..good.clone() };
    let on = |node: &str| Attested { node: label(node), ..good.clone() };
    let answers: [(&str, Result<Attested, Denied>, &str); 20] = [
        ("as it is", Ok(good.clone()), "issued"),
        ("without a UID", Ok(Attested { uid: None, ..good.clone() }), "issued"),
        ("another account", Ok(of("spiffe://prod.example/ns/shop/sa/web")), "issued"),
        ("another node", Ok(on("two")), "other_node"),
        ("a node that looks alike", Ok(on("one.evil")), "other_node"),
        ("another trust domain", Ok(of("spiffe://evil.example/ns/shop/sa/cart")), "identity"),
        ("one that looks alike", Ok(of("spiffe://prod.example.evil/ns/shop/sa/cart")), "identity"),
        ("below ours", Ok(of("spiffe://a.prod.example/ns/shop/sa/cart")), "identity"),
        ("another namespace", Ok(of("spiffe://prod.example/ns/pay/sa/cart")), "identity"),
        ("a prefix of it", Ok(of("spiffe://prod.example/ns/sho/sa/cart")), "identity"),
        ("a longer path", Ok(of("spiffe://prod.example/ns/shop/sa/cart/x")), "identity"),
        ("a shorter path", Ok(of("spiffe://prod.example/ns/shop")), "identity"),
        ("the controller", Ok(of("spiffe://prod.example/martlet/controller")), "identity"),
        ("a node itself", Ok(of("spiffe://prod.example/martlet/node/one")), "identity"),
        ("nothing", Err(Denied::UnknownWorkload), "unknown_workload"),
        ("not there", Err(Denied::OtherNode), "other_node"),
        ("no such node", Err(Denied::UnknownNode), "unknown_node"),
        ("ending", Err(Denied::Ending), "workload_ending"),
        ("not enrolled", Err(Denied::NotEnrolled), "not_enrolled"),
        ("no idea", Err(Denied::Unavailable("it restarts".to_owned())), "attestor_unavailable"),
    ];
    for (what, answer, wanted) in answers {
        *world.fixed.lock().unwrap() = Some(answer);
        let answer = office.ask("one", ask("shop/cart"), SystemTime::now()).await;
        assert_eq!(outcome(&answer), wanted, "{what}");
    }
    let verdict = verify(office.directory.path(), None).unwrap();
    assert_eq!((verdict.issued, verdict.refused, verdict.problems.len()), (3, 17, 0));
    let test = "an_attestor_is_believed_only_as_far_as_its_answer_fits";
    evidence(test, &[("combinations", &20), ("wrong", &0)]).unwrap();
}

#[tokio::test]
async fn a_key_of_another_kind_is_refused_with_its_own_reason() {
    let office = office(Cluster);
    let place = TempDir::new().unwrap();
    let ec = |curve: &str| format!("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:{curve}");
    let compressed = " -pkeyopt ec_param_enc:explicit";
    for (key, wanted) in [
        (ec("P-256"), "issued"),
        (ec("P-384"), "issued"),
        (ec("P-521"), "key_p521"),
        (ec("secp256k1"), "key_curve"),
        (ec("brainpoolP256r1"), "key_curve"),
        (ec("P-256") + compressed, "key_curve"),
        ("genpkey -algorithm ED25519".to_owned(), "key_ed25519"),
        ("genpkey -algorithm ED448".to_owned(), "key_kind"),
        ("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048".to_owned(), "key_rsa"),
    ] {
        let csr = openssl_csr(place.path(), &key);
        let ask = Ask { workload: workload("shop/cart"), csr };
        let answer = office.ask("one", ask, SystemTime::now()).await;
        assert_eq!(outcome(&answer), wanted, "{key}");
        if let Ok(chain) = answer {
            fs::write(place.path().join("leaf.der"), &chain.0[0]).unwrap();
            let text = support::openssl(place.path(), "x509 -inform der -in leaf.der -noout -text");
            assert!(text.contains("CA:FALSE") && !text.contains("evil"), "{text}");
            assert!(!text.contains("kube-system"), "{text}");
            let of = |arguments: &str| support::openssl(place.path(), arguments);
            let key = of("pkey -in key.pem -pubout");
            assert_eq!(of("x509 -inform der -in leaf.der -noout -pubkey"), key);
        }
    }
}

#[tokio::test]
async fn a_request_that_is_no_proof_is_refused() {
    let office = office(Cluster);
    let forged = |at: usize| {
        let mut csr = csr();
        let at = at.min(csr.0.len() - 1);
        csr.0[at] ^= 1;
        csr
    };
    let mut longer = csr();
    longer.0.push(0);
    for (csr, wanted) in [
        (forged(usize::MAX), "csr_not_proven"),
        (longer, "csr_unreadable"),
        (Csr(vec![]), "csr_unreadable"),
        (Csr(vec![0x30; 8192]), "csr_unreadable"),
        (Csr(vec![0x30; 8193]), "csr_too_long"),
        (Csr(vec![0; 8 << 20]), "csr_too_long"),
    ] {
        let ask = Ask { workload: workload("shop/cart"), csr: csr.clone() };
        assert_eq!(outcome(&office.ask("one", ask, SystemTime::now()).await), wanted);
        let node = Part::Node(label("one"));
        let issue = office.registrar.issue_part(&office.authority, &node, &csr, SystemTime::now());
        assert_eq!(issue.await.unwrap_err().code(), wanted);
    }
}

/// Whatever is issued was so at a moment while it was issued: each move has a number, and so has
/// each ask a first and a last number that it can have seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_moves_and_deletions_give_no_wrong_certificate() {
    const MOVES: u64 = 10_000;
    let world: &'static World = Box::leak(Box::default());
    let office = office(world);
    let (moves, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mover = {
        let (moves, is_over) = (moves.clone(), is_over.clone());
        tokio::spawn(async move {
            for number in 1..=MOVES {
                {
                    let mut running = world.running.lock().unwrap();
                    match place(number) {
                        Some(node) => {
                            let uid = number.to_string();
                            running.insert(workload("shop/cart"), attested("cart", node, &uid));
                        }
                        None => drop(running.remove(&workload("shop/cart"))),
                    }
                    moves.store(number, Ordering::SeqCst);
                }
                // Before the next move it is asked for none to three times: a certificate takes two.
                let until = world.asked.load(Ordering::SeqCst) + number % 4;
                while world.asked.load(Ordering::SeqCst) < until {
                    tokio::task::yield_now().await;
                }
            }
            is_over.store(true, Ordering::SeqCst);
        })
    };
    let (csr, mut asked, mut issued, mut changed) = (csr(), 0u64, 0u64, 0u64);
    while !is_over.load(Ordering::SeqCst) {
        let node = ["one", "two"][asked as usize % 2];
        let first = moves.load(Ordering::SeqCst);
        let ask = Ask { workload: workload("shop/cart"), csr: csr.clone() };
        // As fast as a node may ask.
        let now = SystemTime::now() + Duration::from_millis(32 * asked);
        let answer = office.ask(node, ask, now).await;
        let last = moves.load(Ordering::SeqCst);
        asked += 1;
        match answer {
            Ok(chain) => {
                let subject = describe(&chain.0[0]).unwrap().subject;
                assert!(subject.contains(&format!("OU={node}")), "{subject} for {node}");
                let uid = subject.rsplit_once("uid=").map(|(_, uid)| uid.to_owned());
                let number = uid.unwrap_or_else(|| panic!("no UID in {subject}")).parse().unwrap();
                assert_eq!(place(number), Some(node), "{subject}");
                assert!((first..=last).contains(&number), "{number} in {first}..={last}");
                issued += 1;
            }
            Err(refusal) => changed += u64::from(refusal.code() == "changed"),
        }
    }
    mover.await.unwrap();
    assert!(issued >= 500 && changed >= 100, "{issued} issued, {changed} changed meanwhile");
    let test = "ten_thousand_moves_and_deletions_give_no_wrong_certificate";
    let figures: [(&str, &dyn Display); 5] = [
        ("moves", &MOVES),
        ("asks", &asked),
        ("issued", &issued),
        ("refused for a change meanwhile", &changed),
        ("wrong", &0),
    ];
    evidence(test, &figures).unwrap();
}

/// Where the workload is after so many moves.
fn place(number: u64) -> Option<&'static str> {
    [Some("one"), Some("two"), None][number as usize % 3]
}

#[tokio::test]
async fn a_change_between_both_answers_is_a_refusal() {
    struct Fickle(AtomicU64);
    impl Attestor for Fickle {
        async fn attest(&self, node: &Label, _: &WorkloadName) -> Result<Attested, Denied> {
            let uid = self.0.fetch_add(1, Ordering::SeqCst);
            Ok(attested("cart", node.as_str(), &uid.to_string()))
        }
    }
    let office = office(Fickle(AtomicU64::new(0)));
    let answer = office.ask("one", ask("shop/cart"), SystemTime::now()).await;
    assert_eq!(outcome(&answer), "changed");
    assert_eq!(verify(office.directory.path(), None).unwrap().issued, 0);
}

#[tokio::test(start_paused = true)]
async fn an_attestor_without_an_answer_is_not_waited_for() {
    struct Silent;
    impl Attestor for Silent {
        async fn attest(&self, _: &Label, _: &WorkloadName) -> Result<Attested, Denied> {
            std::future::pending().await
        }
    }
    let office = office(Silent);
    let (started, asks) = (tokio::time::Instant::now(), vec![ask("shop/cart"); 250]);
    for answer in office.batch("one", asks, SystemTime::now()).await {
        assert_eq!(outcome(&answer), "attestor_unavailable");
    }
    assert!(started.elapsed() < Duration::from_secs(30), "all of them together");
}

#[tokio::test]
async fn a_flood_costs_its_node_only_and_few_lines() {
    let office = office(Cluster);
    let (now, csr) = (SystemTime::now(), csr());
    let mut refused = 0;
    for _ in 0..40 {
        let ask = Ask { workload: workload("shop/cart"), csr: csr.clone() };
        let asks = vec![ask; 1000];
        let answers = office.batch("two", asks, now).await;
        refused += answers.iter().filter(|answer| answer.is_err()).count();
    }
    assert_eq!(refused, 40_000);
    assert_eq!(outcome(&office.ask("one", ask("shop/cart"), now).await), "issued");
    let verdict = verify(office.directory.path(), None).unwrap();
    assert_eq!(verdict.problems, []);
    assert!(verdict.head.sequence < 1200, "{} lines", verdict.head.sequence);
}

#[tokio::test]
async fn a_node_that_starts_gets_250_certificates_at_once() {
    let world = World::default();
    let office = office(&world);
    let names: Vec<_> = (0..250).map(|number| format!("shop/cart-{number}")).collect();
    names.iter().for_each(|name| world.run(name, attested("cart", "one", name)));
    let asks = names.iter().map(|name| ask(name)).collect();
    let answers = office.batch("one", asks, SystemTime::now()).await;
    for (name, answer) in names.iter().zip(&answers) {
        let subject = describe(&answer.as_ref().unwrap().0[0]).unwrap().subject;
        assert!(subject.contains(&format!("CN={name},")), "{subject}");
    }
    let text = fs::read_to_string(log_file(office.directory.path())).unwrap();
    assert_eq!(text.lines().count(), 250);
}

#[tokio::test]
async fn every_decision_is_a_line_without_secrets() {
    let office = office(Cluster);
    let asks = vec![ask("shop/cart"), ask("shop/gone")];
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000);
    let late = office.batch("one", asks.clone(), now).await;
    assert_eq!(outcome(&late[0]), "cannot_sign", "the issuer is not valid then");
    let now = SystemTime::now();
    let answers = office.batch("one", asks, now).await;
    let leaf = describe(&answers[0].as_ref().unwrap().0[0]).unwrap();
    let text = fs::read_to_string(log_file(office.directory.path())).unwrap();
    let lines: Vec<Line> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 4);
    let Event::Issued { node, workload, identity, serial, fingerprint, not_after, uid, .. } =
        &lines[2].event
    else {
        panic!("{:?}", lines[2]);
    };
    assert_eq!((node.as_str(), workload.as_deref()), ("one", Some("shop/cart")));
    assert_eq!(identity.as_ref().unwrap().as_str(), leaf.uris[0]);
    assert_eq!((serial, fingerprint), (&leaf.serial, &leaf.fingerprint));
    assert_eq!((*not_after, uid.as_deref()), (leaf.not_after, Some("u-1")));
    let head = office.registrar.sync().await.unwrap();
    assert_eq!(head.sequence, 4);
    assert!(verify(office.directory.path(), Some(&head)).unwrap().is_whole());
    let Event::Refused { reason, .. } = &lines[3].event else { panic!("{:?}", lines[3]) };
    assert_eq!(reason, "unknown_workload");
    assert!(!text.contains("PRIVATE") && !text.contains("REQUEST"));
}

fn log_file(directory: &std::path::Path) -> std::path::PathBuf {
    directory.join("issuance-00000000000000000001.log")
}
