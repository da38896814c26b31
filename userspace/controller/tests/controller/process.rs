//! A controller as a process of its own, and agents that do what agents do.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use martlet_control::{Ask, Client, ClientSettings, IssueError, Proof, Usage};
use martlet_identity::{Chain, SigningKey};
use martlet_model::WorkloadName;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// Longer than anything takes, on a machine that does other things.
pub const PATIENCE: Duration = Duration::from_secs(90);

pub struct Controller {
    pub directory: TempDir,
    pub agents: SocketAddr,
    pub metrics: SocketAddr,
    /// Where its own roots are published, if they are.
    pub bundles: SocketAddr,
    domain: &'static str,
    /// Of a controller of a cluster: by what it finds the API server, and what else it is told.
    environment: Option<Vec<(&'static str, String)>>,
    child: Option<Child>,
}

/// An address that nobody has now.
pub fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub const WORKLOADS: &str = "trustDomain: a.org
workloads:
- { namespace: shop, name: web, serviceAccount: web, node: one, addresses: [10.0.0.1], netns: { pid: 1 } }
- { namespace: shop, name: cart, serviceAccount: cart, node: two, addresses: [10.0.0.2], netns: { pid: 2 } }
";

impl Controller {
    pub fn start() -> Self {
        let mut controller = Self::prepare("a.org");
        controller.configure("");
        controller.launch();
        controller
    }

    /// One that is still to be started.
    pub fn prepare(domain: &'static str) -> Self {
        let directory = TempDir::new().unwrap();
        let (agents, metrics, bundles) = (free(), free(), free());
        let environment = None;
        let controller =
            Self { directory, agents, metrics, bundles, domain, environment, child: None };
        controller.declare(&WORKLOADS.replace("a.org", domain));
        controller
    }

    /// That of a cluster, in the pod `controller-0`.
    pub fn start_in_cluster(kubeconfig: &str) -> Self {
        let mut controller = Self::prepare("a.org");
        let path = controller.directory.path().join("kubeconfig");
        fs::write(&path, kubeconfig).unwrap();
        controller.environment = Some(vec![
            ("KUBECONFIG", path.display().to_string()),
            ("MARTLET_POD_NAME", "controller-0".to_owned()),
            ("MARTLET_POD_IP", "127.0.0.1".to_owned()),
        ]);
        controller.write("kubernetes: {}\n");
        controller.launch();
        controller
    }

    /// Writes the controller file; `more` is what is not the same for all.
    pub fn configure(&self, more: &str) {
        let directory = self.directory.path().join("directory.yaml");
        self.write(&format!("directory: {}\n{more}", directory.display()));
    }

    fn write(&self, more: &str) {
        let at = |name| self.directory.path().join(name);
        let text = format!(
            "trustDomain: {}\nlisten: [\"{}\"]\nstate: {}\nsocket: {}\nmetrics: \"{}\"\n",
            self.domain,
            self.agents,
            at("state").display(),
            self.socket().display(),
            self.metrics,
        );
        fs::write(at("controller.yaml"), text + more).unwrap();
    }

    pub fn declare(&self, text: &str) {
        fs::write(self.directory.path().join("new"), text).unwrap();
        let to = self.directory.path().join("directory.yaml");
        fs::rename(self.directory.path().join("new"), to).unwrap();
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("controller.sock")
    }

    pub fn launch(&mut self) {
        self.spawn();
        self.until_ready();
    }

