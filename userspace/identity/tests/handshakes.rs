//! Both sides of the handshake, against our own certificates and against odd ones from openssl.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, SystemTime},
};

use martlet_authority::{Authority, LEAF_LIFETIME, LeafRequest};
use martlet_identity::{
    Credentials, HandshakeError, Secured, SigningKey, Svid, TrustBundle, originate, originate_at,
    originate_saying, refused_by_peer, terminate,
};
use martlet_model::{Closed, SpiffeId, TrustDomain, WorkloadName};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

fn domain() -> TrustDomain {
    "prod.example".parse().unwrap()
}

fn id(account: &str) -> SpiffeId {
    SpiffeId::for_workload(&domain(), "shop", account).unwrap()
}

fn trust(authority: &Authority) -> Arc<TrustBundle> {
    Arc::new(TrustBundle::new([(domain(), authority.roots().to_vec())]).unwrap())
}

fn svid(authority: &Authority, account: &str) -> Svid {
    svid_for(authority, account, LEAF_LIFETIME)
}

fn svid_for(authority: &Authority, account: &str, lifetime: Duration) -> Svid {
    let key = SigningKey::generate().unwrap();
    let request = LeafRequest {
        identity: id(account),
        workload: WorkloadName {
            namespace: "shop".parse().unwrap(),
            name: account.parse().unwrap(),
        },
        node: "one".parse().unwrap(),
        uid: None,
        lifetime,
    };
    let chain = authority.issue(&key.csr().unwrap(), &request, SystemTime::now()).unwrap();
    Svid::new(&key, chain, &id(account)).unwrap()
}

fn credentials(authority: &Authority, account: &str) -> Credentials {
    let credentials = Credentials::new(id(account), trust(authority));
    credentials.install(svid(authority, account));
    credentials
}

type Outcome = Result<Secured<tokio::io::DuplexStream>, HandshakeError>;

async fn shake(
    caller: &Credentials,
    callee: &Credentials,
    expected: &SpiffeId,
) -> (Outcome, Outcome) {
    let (here, there) = tokio::io::duplex(64 * 1024);
    tokio::join!(originate(here, caller, expected), terminate(there, callee))
}

fn closed(outcome: Outcome) -> Closed {
    outcome.expect_err("the handshake is refused").closed()
}

#[tokio::test]
async fn two_workloads_of_a_domain_know_each_other() {
    let authority = Authority::ephemeral(&domain()).unwrap();
    let (cart, web) = (credentials(&authority, "cart"), credentials(&authority, "web"));
    let (here, there) = shake(&cart, &web, &id("web")).await;
    let (mut here, mut there) = (here.unwrap(), there.unwrap());
    assert_eq!(here.peer().identity(), &id("web"));
    assert_eq!(there.peer().identity(), &id("cart"));
    assert_eq!(here.facts().version, "TLSv1.3");
    assert_eq!(here.facts().cipher, "TLS13_AES_128_GCM_SHA256");
    assert_eq!(here.facts().key_exchange, "X25519MLKEM768");
    here.write_all(b"hello").await.unwrap();
    here.flush().await.unwrap();
    let mut word = [0; 5];
    there.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"hello");
}

#[tokio::test]
async fn what_the_caller_says_first_comes_with_the_end_of_its_handshake() {
    let authority = Authority::ephemeral(&domain()).unwrap();
    let (cart, web) = (credentials(&authority, "cart"), credentials(&authority, "web"));
    let (here, there) = tokio::io::duplex(64 * 1024);
    let (expected, now) = (id("web"), SystemTime::now());
    let (here, there) = tokio::join!(
        originate_saying(here, &cart, &expected, b"hello", now),
        terminate(there, &web)
    );
    let (_here, mut there) = (here.unwrap(), there.unwrap());
    let mut word = [0; 5];
    there.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"hello");
}

#[tokio::test]
async fn somebody_else_than_expected_is_refused_by_the_caller() {
    let authority = Authority::ephemeral(&domain()).unwrap();
    let (cart, web) = (credentials(&authority, "cart"), credentials(&authority, "web"));
    for expects_web_before in [false, true] {
        if expects_web_before {
            shake(&cart, &web, &id("web")).await.0.unwrap();
        }
        let (here, there) = shake(&cart, &web, &id("db")).await;
        assert_eq!(closed(here), Closed::PeerUnexpected);
        assert_eq!(closed(there), Closed::RefusedByPeer);
    }
}

