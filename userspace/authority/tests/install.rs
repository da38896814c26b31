//! An issuer whose root is kept elsewhere: what comes in is looked at completely.

#![allow(clippy::unwrap_used)]

mod support;

use std::{fs, path::PathBuf, sync::Arc, time::SystemTime};

use martlet_authority::{Authority, NewRoot, sign_issuer};
use martlet_identity::{Chain, TrustBundle, verify_chain};
use support::{days, domain, openssl};
use tempfile::TempDir;

/// The keeper's directory, and the authority's without the root's key.
struct Offline {
    place: TempDir,
}

impl Offline {
    fn new() -> Self {
        let place = TempDir::new().unwrap();
        let made = Self { place };
        Authority::init(&made.at("vault"), &domain()).unwrap();
        let root = NewRoot::from_files(&made.at("vault/root.crt"), None).unwrap();
        let is_whole =
            Authority::init_below(&made.at("online"), &domain(), root, SystemTime::now());
        assert!(!is_whole.unwrap());
        made
    }

    fn at(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn request(&self) -> String {
        let request = Authority::request(&self.at("online"), &domain()).unwrap();
        fs::write(self.at("issuer.csr"), &request).unwrap();
        request
    }

    /// Has the request signed with openssl, with these extensions, in `issuer.crt`.
    fn sign(&self, days: u32, extensions: &str) -> Vec<u8> {
        fs::write(self.at("extensions"), extensions).unwrap();
        let arguments = format!(
            "x509 -req -in issuer.csr -CA vault/root.crt -CAkey vault/root.key -days {days} \
             -extfile extensions -out issuer.crt"
        );
        let said =
            openssl(self.place.path(), &arguments.split_whitespace().collect::<Vec<_>>().join(" "));
        fs::read(self.at("issuer.crt")).expect(&said)
    }

    fn install(&self, certificate: &[u8], may_last_long: bool) -> Result<(), String> {
        let now = SystemTime::now();
        let installed =
            Authority::install(&self.at("online"), &domain(), certificate, may_last_long, now);
        installed.map_err(|error| error.to_string())
    }
}

const GOOD: &str = "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign\n";

#[test]
fn what_was_asked_for_is_installed_and_replaced_by_the_next() {
    let offline = Offline::new();
    let (mut before, now) = (vec![], SystemTime::now());
    for round in 0..3 {
        let request = offline.request();
        let signed = match round {
            0 => offline.sign(7, GOOD),
            _ => sign_issuer(&offline.at("vault"), &domain(), request.as_bytes(), now)
                .unwrap()
                .into(),
        };
        offline.install(&signed, false).unwrap();
        let authority = Authority::load(&offline.at("online"), &domain()).unwrap();
        assert_ne!(authority.issuer(), before);
        assert_eq!(authority.lasts().unwrap().renews, None);
        before = authority.issuer().to_vec();
        assert!(offline.install(&signed, false).unwrap_err().contains("issuer.key.next"));
    }
}

#[test]
fn whatever_is_wrong_with_it_is_named_and_nothing_changes() {
    let offline = Offline::new();
    offline.request();
    offline.install(&offline.sign(7, GOOD), false).unwrap();
    let before = Authority::load(&offline.at("online"), &domain()).unwrap();
    offline.request();
    let none = "basicConstraints=critical,CA:TRUE,pathlen:0\n";
    for (days, extensions, why) in [
        (7, GOOD.replace("CA:TRUE,pathlen:0", "CA:FALSE"), "no authority's certificate"),
        (7, GOOD.replace(",pathlen:0", ""), "path length 0"),
        (7, GOOD.replace("pathlen:0", "pathlen:1"), "path length 0"),
        (7, "keyUsage=critical,keyCertSign\n".to_owned(), "no basic constraints"),
        (7, GOOD.replace("keyCertSign", "digitalSignature"), "keyCertSign"),
        (7, none.to_owned(), "keyCertSign"),
        (8, GOOD.to_owned(), "lives longer than 7 days"),
        (
            7,
            format!("{GOOD}nameConstraints=critical,permitted;URI:prod.example\n"),
            "not signed by this root",
        ),
    ] {
        let refused = offline.install(&offline.sign(days, &extensions), false).unwrap_err();
        assert!(refused.contains(why), "{extensions}: {refused}");
    }
    assert!(offline.install(&offline.sign(367, GOOD), true).unwrap_err().contains("366 days"));
    // Another request's, and another root's.
    let other = Offline::new();
    other.request();
    let of_another = other.sign(7, GOOD);
    assert!(offline.install(&of_another, false).unwrap_err().contains("another key"));
    fs::copy(offline.at("issuer.csr"), other.at("issuer.csr")).unwrap();
    let by_another = other.sign(7, GOOD);
    assert!(offline.install(&by_another, false).unwrap_err().contains("not signed by this root"));
    let twice = [offline.sign(7, GOOD), of_another].concat();
    assert!(offline.install(&twice, false).unwrap_err().contains("one certificate"));
    for nonsense in
        [&b""[..], b"nonsense", b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"]
    {
        assert!(offline.install(nonsense, false).is_err());
    }
    let after = Authority::load(&offline.at("online"), &domain()).unwrap();
    assert_eq!(after.issuer(), before.issuer());
    offline.install(&offline.sign(366, GOOD), true).unwrap();
}

/// Below the issuer of an authority, by openssl with the issuer's own key.
fn leaf_with(names: &str, constraints: Option<&str>) -> (String, Result<(), String>) {
    let offline = Offline::new();
    let home = offline.place.path();
    let run = |arguments: &str| {
        openssl(home, &arguments.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    if let Some(constraints) = constraints {
        offline.request();
        offline.sign(7, &format!("{GOOD}nameConstraints=critical,{constraints}\n"));
        fs::copy(offline.at("issuer.crt"), offline.at("vault/issuer.crt")).unwrap();
        fs::copy(offline.at("online/issuer.key.next"), offline.at("vault/issuer.key")).unwrap();
    }
    run("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out leaf.pem");
    run("req -new -key leaf.pem -subj /CN=x -out leaf.csr");
    let usage = "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n";
    fs::write(offline.at("leaf.ext"), format!("{usage}subjectAltName={names}\n")).unwrap();
    run("x509 -req -in leaf.csr -CA vault/issuer.crt -CAkey vault/issuer.key -days 1
         -extfile leaf.ext -out leaf.crt");
    let verdict = run("verify -CAfile vault/root.crt -untrusted vault/issuer.crt leaf.crt");
    let der = |name: &str| {
        run(&format!("x509 -in {name} -outform der -out der"));
        fs::read(offline.at("der")).unwrap()
    };
    let chain = Chain(vec![der("leaf.crt"), der("vault/issuer.crt")]);
    let trust = TrustBundle::new([(domain(), vec![der("vault/root.crt")])]).unwrap();
    let ours = verify_chain(&chain, Arc::new(trust), SystemTime::now() + days(0));
    (verdict, ours.map_err(|problem| problem.to_string()))
}

const URI: &str = "URI:spiffe://prod.example/ns/shop/sa/cart";

#[test]
fn an_issuer_signs_for_no_host_name_and_no_address() {
    let (openssl, ours) = leaf_with(URI, None);
    assert!(openssl.contains("leaf.crt: OK") && ours.is_ok(), "{openssl}{ours:?}");
    for name in ["DNS:www.example.com", "DNS:a.prod.example", "IP:10.0.0.1", "IP:fd00::1"] {
        let (openssl, ours) = leaf_with(&format!("{URI},{name}"), None);
        assert!(openssl.contains("excluded subtree violation"), "{name}: {openssl}");
        assert!(ours.unwrap_err().contains("NameConstraintViolation"), "{name}");
    }
}

/// When this fails, the verifier has learned it, and issuers can be constrained to their domain's
/// URIs.
#[test]
fn no_chain_with_a_constraint_on_uris_is_accepted_by_our_verifier() {
    for constraints in ["permitted;URI:prod.example", "permitted;URI:.prod.example"] {
        let (_, ours) = leaf_with(URI, Some(constraints));
        assert!(ours.unwrap_err().contains("NameConstraintViolation"), "{constraints}");
    }
    let (openssl, _) = leaf_with(URI, Some("permitted;URI:prod.example"));
    assert!(openssl.contains("leaf.crt: OK"), "openssl honors it: {openssl}");
    let (openssl, _) =
        leaf_with("URI:spiffe://other.example/ns/shop/sa/cart", Some("permitted;URI:prod.example"));
    assert!(openssl.contains("permitted subtree violation"), "{openssl}");
}