    /// Starts it, and does not wait.
    pub fn spawn(&mut self) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.directory.path().join("log"))
            .unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_martlet-controller"));
        match &self.environment {
            Some(environment) => command.envs(environment.iter().cloned()),
            None => command.arg("--standalone"),
        };
        let child = command
            .arg("--config")
            .arg(self.directory.path().join("controller.yaml"))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn();
        self.child = Some(child.unwrap());
    }

    pub fn until_ready(&self) {
        let until = Instant::now() + PATIENCE;
        while self.get("/readyz").is_none_or(|(status, _)| status != 200) {
            assert!(Instant::now() < until, "not ready: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What is said of its files that are not good.
    pub fn check(&self) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_martlet-controller"))
            .args(["--standalone", "--check", "--config"])
            .arg(self.directory.path().join("controller.yaml"))
            .output()
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    }

    /// As `kill -9` does it.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// The lines of the log of issuance.
    pub fn issuance(&self) -> Vec<Value> {
        let directory = self.directory.path().join("state/log");
        let name = "issuance-00000000000000000001.log";
        let text = fs::read_to_string(directory.join(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        exchange(UnixStream::connect(self.socket()).ok()?, "GET", path, "")
    }

    pub fn json(&self, path: &str) -> Value {
        let (status, body) = self.get(path).unwrap();
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    pub fn post(&self, path: &str, body: &Value) -> (u16, String) {
        let stream = UnixStream::connect(self.socket()).unwrap();
        exchange(stream, "POST", path, &body.to_string()).unwrap()
    }

    pub fn tell(&self, path: &str, body: &Value) -> Value {
        let (status, body) = self.post(path, body);
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    pub fn over_tcp(&self, method: &str, path: &str) -> (u16, String) {
        exchange(TcpStream::connect(self.metrics).unwrap(), method, path, "").unwrap()
    }

    pub fn token(&self, node: &str) -> String {
        let told = self.tell("/nodes/join", &serde_json::json!({ "node": node }));
        told["token"].as_str().unwrap().to_owned()
    }

    /// A host with a token, whose agent runs.
    pub fn node(&self, name: &str) -> Agent {
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join("token"), self.token(name)).unwrap();
        Agent::start_in(self.domain, directory, name, self.agents)
    }

    /// Looks until it is so.
    pub async fn until(&self, what: &str, mut is: impl FnMut(&Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !is(self) {
            assert!(Instant::now() < until, "never: {what}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn rotation(&self) -> Value {
        self.json("/trust")["rotation"].clone()
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn exchange<S: std::io::Read + std::io::Write>(
    mut stream: S,
    method: &str,
    path: &str,
    body: &str,
) -> Option<(u16, String)> {
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(head.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    Some((status, body.to_owned()))
}

/// What an agent does for the control plane: it puts into effect what it is told, while it may, and
/// says what it has in use.
pub struct Agent {
    pub client: Client,
    pub directory: TempDir,
    /// Whether it acknowledges.
    pub obeys: watch::Sender<bool>,
    shutdown: CancellationToken,
    running: Vec<JoinHandle<()>>,
}

impl Agent {
    pub fn start(directory: TempDir, name: &str, controller: SocketAddr) -> Self {
        Self::start_in("a.org", directory, name, controller)
    }

    fn start_in(domain: &str, directory: TempDir, name: &str, controller: SocketAddr) -> Self {
        let proof = Proof::Token(directory.path().join("token"));
        Self::start_by(proof, domain, directory, name, controller)
    }

    pub fn start_by(
        proof: Proof,
        domain: &str,
        directory: TempDir,
        name: &str,
        controller: SocketAddr,
    ) -> Self {
        let settings = ClientSettings {
            trust_domain: domain.parse().unwrap(),
            node: name.parse().unwrap(),
            controller: controller.to_string(),
            proof,
            state: directory.path().join("state"),
            agent_version: "test".to_owned(),
        };
        let client = Client::open(settings).unwrap();
        let (shutdown, obeys) = (CancellationToken::new(), watch::Sender::new(true));
        client.report_usage(Usage::default());
        let acknowledging = {
            let (client, mut obeys) = (client.clone(), obeys.subscribe());
            let mut declared = client.declared();
            async move {
                loop {
                    let latest = declared.borrow_and_update().clone();
                    if let Some(latest) = latest.filter(|_| *obeys.borrow_and_update()) {
                        client.acknowledge(latest.version, latest.trust.version, None);
                    }
                    tokio::select! {
                        changed = declared.changed() => if changed.is_err() { return },
                        changed = obeys.changed() => if changed.is_err() { return },
                    }
                }
            }
        };
        let running =
            vec![tokio::spawn(client.clone().run(shutdown.clone())), tokio::spawn(acknowledging)];
        Self { client, directory, obeys, shutdown, running }
    }

    /// Asks for a workload's certificate.
    pub async fn certificate(&self, workload: &str) -> Result<Chain, IssueError> {
        let csr = SigningKey::generate().unwrap().csr().unwrap();
        let workload =
            WorkloadName { namespace: "shop".parse().unwrap(), name: workload.parse().unwrap() };
        self.client.issue(vec![Ask { workload, csr }]).await.swap_remove(0)
    }

    pub async fn until_told(&self, is: impl Fn(&martlet_control::Declared) -> bool) {
        let mut declared = self.client.declared();
        let told = declared.wait_for(|all| all.as_ref().is_some_and(|all| is(all)));
        let told = tokio::time::timeout(PATIENCE, told).await;
        if told.is_err() {
            panic!("{:?}", self.client.link().borrow());
        }
    }

    pub async fn until_down(&self, why: &str) {
        let mut link = self.client.link();
        let is = |link: &martlet_control::Link| {
            link.connected.as_ref().is_err_and(|is| is.contains(why))
        };
        if tokio::time::timeout(PATIENCE, link.wait_for(is)).await.is_err() {
            panic!("not {why:?}, but {:?}", self.client.link().borrow());
        }
    }

    pub async fn stop(self) -> TempDir {
        self.shutdown.cancel();
        for task in self.running {
            task.abort();
            let _ = task.await;
        }
        self.directory
    }
}