#[tokio::test]
async fn a_chain_that_was_verified_is_refused_when_it_has_ended() {
    let authority = Authority::ephemeral(&domain()).unwrap();
    let (cart, web) = (credentials(&authority, "cart"), credentials(&authority, "web"));
    web.install(svid_for(&authority, "web", LEAF_LIFETIME / 2));
    let later = SystemTime::now() + LEAF_LIFETIME * 3 / 4;
    for (now, is_believed) in [(SystemTime::now(), true), (later, false)] {
        let (here, there) = tokio::io::duplex(64 * 1024);
        let expected = id("web");
        let (here, _) =
            tokio::join!(originate_at(here, &cart, &expected, now), terminate(there, &web));
        match is_believed {
            true => assert!(here.is_ok()),
            false => assert_eq!(closed(here), Closed::PeerExpired),
        }
    }
}

#[tokio::test]
async fn another_root_of_the_same_name_is_refused_by_both() {
    let mine = Authority::ephemeral(&domain()).unwrap();
    let other = Authority::ephemeral(&domain()).unwrap();
    let (cart, web) = (credentials(&other, "cart"), credentials(&mine, "web"));
    let (here, _) = shake(&cart, &web, &id("web")).await;
    assert_eq!(closed(here), Closed::PeerUntrusted);
    // A caller that trusts us, but whom we don't trust.
    cart.set_trust(trust(&mine));
    let (here, there) = shake(&cart, &web, &id("web")).await;
    assert_eq!(closed(there), Closed::PeerUntrusted);
    // TLS 1.3 lets the caller finish first: it learns of the refusal when it reads.
    let error = here.unwrap().read_u8().await.unwrap_err();
    assert!(refused_by_peer(&error), "{error}");
}

#[tokio::test]
async fn a_workload_without_a_certificate_says_so() {
    let authority = Authority::ephemeral(&domain()).unwrap();
    let (cart, web) =
        (Credentials::new(id("cart"), trust(&authority)), credentials(&authority, "web"));
    let (here, there) = shake(&cart, &web, &id("web")).await;
    assert_eq!(closed(here), Closed::OwnCertificateMissing);
    assert_eq!(closed(there), Closed::HandshakeFailed);
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_costs_ten_seconds_and_no_more() {
    let authority = Authority::ephemeral(&domain()).unwrap();
    let web = credentials(&authority, "web");
    let (_silent, there) = tokio::io::duplex(1024);
    assert_eq!(closed(terminate(there, &web).await), Closed::HandshakeTimedOut);
}

#[test]
fn a_chain_for_another_key_or_identity_is_not_installed() {
    let authority = Authority::ephemeral(&domain()).unwrap();
    let (mine, other) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
    let request = LeafRequest {
        identity: id("cart"),
        workload: WorkloadName { namespace: "shop".parse().unwrap(), name: "c".parse().unwrap() },
        node: "one".parse().unwrap(),
        uid: None,
        lifetime: LEAF_LIFETIME,
    };
    let chain = authority.issue(&mine.csr().unwrap(), &request, SystemTime::now()).unwrap();
    assert!(Svid::new(&other, chain.clone(), &id("cart")).is_err());
    assert!(Svid::new(&mine, chain.clone(), &id("web")).is_err());
    assert!(Svid::new(&mine, chain, &id("cart")).is_ok());
}

/// A caller made of openssl alone, with a certificate of any form.
struct Odd {
    directory: TempDir,
}

impl Odd {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        Authority::init(&directory.path().join("ca"), &domain()).unwrap();
        Self { directory }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn openssl(&self, arguments: &[&str]) {
        let output =
            Command::new("openssl").args(arguments).current_dir(self.path()).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {arguments:?}: {error}");
    }

    /// Signs a leaf with these extension lines, valid for these days.
    fn leaf(&self, key: &[&str], extensions: &str, days: &str) {
        self.openssl(&[&["genpkey", "-out", "leaf.key"], key].concat());
        self.openssl(&["req", "-new", "-key", "leaf.key", "-subj", "/CN=odd", "-out", "leaf.csr"]);
        fs::write(self.path().join("extensions"), extensions).unwrap();
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            "leaf.csr",
            "-CA",
            "ca/issuer.crt",
            "-CAkey",
            "ca/issuer.key",
            "-CAcreateserial",
            "-days",
            days,
            "-extfile",
            "extensions",
            "-out",
            "leaf.crt",
        ]);
    }

    /// Signs a leaf that is valid between two instants.
    fn leaf_between(&self, extensions: &str, start: &str, end: &str) {
        self.leaf(P256, extensions, "1");
        let config = "[ca]\ndefault_ca=d\n[d]\nnew_certs_dir=.\ndatabase=db\nserial=serial\n\
            default_md=sha256\npolicy=p\nunique_subject=no\n[p]\ncommonName=supplied\n";
        for (name, text) in [("config", config), ("db", ""), ("serial", "01\n")] {
            fs::write(self.path().join(name), text).unwrap();
        }
        self.openssl(&[
            "ca",
            "-batch",
            "-notext",
            "-config",
            "config",
            "-in",
            "leaf.csr",
            "-cert",
            "ca/issuer.crt",
            "-keyfile",
            "ca/issuer.key",
            "-startdate",
            start,
            "-enddate",
            end,
            "-extfile",
            "extensions",
            "-out",
            "leaf.crt",
        ]);
    }

    /// What the called side makes of a caller `openssl s_client` with these arguments.
    async fn outcome(&self, arguments: &[&str]) -> Closed {
        let authority = Authority::load(&self.path().join("ca"), &domain()).unwrap();
        let web = credentials(&authority, "web");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let directory: PathBuf = self.path().to_owned();
        let mut client = Command::new("openssl")
            .args(["s_client", "-connect", &address, "-CAfile", "ca/root.crt"])
            .args(arguments)
            .current_dir(directory)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let (stream, _): (TcpStream, _) = listener.accept().await.unwrap();
        let outcome = terminate(stream, &web).await;
        client.kill().unwrap();
        client.wait().unwrap();
        match outcome {
            Ok(_) => Closed::Finished,
            Err(error) => error.closed(),
        }
    }

    async fn with_leaf(&self, extensions: &str) -> Closed {
        self.leaf(P256, extensions, "1");
        self.outcome(WITH_LEAF).await
    }
}

