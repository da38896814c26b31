//! What the authority issues, judged by openssl, and what it refuses.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    time::{Duration, SystemTime},
};

use martlet_authority::{Authority, LEAF_LIFETIME, LeafRequest};
use martlet_identity::{Csr, SigningKey, describe};
use martlet_model::{SpiffeId, TrustDomain, WorkloadName};
use tempfile::TempDir;

fn domain() -> TrustDomain {
    "prod.example".parse().unwrap()
}

fn request() -> LeafRequest {
    LeafRequest {
        identity: SpiffeId::for_workload(&domain(), "shop", "cart").unwrap(),
        workload: WorkloadName {
            namespace: "shop".parse().unwrap(),
            name: "cart-0".parse().unwrap(),
        },
        node: "one".parse().unwrap(),
        uid: None,
        lifetime: LEAF_LIFETIME,
    }
}

fn made() -> (TempDir, Authority) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("authority");
    Authority::init(&path, &domain()).unwrap();
    let authority = Authority::load(&path, &domain()).unwrap();
    (directory, authority)
}

fn openssl(directory: &Path, arguments: &str) -> String {
    let arguments = arguments.split(' ');
    let output = Command::new("openssl").args(arguments).current_dir(directory).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    format!("{text}{}", String::from_utf8_lossy(&output.stderr))
}

#[test]
fn openssl_accepts_an_issued_chain_and_reads_one_uri() {
    let (directory, authority) = made();
    let csr = SigningKey::generate().unwrap().csr().unwrap();
    let chain = authority.issue(&csr, &request(), SystemTime::now()).unwrap();
    let home = directory.path().join("authority");
    fs::write(home.join("leaf.der"), &chain.0[0]).unwrap();
    openssl(&home, "x509 -inform der -in leaf.der -out leaf.crt");
    let verdict =
        openssl(&home, "verify -x509_strict -CAfile root.crt -untrusted issuer.crt leaf.crt");
    assert_eq!(verdict.trim(), "leaf.crt: OK");
    let text = openssl(&home, "x509 -in leaf.crt -noout -text");
    assert!(text.contains("URI:spiffe://prod.example/ns/shop/sa/cart\n"), "{text}");
    assert_eq!(text.matches("URI:").count(), 1);
    assert!(text.contains("CA:FALSE") && text.contains("Digital Signature"), "{text}");
}

#[test]
fn a_leaf_lives_a_day_and_not_longer_than_asked() {
    let (_directory, authority) = made();
    let csr = SigningKey::generate().unwrap().csr().unwrap();
    let lifetime = |asked: Duration| {
        let request = LeafRequest { lifetime: asked, ..request() };
        let chain = authority.issue(&csr, &request, SystemTime::now()).unwrap();
        let report = describe(&chain.0[0]).unwrap();
        report.not_after - report.not_before
    };
    assert_eq!(lifetime(Duration::from_secs(600)), 660);
    assert_eq!(lifetime(Duration::from_secs(10 * 86_400)), 86_460);
}

#[test]
fn another_trust_domain_is_refused() {
    let (_directory, authority) = made();
    let csr = SigningKey::generate().unwrap().csr().unwrap();
    let identity = "spiffe://other.example/ns/shop/sa/cart".parse().unwrap();
    let request = LeafRequest { identity, ..request() };
    assert!(authority.issue(&csr, &request, SystemTime::now()).is_err());
}

#[test]
fn a_request_that_is_not_signed_by_its_key_is_refused() {
    let (_directory, authority) = made();
    let mut csr = SigningKey::generate().unwrap().csr().unwrap();
    let last = csr.0.len() - 1;
    csr.0[last] ^= 1;
    assert!(authority.issue(&csr, &request(), SystemTime::now()).is_err());
    assert!(authority.issue(&Csr(vec![]), &request(), SystemTime::now()).is_err());
    assert!(authority.issue(&Csr(vec![0; 1 << 20]), &request(), SystemTime::now()).is_err());
}

#[test]
fn names_in_a_request_are_ignored_and_other_keys_are_refused() {
    let (directory, authority) = made();
    let home = directory.path();
    let made = |key: &str| {
        openssl(home, &format!("{key} -out key.pem"));
        let arguments = "req -new -key key.pem -subj /CN=evil -outform der -out csr.der \
            -addext subjectAltName=URI:spiffe://prod.example/ns/kube-system/sa/root";
        openssl(home, &arguments.split_whitespace().collect::<Vec<_>>().join(" "));
        Csr(fs::read(home.join("csr.der")).unwrap())
    };
    let p256 = made("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256");
    let chain = authority.issue(&p256, &request(), SystemTime::now()).unwrap();
    let report = describe(&chain.0[0]).unwrap();
    assert_eq!(report.uris, ["spiffe://prod.example/ns/shop/sa/cart"]);
    assert!(!report.subject.contains("evil"), "{}", report.subject);
    for other in
        ["genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048", "genpkey -algorithm ED25519"]
    {
        assert!(authority.issue(&made(other), &request(), SystemTime::now()).is_err(), "{other}");
    }
}

#[test]
fn an_authority_is_never_overwritten_and_its_keys_are_private() {
    let (directory, _authority) = made();
    let home = directory.path().join("authority");
    let again = Authority::init(&home, &domain()).unwrap_err().to_string();
    assert!(again.contains("exists already"), "{again}");
    let mode = |name: &str| fs::metadata(home.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("root.key"), mode("issuer.key")), (0o600, 0o600));
    fs::set_permissions(home.join("issuer.key"), fs::Permissions::from_mode(0o640)).unwrap();
    let open = Authority::load(&home, &domain()).err().unwrap().to_string();
    assert!(open.contains("make it 0600"), "{open}");
}

#[test]
fn an_issuer_with_another_key_or_no_certificate_is_refused() {
    let (mine, _) = made();
    let (other, _) = made();
    let (mine, other) = (mine.path().join("authority"), other.path().join("authority"));
    fs::copy(other.join("issuer.key"), mine.join("issuer.key")).unwrap();
    let error = Authority::load(&mine, &domain()).err().unwrap().to_string();
    assert!(error.contains("another key"), "{error}");
    fs::write(mine.join("issuer.crt"), "nonsense").unwrap();
    let error = Authority::load(&mine, &domain()).err().unwrap().to_string();
    assert!(error.contains("PEM"), "{error}");
}

#[test]
fn an_issuer_of_another_root_with_the_same_name_is_refused() {
    let (mine, _) = made();
    let (other, _) = made();
    let (mine, other) = (mine.path().join("authority"), other.path().join("authority"));
    fs::copy(other.join("root.crt"), mine.join("root.crt")).unwrap();
    let error = Authority::load(&mine, &domain()).err().expect("the root signed nothing here");
    assert!(error.to_string().contains("not signed by this root"), "{error}");
}
