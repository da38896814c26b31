//! A root, credentials of our own side below it, and PEM files for peers of other make; made with
//! rcgen alone. And our called side on a port of loopback.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, SystemTime},
};

use martlet_identity::{
    Chain, Credentials, HandshakeError, Secured, SigningKey, Svid, TrustBundle, terminate,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

pub const PROTOCOL: &str = "martlet-lane/1";
pub const GREETING: &str = "greeting-of-the-called-side";
const DEADLINE: Duration = Duration::from_secs(20);

pub struct Mesh {
    directory: TempDir,
    root: Issuer<'static, KeyPair>,
    trust: Arc<TrustBundle>,
}

pub fn id(account: &str) -> martlet_model::SpiffeId {
    format!("spiffe://prod.example/ns/shop/sa/{account}").parse().unwrap()
}

fn fill(leaf: &mut CertificateParams, account: &str) {
    leaf.distinguished_name.push(DnType::CommonName, account);
    let now = SystemTime::now();
    leaf.subject_alt_names = vec![SanType::URI(id(account).as_str().try_into().unwrap())];
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.not_before = (now - Duration::from_secs(60)).into();
    leaf.not_after = (now + Duration::from_secs(3600)).into();
}

impl Mesh {
    /// `peer.crt` and `peer.key` prove `cart` to whoever trusts `root.crt`.
    pub fn new() -> Self {
        let (directory, key) = (TempDir::new().unwrap(), KeyPair::generate().unwrap());
        let mut root = CertificateParams::default();
        root.distinguished_name.push(DnType::CommonName, "root");
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = root.self_signed(&key).unwrap();
        let trusted = [("prod.example".parse().unwrap(), vec![certificate.der().to_vec()])];
        let trust = Arc::new(TrustBundle::new(trusted).unwrap());
        let mesh = Self { directory, root: Issuer::new(root, key), trust };
        let (leaf, key) = mesh.leaf("cart");
        mesh.write("root.crt", &certificate.pem());
        mesh.write("peer.crt", &leaf.pem());
        mesh.write("peer.key", &key.serialize_pem());
        mesh
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).unwrap();
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    fn leaf(&self, account: &str) -> (rcgen::Certificate, KeyPair) {
        let (mut leaf, key) = (CertificateParams::default(), KeyPair::generate().unwrap());
        fill(&mut leaf, account);
        (leaf.signed_by(&key, &self.root).unwrap(), key)
    }

    /// Chain and key for a peer made of rustls.
    pub fn plain(&self, account: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let (leaf, key) = self.leaf(account);
        (vec![leaf.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }

    pub fn credentials(&self, account: &str) -> Credentials {
        let key = SigningKey::generate().unwrap();
        let csr = key.csr().unwrap().0;
        let request = CertificateSigningRequestParams::from_der(&csr.as_slice().into());
        let mut request = request.unwrap();
        fill(&mut request.params, account);
        let leaf = request.signed_by(&self.root).unwrap();
        let credentials = Credentials::new(id(account), self.trust.clone());
        let chain = Chain(vec![leaf.der().to_vec()]);
        credentials.install(Svid::new(&key, chain, &id(account)).unwrap());
        credentials
    }

    /// Answers callers one after the other as `web`, with a greeting for those that are accepted,
    /// and says what became of each.
    pub async fn called(&self, callers: usize) -> (SocketAddr, JoinHandle<Vec<Called>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, own) = (listener.local_addr().unwrap(), self.credentials("web"));
        let task = tokio::spawn(async move {
            let mut outcomes = Vec::new();
            for _ in 0..callers {
                let (stream, _) = listener.accept().await.unwrap();
                let outcome = terminate(stream, &own).await;
                outcomes.push(greeted(outcome).await);
            }
            outcomes
        });
        (address, task)
    }

    /// What a program printed that runs in the directory with the files, and whether it was happy.
    pub async fn run(&self, program: &str, arguments: &[&str]) -> (bool, String) {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.path()).stdin(Stdio::null());
        let run = tokio::task::spawn_blocking(move || command.output().unwrap());
        let output = tokio::time::timeout(DEADLINE, run).await.expect("it ends by itself").unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }
}

/// What became of a caller: facts about the connection, or the error.
pub type Called = Result<(martlet_model::TlsFacts, martlet_model::SpiffeId), HandshakeError>;

async fn greeted(outcome: Result<Secured<TcpStream>, HandshakeError>) -> Called {
    let mut stream = outcome?;
    let facts = (stream.facts().clone(), stream.peer().identity().clone());
    let said = async {
        stream.write_all(GREETING.as_bytes()).await?;
        stream.shutdown().await
    };
    said.await.map_err(HandshakeError::Io)?;
    Ok(facts)
}