const P256: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
const WITH_LEAF: &[&str] = &[
    "-cert",
    "leaf.crt",
    "-key",
    "leaf.key",
    "-cert_chain",
    "ca/issuer.crt",
    "-alpn",
    "martlet-lane/1",
];
const GOOD: &str = "basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\n";
const CART: &str = "subjectAltName=URI:spiffe://prod.example/ns/shop/sa/cart\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_good_certificate_of_openssl_is_taken() {
    assert_eq!(Odd::new().with_leaf(&format!("{GOOD}{CART}")).await, Closed::Finished);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_without_exactly_one_spiffe_id_are_refused() {
    let odd = Odd::new();
    for names in [
        "",
        "subjectAltName=DNS:prod.example\n",
        "subjectAltName=email:spiffe@prod.example\n",
        "subjectAltName=URI:spiffe://prod.example/ns/a/sa/a,URI:spiffe://prod.example/ns/b/sa/b\n",
        "subjectAltName=URI:https://prod.example/,URI:spiffe://prod.example/ns/a/sa/a\n",
        "subjectAltName=URI:spiffe://prod.example\n",
        "subjectAltName=URI:spiffe://prod.example/ns//sa/a\n",
        "subjectAltName=URI:spiffe://prod.example/ns/../sa/a\n",
        "subjectAltName=URI:spiffe://prod.example/ns/%61/sa/a\n",
        "subjectAltName=URI:spiffe://prod.example:1/ns/a/sa/a\n",
        "subjectAltName=URI:spiffe://prod.example/ns/a/sa/a/\n",
        "subjectAltName=URI:spiffe://prod.example/ns/a/sa/a?x\n",
    ] {
        let closed = odd.with_leaf(&format!("{GOOD}{names}")).await;
        assert_eq!(closed, Closed::PeerIdentityInvalid, "{names}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_for_something_else_are_refused() {
    let odd = Odd::new();
    for (form, reason) in [
        (format!("basicConstraints=CA:TRUE\n{CART}"), Closed::PeerUntrusted),
        (
            format!("basicConstraints=CA:FALSE\nkeyUsage=keyAgreement\n{CART}"),
            Closed::PeerUntrusted,
        ),
        (format!("{GOOD}extendedKeyUsage=codeSigning\n{CART}"), Closed::PeerUntrusted),
        (
            format!("{GOOD}subjectAltName=URI:spiffe://prod.example.evil/ns/a/sa/a\n"),
            Closed::PeerWrongTrustDomain,
        ),
    ] {
        assert_eq!(odd.with_leaf(&form).await, reason, "{form}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_out_of_their_time_are_refused() {
    let odd = Odd::new();
    for (start, end) in
        [("20200101000000Z", "20200102000000Z"), ("20480101000000Z", "20490101000000Z")]
    {
        odd.leaf_between(&format!("{GOOD}{CART}"), start, end);
        assert_eq!(odd.outcome(WITH_LEAF).await, Closed::PeerExpired, "{start}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_without_certificate_protocol_or_tls_1_3_are_refused() {
    let odd = Odd::new();
    assert_eq!(odd.outcome(&["-alpn", "martlet-lane/1"]).await, Closed::PeerWithoutCertificate);
    odd.leaf(P256, &format!("{GOOD}{CART}"), "1");
    let without = &WITH_LEAF[..6];
    assert_eq!(odd.outcome(without).await, Closed::PeerWithoutProtocol);
    let other = [without, &["-alpn", "h2"]].concat();
    assert_eq!(odd.outcome(&other).await, Closed::PeerWithoutProtocol);
    let old = [WITH_LEAF, &["-tls1_2"]].concat();
    assert_eq!(odd.outcome(&old).await, Closed::HandshakeFailed);
}
