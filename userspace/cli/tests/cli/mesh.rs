//! A real `martlet-controller --standalone` in a directory of its own, and nodes that follow it.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use martlet_control::{Ask, Client, ClientSettings, Usage};
use martlet_identity::{Chain, SigningKey, fingerprint};
use martlet_model::WorkloadName;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{runtime::Runtime, sync::watch};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(90);

pub struct Mesh {
    pub directory: TempDir,
    pub agents: SocketAddr,
    pub bundles: SocketAddr,
    pub domain: &'static str,
    child: Option<Child>,
    runtime: Runtime,
}

/// A host that does for the control plane what an agent does.
pub struct Node {
    /// Whether it acknowledges what it is told.
    pub obeys: watch::Sender<bool>,
    pub client: Client,
    shutdown: CancellationToken,
}

/// Each asked for once: below those that the kernel gives out by itself, so that nobody else has it
/// a moment later.
fn free() -> SocketAddr {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id() * 61 + ASKED.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + u16::try_from(number % 10_000).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return SocketAddr::from(([127, 0, 0, 1], port));
        }
    }
}

/// Where the controller is built, too: `cargo test --workspace` does it, and `cargo build --bins`.
fn controller() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_martlet")).with_file_name("martlet-controller");
    assert!(path.exists(), "{} is missing: cargo build --workspace --bins", path.display());
    path
}

impl Mesh {
    pub fn prepare(domain: &'static str) -> Self {
        let (directory, runtime) = (TempDir::new().unwrap(), Runtime::new().unwrap());
        let (agents, bundles) = (free(), free());
        let workloads = format!(
            "trustDomain: {domain}\nworkloads:\n- {{ namespace: shop, name: web, serviceAccount: web, \
             node: one, addresses: [10.0.0.1], netns: {{ pid: 1 }} }}\n"
        );
        fs::write(directory.path().join("directory.yaml"), workloads).unwrap();
        Self { directory, agents, bundles, domain, child: None, runtime }
    }

    pub fn start(domain: &'static str) -> Self {
        let mut mesh = Self::prepare(domain);
        mesh.launch("");
        mesh
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn socket(&self) -> PathBuf {
        self.at("controller.sock")
    }

    /// `more` of the controller file.
    pub fn launch(&mut self, more: &str) {
        let text = format!(
            "trustDomain: {}\nlisten: [\"{}\"]\nmetrics: off\nstate: {}\nsocket: {}\ndirectory: {}\n{more}",
            self.domain,
            self.agents,
            self.at("state").display(),
            self.socket().display(),
            self.at("directory.yaml").display(),
        );
        fs::write(self.at("controller.yaml"), text).unwrap();
        let log = fs::File::create(self.at("log")).unwrap();
        let child = Command::new(controller())
            .args(["--standalone", "--config"])
            .arg(self.at("controller.yaml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.child = Some(child.unwrap());
        self.until("the controller answers", |mesh| mesh.trust().is_some());
    }

    pub fn trust(&self) -> Option<Value> {
        let socket = self.socket();
        let asked =
            ["--controller-socket", socket.to_str().unwrap(), "trust", "status", "-o", "json"];
        let output = crate::run(Path::new("/nowhere"), &asked);
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    #[track_caller]
    pub fn until(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !is(self) {
            let log = fs::read_to_string(self.at("log")).unwrap_or_default();
            assert!(Instant::now() < until, "never: {what}\n{:#?}\n{log}", self.trust());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What a rotation waits for.
    pub fn until_it_waits_for(&self, wanted: &[&str]) {
        self.until(&format!("it waits for {wanted:?}"), |mesh| {
            let trust = mesh.trust().unwrap_or_default();
            let Some(waits) = trust["rotation"]["waits_for"].as_array() else { return false };
            let is = |(one, wanted): (&Value, &&str)| one.as_str().unwrap().contains(wanted);
            waits.len() == wanted.len() && waits.iter().zip(wanted).all(is)
        });
    }

    pub fn until_steady(&self) {
        self.until("the rotation has ended", |mesh| {
            let trust = mesh.trust().unwrap_or_default();
            let nodes = trust["nodes"].as_array().cloned().unwrap_or_default();
            let is_current = |node: &Value| node["is_current"] == true && node["leaves"] == 2;
            trust["rotation"].is_null() && !nodes.is_empty() && nodes.iter().all(is_current)
        });
    }

    /// A node that has joined with a token, has a certificate for its workload, and says so.
    pub fn join(&self, name: &str) -> Node {
        let token = crate::run(
            Path::new("/nowhere"),
            &[
                "--controller-socket",
                self.socket().to_str().unwrap(),
                "node",
                "join",
                name,
                "-o",
                "json",
            ],
        );
        let token: Value = serde_json::from_slice(&token.stdout).unwrap();
        let state = self.at(&format!("node-{name}"));
        fs::create_dir(&state).unwrap();
        fs::write(state.join("token"), token["token"].as_str().unwrap()).unwrap();
        let settings = ClientSettings {
            trust_domain: self.domain.parse().unwrap(),
            node: name.parse().unwrap(),
            controller: self.agents.to_string(),
            proof: martlet_control::Proof::Token(state.join("token")),
            state: state.join("state"),
            agent_version: "0.0.0".to_owned(),
        };
        let client = Client::open(settings).unwrap();
        let (shutdown, obeys) = (CancellationToken::new(), watch::Sender::new(true));
        self.runtime.spawn(client.clone().run(shutdown.clone()));
        self.runtime.spawn(obey(client.clone(), obeys.subscribe()));
        let node = Node { obeys, client, shutdown };
        self.until_steady();
        node
    }

    pub fn certificate(&self, node: &Node) -> Chain {
        self.runtime.block_on(certificate(&node.client)).unwrap()
    }
}

async fn certificate(client: &Client) -> Option<Chain> {
    let csr = SigningKey::generate().unwrap().csr().unwrap();
    let workload =
        WorkloadName { namespace: "shop".parse().unwrap(), name: "web".parse().unwrap() };
    client.issue(vec![Ask { workload, csr }]).await.swap_remove(0).ok()
}

/// Says what is in effect, and has one certificate of the issuer that is wanted.
async fn obey(client: Client, mut obeys: watch::Receiver<bool>) {
    let mut declared = client.declared();
    let mut issuer = None;
    loop {
        let latest = declared.borrow_and_update().clone();
        if let Some(latest) = latest.filter(|_| *obeys.borrow_and_update()) {
            let wanted = latest.trust.issuer.clone();
            if issuer.is_none() || wanted.is_some() && issuer != wanted {
                let chain = certificate(&client).await;
                issuer = chain.map(|chain| fingerprint(&chain.0[1]));
            }
            if let Some(issuer) = issuer.clone() {
                client.report_usage(Usage { leaves: [(issuer, 1)].into(), ..Usage::default() });
                client.acknowledge(latest.version, latest.trust.version, None);
            }
        }
        tokio::select! {
            changed = declared.changed() => if changed.is_err() { return },
            changed = obeys.changed() => if changed.is_err() { return },
            // A certificate that was not to be had is asked for again.
            () = tokio::time::sleep(Duration::from_secs(1)), if issuer.is_none() => {}
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
