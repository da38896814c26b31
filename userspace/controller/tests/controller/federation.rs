//! Other trust domains: controllers that follow each other, and endpoints that are not to be believed.

use std::{fs, net::SocketAddr, sync::Arc, time::SystemTime};

use bytes::Bytes;
use martlet_authority::{Authority, LEAF_LIFETIME};
use martlet_federation::{BundleServer, ServedBy};
use martlet_identity::{BundleDocument, Credentials, SigningKey, Svid, TrustBundle};
use martlet_model::{Part, TrustDomain};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::process::Controller;

fn followed(of: &str, at: SocketAddr) -> String {
    format!(
        "federation:\n- trustDomain: {of}\n  url: https://{at}/bundle\n  profile: https_spiffe\n  \
         spiffeId: spiffe://{of}/martlet/controller\n"
    )
}

fn published(at: SocketAddr) -> String {
    format!("bundleEndpoint:\n  listen: \"{at}\"\n")
}

/// The fingerprints of the roots of another domain that are trusted.
fn roots(controller: &Controller, domain: &str) -> Vec<String> {
    let trust = controller.json("/trust");
    let foreign = trust["foreign"].as_array().unwrap().iter();
    let of = foreign.filter(|one| one["trust_domain"] == domain);
    let roots = of.flat_map(|one| one["roots"].as_array().unwrap().clone());
    roots.map(|root| root["fingerprint"].as_str().unwrap().to_owned()).collect()
}

fn own_roots(controller: &Controller) -> Vec<String> {
    let trust = controller.json("/trust");
    let roots = trust["roots"].as_array().unwrap().iter();
    roots.map(|root| root["certificate"]["fingerprint"].as_str().unwrap().to_owned()).collect()
}

fn import(to: &Controller, domain: &str, document: &Value) {
    let body = json!({ "trust_domain": domain, "document": document, "source": "by hand" });
    to.tell("/trust/import", &body);
}

fn refresh(controller: &Controller, domain: &str) -> (u16, String) {
    controller.post("/trust/refresh", &json!({ "trust_domain": domain }))
}

fn endpoint(controller: &Controller) -> Value {
    controller.json("/trust")["endpoints"][0].clone()
}

