//! The controller of several nodes, as a user would run it: on a node of its own, with a file, a
//! directory file, a process and its socket.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{
    agent::Agent,
    clock::Clock,
    http, limits,
    mesh::Mesh,
    node::Node,
    program::{Finished, Running, find_binary},
    wait::wait_for,
    yaml::to_yaml,
};

/// Where it listens for agents.
const PORT: u16 = 15012;

#[derive(Debug)]
pub struct Controller {
    node: Node,
    directory: PathBuf,
    running: Option<Running>,
    environment: Vec<(String, String)>,
}

impl Controller {
    /// Writes its files, starts it, waits until it answers.
    pub fn start(mesh: &Mesh, node: &Node) -> Result<Controller> {
        let mut controller = Controller::prepare(mesh, node)?;
        controller.launch()?;
        Ok(controller)
    }

    /// Writes its files only.
    pub fn prepare(mesh: &Mesh, node: &Node) -> Result<Controller> {
        let directory = node.directory()?.join("controller");
        fs::create_dir_all(&directory).context("making the controller's directory")?;
        let level = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into());
        let environment = vec![("RUST_LOG".into(), level)];
        let controller = Controller { node: node.clone(), directory, running: None, environment };
        let file = json!({
            "trustDomain": mesh.trust_domain(),
            "listen": [controller.address().to_string()],
            "state": controller.directory.join("state"),
            "socket": controller.socket(),
            "directory": controller.directory_file(),
            "metrics": "127.0.0.1:15021",
        });
        controller.write("controller.yaml", &to_yaml(&file))?;
        controller.write("directory.yaml", &to_yaml(&mesh.directory_file()))?;
        Ok(controller)
    }

    /// For the next launch.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// For the next launch.
    pub fn set_clock(&mut self, clock: &Clock) {
        for (name, value) in clock.environment() {
            self.set_env(name, &value);
        }
    }

    pub fn node(&self) -> &Node {
        &self.node
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.node.addresses()[0], PORT)
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.join("controller.sock")
    }

    /// Keys, certificates, tokens and trust.
    pub fn state(&self) -> PathBuf {
        self.directory.join("state")
    }

    fn directory_file(&self) -> PathBuf {
        self.directory.join("directory.yaml")
    }

    pub fn launch(&mut self) -> Result<()> {
        let mut program = self.node.command_in("controller", find_binary("martlet-controller")?);
        program = program.arg("--standalone").arg("--config");
        program = program.arg(self.directory.join("controller.yaml"));
        for (name, value) in &self.environment {
            program = program.env(name, value);
        }
        self.running = Some(program.current_dir(&self.directory).spawn()?);
        let ready = wait_for("the controller to be ready", limits::AGENT_READY, || {
            if !self.running_mut()?.is_running() {
                bail!("the controller has ended");
            }
            let answer = http::get_unix(&self.socket(), "/readyz");
            Ok(matches!(answer, Ok(answer) if answer.status == 200).then_some(()))
        });
        ready.with_context(|| format!("the controller: {}", self.log()))
    }

    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(Running::pid)
    }

    pub fn kill(&mut self) -> Result<Finished> {
        self.running.take().context("the controller is not started")?.kill()
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.running.as_ref().context("the controller is not started")?.signal(signal)
    }

    pub fn stop(&mut self) -> Result<Finished> {
        self.signal(Signal::SIGTERM)?;
        self.running.take().context("the controller is not started")?.wait(limits::AGENT_STOP)
    }

    /// Replaces the directory file; agents are told by the controller.
    pub fn declare(&self, mesh: &Mesh) -> Result<()> {
        self.write("directory.yaml", &to_yaml(&mesh.directory_file()))
    }

    /// Lets a node join, and gives its agent, which is not started yet.
    pub fn agent(&self, mesh: &Mesh, node: &Node) -> Result<Agent> {
        let token = self.martlet(&["node", "join", node.name(), "--output", "json"])?;
        let token = token["token"].as_str().context("there is no token")?.to_owned();
        let path = node.directory()?.join("token");
        fs::write(&path, token).context("writing the token")?;
        let mut file = mesh.node_file(node)?;
        let object = file.as_object_mut().context("a node file is a mapping")?;
        for key in ["authority", "workloads", "services", "policies"] {
            object.remove(key);
        }
        let controller = json!({ "address": self.address().to_string(), "token": path });
        object.insert("controller".to_owned(), controller);
        Agent::prepare_with(node, &to_yaml(&file))
    }

    /// Runs `martlet` against this controller; what it prints must be JSON.
    pub fn martlet(&self, arguments: &[&str]) -> Result<Value> {
        let output = self.martlet_text(arguments)?;
        serde_json::from_str(&output).with_context(|| format!("{arguments:?} printed {output}"))
    }

    /// The same, for people.
    pub fn martlet_text(&self, arguments: &[&str]) -> Result<String> {
        let program = self.node.command(find_binary("martlet")?).args(arguments);
        let finished = program.arg("--controller-socket").arg(self.socket()).run()?;
        Ok(finished.stdout)
    }

    /// What the controller has logged since its last launch.
    pub fn log(&self) -> String {
        self.running
            .as_ref()
            .map(|running| running.stderr() + &running.stdout())
            .unwrap_or_default()
    }

    fn running_mut(&mut self) -> Result<&mut Running> {
        self.running.as_mut().context("the controller is not started")
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let new: &Path = &self.directory.join(format!(".{name}.new"));
        fs::write(new, text).with_context(|| format!("writing {name}"))?;
        fs::rename(new, self.directory.join(name)).with_context(|| format!("replacing {name}"))
    }
}
