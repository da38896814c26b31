//! The place: three nodes, five pods, nginx and an echo server, and what the agents are told.
//!
//! ```text
//!   node one            node two                        node three
//!   cart-0 (curl)       web-0 (nginx :8080, echo :9000) cart-1 (curl)
//!                       outside (echo :9000)            guest-0 (curl)
//! ```

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use martlet_lab::{Agent, Canaries, Lab, Mesh, Node, Pod, Running, find_binary, wait_for};
use serde_json::json;

use crate::{
    errand::Secrets,
    terminal::{Terminal, Tone},
};

pub const TRUST_DOMAIN: &str = "demo.martlet.dev";
pub const NAMESPACE: &str = "shop";
pub const SERVICE: &str = "10.96.0.10";
const WEB_PORT: u16 = 8080;
const ECHO_PORT: u16 = 9000;

/// How long a server may take to listen.
const STARTING: Duration = Duration::from_secs(10);

pub struct Stage {
    // Programs end before the lab does: fields are dropped in order.
    pub agents: Vec<Agent>,
    _servers: Vec<Running>,
    pub mesh: Option<Mesh>,
    pub secrets: Secrets,
    pub nodes: [Node; 3],
    /// Two callers that are welcome, on two nodes.
    pub carts: [Pod; 2],
    pub web: Pod,
    pub guest: Pod,
    /// Never enrolled: what is measured against.
    pub outside: Pod,
    pub lab: Lab,
}

impl Stage {
    pub fn set(lab: Lab) -> Result<Stage> {
        let nodes = [lab.node("one")?, lab.node("two")?, lab.node("three")?];
        let carts = [nodes[0].pod("cart-0")?, nodes[2].pod("cart-1")?];
        let (web, outside) = (nodes[1].pod("web-0")?, nodes[1].pod("outside")?);
        let guest = nodes[2].pod("guest-0")?;
        let secrets = Secrets::random();
        let servers =
            vec![serve_web(&web, &secrets.answers())?, serve_echo(&web)?, serve_echo(&outside)?];
        Ok(Stage {
            agents: Vec::new(),
            _servers: servers,
            mesh: None,
            secrets,
            nodes,
            carts,
            web,
            guest,
            outside,
            lab,
        })
    }

    /// Makes an authority, and starts an agent on each node, which enrols that node's pods.
    pub fn start_agents(&mut self) -> Result<()> {
        let mut mesh = Mesh::with_authority(TRUST_DOMAIN, self.make_authority()?);
        for cart in &self.carts {
            mesh.enroll(cart, NAMESPACE, "cart", "strict");
        }
        mesh.enroll(&self.web, NAMESPACE, "web", "strict");
        mesh.enroll(&self.guest, NAMESPACE, "guest", "strict");
        mesh.service(NAMESPACE, "web", SERVICE, 80, &[self.web_address().to_string()]);
        for node in &self.nodes {
            let mut agent = Agent::prepare(&mesh, node)?;
            agent.launch()?;
            self.agents.push(agent);
        }
        // They start at the same time, as on as many machines.
        self.agents.iter_mut().try_for_each(Agent::wait_until_ready)?;
        self.mesh = Some(mesh);
        Ok(())
    }

    /// As a user would, but inside the lab: a signal ends it, too.
    fn make_authority(&self) -> Result<PathBuf> {
        let directory = self.lab.directory().join("authority");
        let martlet = self.nodes[0].command(find_binary("martlet")?).args(["authority", "init"]);
        let martlet = martlet.arg(&directory).args(["--trust-domain", TRUST_DOMAIN]);
        martlet.run()?.success().context("making the authority")?;
        Ok(directory)
    }

    /// Adds the policy to all node files while the agents run.
    pub fn forbid_guests(&mut self) -> Result<()> {
        let mesh = self.mesh.as_mut().context("the agents have not been started")?;
        let guest = mesh.identity(NAMESPACE, "guest");
        mesh.policy(json!({
            "namespace": NAMESPACE, "name": "no-guests", "action": "deny",
            "selector": { "serviceAccounts": ["web"] },
            "rules": [{ "name": "guest", "from": { "identities": [guest] } }],
        }));
        let mesh = &*mesh;
        self.agents.iter_mut().try_for_each(|agent| agent.reload(mesh))
    }

    pub fn web_address(&self) -> SocketAddr {
        SocketAddr::new(self.web.v4(), WEB_PORT)
    }

    pub fn echo_addresses(&self) -> [SocketAddr; 2] {
        [&self.outside, &self.web].map(|pod| SocketAddr::new(pod.v4(), ECHO_PORT))
    }

    pub fn identity(&self, service_account: &str) -> String {
        format!("spiffe://{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/{service_account}")
    }

    /// After a failure: what the agents said last.
    pub fn explain(&self, terminal: &Terminal) {
        for agent in &self.agents {
            let log = agent.log();
            let lines: Vec<_> = log.lines().collect();
            if lines.is_empty() {
                continue;
            }
            let last = &lines[lines.len().saturating_sub(6)..];
            terminal.line(format_args!("\n  The agent of node {} said last:", agent.node().name()));
            for line in last {
                terminal.line(format_args!("    {}", terminal.paint(Tone::Faint, line)));
            }
        }
    }
}

/// One page before the agents are started, another one after: each with its own secret.
fn serve_web(pod: &Pod, answers: &[(&str, String); 2]) -> Result<Running> {
    let directory = pod.directory()?;
    let pages = answers.iter().map(|(path, secret)| {
        format!(
            "location = /{path} {{ return 200 \"Hello $remote_addr, the answer is {secret}\\n\"; }}\n"
        )
    });
    let configuration = format!(
        "user root;\nworker_processes 1;\npid nginx.pid;\nerror_log stderr;\n\
         events {{ worker_connections 64; }}\n\
         http {{\n\
         access_log off;\ndefault_type text/plain;\n\
         client_body_temp_path body;\nproxy_temp_path proxy;\nfastcgi_temp_path fastcgi;\n\
         uwsgi_temp_path uwsgi;\nscgi_temp_path scgi;\n\
         server {{\nlisten {WEB_PORT};\n{}}}\n\
         }}\n",
        pages.collect::<String>()
    );
    let file = directory.join("nginx.conf");
    fs::write(&file, configuration).context("writing the configuration of nginx")?;
    let nginx = pod.command("nginx").arg("-p").arg(&directory).arg("-c").arg(&file);
    let mut nginx = nginx.args(["-e", "stderr", "-g", "daemon off;"]).spawn()?;
    wait_for("nginx to listen", STARTING, || {
        ensure!(nginx.is_running(), "nginx has ended: {}", nginx.stderr());
        Ok(pod.run(|| TcpStream::connect((pod.v4(), WEB_PORT)).is_ok())?.then_some(()))
    })?;
    Ok(nginx)
}

fn serve_echo(pod: &Pod) -> Result<Running> {
    let listen = SocketAddr::new(pod.v4(), ECHO_PORT).to_string();
    let mut echo =
        pod.probe(&["serve", "--listen", &listen, "--then", "echo", "--quiet"])?.spawn()?;
    echo.wait_until_listening()?;
    Ok(echo)
}

/// Canaries as the text that they are.
pub fn texts(canaries: &Canaries) -> Vec<String> {
    canaries.iter().map(|canary| String::from_utf8_lossy(canary).into_owned()).collect()
}
