//! The API, called by the public `spiffe` crate and by curl.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Command, Output},
    sync::Arc,
    time::Duration,
};

use futures_util::{Stream, StreamExt as _};
use martlet_identity::{Chain, HandedKey};
use martlet_kernel::Netns;
use martlet_model::{SpiffeId, TrustDomain};
use martlet_workload_api::{Admission, Counts, Material, WorkloadApi};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use spiffe::{WorkloadApiClient, WorkloadApiError, X509Context};
use tempfile::TempDir;
use tokio::{net::UnixListener, sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(20);
const IDENTITY: &str = "spiffe://a.org/ns/shop/sa/cart";

fn root(name: &str) -> (Vec<u8>, Issuer<'static, KeyPair>) {
    let (mut root, key) = (CertificateParams::default(), KeyPair::generate().unwrap());
    root.distinguished_name.push(DnType::CommonName, name);
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let der = root.self_signed(&key).unwrap().der().to_vec();
    (der, Issuer::new(root, key))
}

/// A new key and certificate of a new root of `a.org`, and these federated domains.
fn material(federated: &[&str]) -> Arc<Material> {
    let ((der, issuer), key) = (root("a.org"), HandedKey::generate().unwrap());
    let csr = key.csr().unwrap().0;
    let csr = CertificateSigningRequestParams::from_der(&csr.as_slice().into());
    let mut csr = csr.unwrap();
    csr.params.subject_alt_names = vec![SanType::URI(IDENTITY.try_into().unwrap())];
    csr.params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    csr.params.is_ca = IsCa::ExplicitNoCa;
    let leaf = csr.signed_by(&issuer).unwrap().der().to_vec();
    let mut bundles = BTreeMap::from([("a.org".parse::<TrustDomain>().unwrap(), vec![der])]);
    for domain in federated {
        bundles.insert(domain.parse().unwrap(), vec![root(domain).0, root("another").0]);
    }
    let identity: SpiffeId = IDENTITY.parse().unwrap();
    Arc::new(Material { identity, chain: Chain(vec![leaf]), key: Arc::new(key), bundles })
}

struct Served {
    directory: TempDir,
    material: watch::Sender<Option<Arc<Material>>>,
    counts: Arc<Counts>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

/// Whoever calls from this process's own network namespace.
fn of_our_namespace() -> Admission {
    let netns = Netns::of_pid(std::process::id()).unwrap();
    Arc::new(move |stream| netns.is_of_caller(stream))
}

impl Served {
    fn new(first: Option<Arc<Material>>, admission: Admission) -> Self {
        let directory = TempDir::new().unwrap();
        let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
        let (material, counts) = (watch::Sender::new(first), Arc::new(Counts::default()));
        let (shutdown, subscribed) = (CancellationToken::new(), material.subscribe());
        let api = WorkloadApi { listener, admission, material: subscribed, counts: counts.clone() };
        let task = tokio::spawn(api.run(shutdown.clone()));
        Self { directory, material, counts, shutdown, task }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    async fn client(&self) -> WorkloadApiClient {
        WorkloadApiClient::connect_to(format!("unix:{}", self.socket().display())).await.unwrap()
    }

    /// A call by curl, started by this program first, with these headers.
    async fn curl(&self, wrapper: &[&str], headers: &[&str], method: &str) -> String {
        let empty = self.directory.path().join("empty");
        std::fs::write(&empty, [0; 5]).unwrap();
        let mut words: Vec<String> = wrapper.iter().map(|word| (*word).to_owned()).collect();
        let fixed = ["curl", "-sS", "-i", "-m", "3", "--http2-prior-knowledge", "--unix-socket"];
        words.extend(fixed.map(str::to_owned));
        words.push(self.socket().display().to_string());
        for header in [&["content-type: application/grpc", "te: trailers"], headers].concat() {
            words.extend(["-H".to_owned(), header.to_owned()]);
        }
        words.extend(["--data-binary".to_owned(), format!("@{}", empty.display())]);
        words.push(format!("http://localhost/SpiffeWorkloadAPI/{method}"));
        let call = move || Command::new(&words[0]).args(&words[1..]).output().unwrap();
        let Output { stdout, .. } = tokio::task::spawn_blocking(call).await.unwrap();
        String::from_utf8_lossy(&stdout).into_owned()
    }
}

async fn next<T>(stream: &mut (impl Stream<Item = T> + Unpin)) -> Option<T> {
    tokio::time::timeout(DEADLINE, stream.next()).await.expect("an answer comes")
}

/// Whether a client was given exactly this.
fn assert_given(context: &X509Context, material: &Material) {
    let svid = context.default_svid().unwrap();
    assert_eq!(context.svids().len(), 1);
    assert_eq!(svid.spiffe_id().to_string(), material.identity.as_str());
    let chain: Vec<_> = svid.cert_chain().iter().map(|one| one.as_bytes().to_vec()).collect();
    assert_eq!(chain, material.chain.0);
    assert_eq!(svid.private_key().as_bytes(), material.key.to_pkcs8().unwrap().as_slice());
    let bundles: BTreeMap<_, Vec<_>> = context
        .bundle_set()
        .iter()
        .map(|(domain, bundle)| {
            let roots = bundle.authorities().iter().map(|root| root.as_bytes().to_vec());
            (domain.to_string().parse().unwrap(), roots.collect())
        })
        .collect();
    assert_eq!(bundles, material.bundles);
}

#[tokio::test]
async fn the_public_client_gets_identity_key_and_bundles_and_every_change_of_them() {
    let first = material(&["b.org"]);
    let served = Served::new(Some(first.clone()), of_our_namespace());
    let client = served.client().await;
    let mut contexts = client.stream_x509_contexts().await.unwrap();
    assert_given(&next(&mut contexts).await.unwrap().unwrap(), &first);
    for federated in [&["b.org", "c.org"][..], &[]] {
        let renewed = material(federated);
        served.material.send_replace(Some(renewed.clone()));
        assert_given(&next(&mut contexts).await.unwrap().unwrap(), &renewed);
    }
    let bundles = client.fetch_x509_bundles().await.unwrap();
    assert_eq!(bundles.len(), 1);
    assert_eq!((served.counts.calls(), served.counts.refused()), (2, 0));
}

#[tokio::test]
async fn a_workload_without_a_certificate_waits_for_its_first() {
    let served = Served::new(None, of_our_namespace());
    let client = served.client().await;
    let mut svids = client.stream_x509_svids().await.unwrap();
    let first = material(&[]);
    served.material.send_replace(Some(first));
    assert_eq!(next(&mut svids).await.unwrap().unwrap().spiffe_id().to_string(), IDENTITY);
}

#[tokio::test]
async fn a_workload_that_loses_its_identity_is_told_so() {
    for withdrawn in [true, false] {
        let served = Served::new(Some(material(&[])), of_our_namespace());
        let client = served.client().await;
        let mut svids = client.stream_x509_svids().await.unwrap();
        assert!(next(&mut svids).await.unwrap().is_ok());
        match withdrawn {
            true => drop(served.material),
            false => drop(served.material.send_replace(None)),
        }
        let told = next(&mut svids).await.unwrap().unwrap_err();
        assert!(matches!(told, WorkloadApiError::NoIdentityIssued), "{told}");
        assert!(next(&mut svids).await.is_none());
    }
}

#[tokio::test]
async fn who_is_not_the_workload_gets_nothing() {
    let nobody: [Admission; 2] =
        [Arc::new(|_| Ok(false)), Arc::new(|_| Err(std::io::ErrorKind::Unsupported.into()))];
    for admission in nobody {
        let served = Served::new(Some(material(&[])), admission);
        let client = served.client().await;
        let refused = client.fetch_x509_svid().await.unwrap_err();
        assert!(matches!(refused, WorkloadApiError::NoIdentityIssued), "{refused}");
        assert!(client.fetch_x509_bundles().await.is_err());
        assert_eq!((served.counts.calls(), served.counts.refused()), (0, 2));
    }
}

#[tokio::test]
async fn the_namespace_of_the_callers_socket_decides_whatever_it_says() {
    let served = Served::new(Some(material(&[])), of_our_namespace());
    let header = ["workload.spiffe.io: true"];
    for method in ["FetchX509SVID", "FetchX509Bundles"] {
        let ours = served.curl(&[], &header, method).await;
        assert!(ours.contains("spiffe://a.org") && !ours.contains("grpc-status"), "{ours}");
        let elsewhere = served.curl(&["unshare", "--net"], &header, method).await;
        assert!(elsewhere.contains("grpc-status: 7"), "{elsewhere}");
        assert!(!elsewhere.contains("spiffe://a.org"), "{elsewhere}");
    }
}

#[tokio::test]
async fn calls_without_the_header_and_of_other_methods_are_refused() {
    let served = Served::new(Some(material(&[])), of_our_namespace());
    for headers in [&[][..], &["workload.spiffe.io: false"], &["workload.spiffe.io: True"]] {
        let said = served.curl(&[], headers, "FetchX509SVID").await;
        assert!(said.contains("grpc-status: 3") && !said.contains("spiffe://a.org"), "{said}");
    }
    let said = served.curl(&[], &["workload.spiffe.io: true"], "FetchJWTSVID").await;
    assert!(said.contains("grpc-status: 12"), "{said}");
}

#[tokio::test]
async fn streams_end_with_the_agent() {
    let served = Served::new(Some(material(&[])), of_our_namespace());
    let client = served.client().await;
    let mut svids = client.stream_x509_svids().await.unwrap();
    assert!(next(&mut svids).await.unwrap().is_ok());
    served.shutdown.cancel();
    assert!(next(&mut svids).await.unwrap().is_err());
    drop((svids, client));
    tokio::time::timeout(DEADLINE, served.task).await.expect("the server ends").unwrap();
}