fn counted(controller: &Controller, line: &str) -> bool {
    controller.over_tcp("GET", "/metrics").1.lines().any(|found| found == line)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_controllers_follow_each_other_and_a_root_that_one_rotates_arrives_in_the_other() {
    let (mut a, mut b) = (Controller::prepare("a.org"), Controller::prepare("b.org"));
    a.configure(&(followed("b.org", b.bundles) + &published(a.bundles)));
    b.configure(&(followed("a.org", a.bundles) + &published(b.bundles)));
    a.launch();
    b.launch();
    let failure = endpoint(&b)["failure"]["reason"].clone();
    assert!(failure.as_str().unwrap().contains("martlet trust import a.org FILE"), "{failure}");
    assert!(counted(&b, "martlet_controller_bundle_endpoints_stale 1"));

    for (from, to, domain) in [(&a, &b, "a.org"), (&b, &a, "b.org")] {
        import(to, domain, &from.json("/trust/export")["document"]);
        // With a bundle that proves the endpoint it is asked at once.
        to.until("the endpoint is believed", |to| !endpoint(to)["confirmed"].is_null()).await;
        assert_eq!(roots(to, domain), own_roots(from));
        assert_eq!(refresh(to, domain).0, 200);
    }
    assert!(counted(&b, "martlet_controller_bundle_endpoints_stale 0"));
    assert!(counted(&b, "martlet_controller_bundle_endpoints_failing 0"));
    b.tell("/trust/quarantine", &json!({ "whom": "cluster/a.org" }));

    let (one, old) = (b.node("one"), own_roots(&a));
    one.until_told(|all| all.trust.roots.len() == 2).await;
    a.tell("/trust/rotate", &Value::Null);
    a.tell("/trust/pause", &Value::Null);
    assert_eq!(refresh(&b, "a.org").0, 200);
    assert_eq!(roots(&b, "a.org"), own_roots(&a));
    let domain: TrustDomain = "a.org".parse().unwrap();
    one.until_told(|all| all.trust.roots[&domain].len() == 2).await;
    // The endpoint itself is proven by the new root from here on.
    for _ in 0..2 {
        a.tell("/trust/force", &Value::Null);
    }
    a.until("the old root is retired", |a| a.rotation().is_null()).await;
    a.until("the endpoint is proven by the new one", |_| refresh(&b, "a.org").0 == 200).await;
    assert_eq!(roots(&b, "a.org"), own_roots(&a));
    assert_ne!(own_roots(&a), old);
    one.until_told(|all| all.trust.roots[&domain].len() == 1).await;
    assert_eq!(b.json("/trust")["quarantines"][0]["whom"], "cluster/a.org");

    b.kill();
    a.kill();
    b.launch();
    assert_eq!(roots(&b, "a.org").len(), 1, "what was fetched outlives both controllers");
    assert_ne!(roots(&b, "a.org"), old);
}

/// The endpoint of `b.org`, which says what the test wants.
struct Endpoint {
    authority: Authority,
    address: SocketAddr,
    document: watch::Sender<Bytes>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Endpoint {
    async fn new() -> Self {
        let (domain, now) = ("b.org".parse::<TrustDomain>().unwrap(), SystemTime::now());
        let authority = Authority::ephemeral(&domain).unwrap();
        let key = SigningKey::generate().unwrap();
        let identity = Part::Controller.identity(&domain);
        let chain = authority
            .issue_part(&key.csr().unwrap(), &Part::Controller, LEAF_LIFETIME, now)
            .unwrap();
        let nobody = Arc::new(TrustBundle::new([]).unwrap());
        let credentials = Credentials::new(identity.clone(), nobody);
        credentials.install(Svid::new(&key, chain, &identity).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (document, shutdown) = (watch::Sender::new(Bytes::new()), CancellationToken::new());
        let (served_by, path) = (ServedBy::Identity(Arc::new(credentials)), "/bundle".to_owned());
        let server = BundleServer { listener, served_by, path, document: document.subscribe() };
        let task = tokio::spawn(server.run(shutdown.clone()));
        Self { authority, address, document, shutdown, task }
    }

    fn roots(&self) -> Vec<Vec<u8>> {
        self.authority.roots().to_vec()
    }

    fn say(&self, roots: Vec<Vec<u8>>, sequence: Option<u64>) -> String {
        let text = BundleDocument { roots, sequence, refresh_hint: None }.to_json().unwrap();
        self.document.send_replace(text.clone().into());
        text
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_not_to_be_believed_changes_nothing_and_it_is_said_why() {
    let b = Endpoint::new().await;
    let mut a = Controller::prepare("a.org");
    a.configure(&followed("b.org", b.address));
    a.launch();
    let first = b.say(b.roots(), Some(5));
    import(&a, "b.org", &json!(first));
    assert_eq!(refresh(&a, "b.org").0, 200);
    let other = |name: &str| Authority::ephemeral(&name.parse().unwrap()).unwrap().roots().to_vec();
    let with = |mut more: Vec<Vec<u8>>| {
        more.extend(b.roots());
        more
    };
    assert!(b.say(with(other("b.org")), Some(6)).len() > first.len());
    assert_eq!(refresh(&a, "b.org").0, 200);
    let (known, before) = (roots(&a, "b.org"), a.json("/trust"));
    assert_eq!((known.len(), &before["foreign"][0]["sequence"]), (2, &json!(6)));

    let ours = a.json("/trust/export")["document"].as_str().unwrap().to_owned();
    let ours = BundleDocument::parse(ours.as_bytes(), &"a.org".parse().unwrap()).unwrap().roots;
    let garbage = |text: &'static str| {
        b.document.send_replace(Bytes::from_static(text.as_bytes()));
    };
    let cases: [(&dyn Fn(), &str); 8] = [
        (&|| drop(b.say(b.roots(), Some(5))), "it has number 5, and number 6 is known already"),
        (&|| drop(b.say(b.roots(), Some(6))), "another one than that which is known with number 6"),
        (&|| drop(b.say(b.roots(), None)), "it has no number, and number 6 is known already"),
        (
            &|| drop(b.say(with(other("c.org")), Some(7))),
            "is a root of spiffe://c.org, not of b.org",
        ),
        (&|| drop(b.say(with(ours.clone()), Some(7))), "is a root of spiffe://a.org, not of b.org"),
        (&|| garbage("<html>"), "no JWK set of SPIFFE"),
        (&|| garbage("{\"keys\": []}"), "has no root for X.509"),
        (&|| garbage(""), "no JWK set of SPIFFE"),
    ];
    for (looks, (say, why)) in (1..).zip(cases) {
        say();
        let (status, said) = refresh(&a, "b.org");
        assert!(status == 409 && said.contains(why), "{status} {said}, not {why}");
        let failure = &endpoint(&a)["failure"];
        assert!(failure["reason"].as_str().unwrap().contains(why), "{failure}");
        assert_eq!(failure["looks"], looks);
    }
    b.shutdown.cancel();
    b.task.await.unwrap();
    let (status, said) = refresh(&a, "b.org");
    assert!(status == 409 && said.contains("the endpoint cannot be reached"), "{said}");
    // Somebody else is where it was.
    let liar = Endpoint::new().await;
    let mut stranger = Controller::prepare("a.org");
    stranger.configure(&followed("b.org", liar.address));
    stranger.launch();
    liar.say(liar.roots(), Some(9));
    import(&stranger, "b.org", &json!(first));
    let (status, said) = refresh(&stranger, "b.org");
    assert!(status == 409 && said.contains("did not prove itself"), "{said}");
    assert_eq!(roots(&stranger, "b.org").len(), 1);

    let after = a.json("/trust");
    assert_eq!((roots(&a, "b.org"), &after["version"]), (known, &before["version"]));
    assert_eq!(after["foreign"], before["foreign"], "not even when it was fetched");
    assert!(counted(&a, "martlet_controller_bundle_looks_failed_total 10"), "{after:#}");
    assert!(counted(&a, "martlet_controller_bundle_endpoints_failing 1"));
    assert!(a.log().contains("bundle endpoint not usable, what is trusted stays"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_domain_that_was_removed_comes_back_by_hand_only() {
    let b = Endpoint::new().await;
    let mut a = Controller::prepare("a.org");
    a.configure(&followed("b.org", b.address));
    a.launch();
    let first = b.say(b.roots(), Some(5));
    import(&a, "b.org", &json!(first));
    assert_eq!(refresh(&a, "b.org").0, 200);
    a.tell("/trust/remove", &json!({ "trust_domain": "b.org" }));
    b.say(b.roots(), Some(6));
    for _ in 0..2 {
        let (status, said) = refresh(&a, "b.org");
        assert!(status == 409 && said.contains("martlet trust import"), "{said}");
        assert_eq!(roots(&a, "b.org"), Vec::<String>::new());
        assert_eq!(endpoint(&a)["is_removed"], true);
        assert_eq!(endpoint(&a)["is_stale"], false, "nobody has to be called for it");
        a.kill();
        a.launch();
    }
    import(&a, "b.org", &json!(first));
    let (status, said) = refresh(&a, "b.org");
    assert_eq!(status, 200, "{said}");
    assert_eq!(a.json("/trust")["foreign"][0]["sequence"], 6);
    let (status, said) = refresh(&a, "c.org");
    assert!(status == 409 && said.contains("no bundle endpoint of c.org"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_profile_of_the_web_the_first_bundle_comes_from_the_endpoint() {
    let authority = rcgen::KeyPair::generate().unwrap();
    let mut root = rcgen::CertificateParams::default();
    root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    root.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let root_pem = root.self_signed(&authority).unwrap().pem();
    let issuer = rcgen::Issuer::new(root, authority);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();

    let (mut a, mut b) = (Controller::prepare("a.org"), Controller::prepare("b.org"));
    let place = b.directory.path().to_owned();
    let at = |name: &str| place.join(name);
    fs::write(at("web.crt"), leaf.pem()).unwrap();
    fs::write(at("web.key"), key.serialize_pem()).unwrap();
    fs::write(at("web.pem"), &root_pem).unwrap();
    let web = format!(
        "{}  profile: https_web\n  certificate: {}\n  key: {}\n",
        published(b.bundles),
        at("web.crt").display(),
        at("web.key").display()
    );
    b.configure(&web);
    let refused = b.check();
    assert!(refused.contains("web.key may be read by others; make it 0600"), "{refused}");
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(at("web.key"), fs::Permissions::from_mode(0o600)).unwrap();
    b.launch();
    let federation = |authorities: &str| {
        format!(
            "federation:\n- trustDomain: b.org\n  url: https://localhost:{}/bundle\n  \
             profile: https_web\n  authorities: {authorities}\n",
            b.bundles.port()
        )
    };
    a.configure(&federation(&at("web.key").display().to_string()));
    let refused = a.check();
    assert!(refused.contains("the bundle endpoint of b.org"), "{refused}");
    a.configure(&federation(&at("web.pem").display().to_string()));
    a.launch();
    a.until("the first bundle is there", |a| roots(a, "b.org") == own_roots(&b)).await;
    assert_eq!(endpoint(&a)["profile"], "https_web");
}
