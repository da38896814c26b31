//! A node's agent, as a user would run it: a file, a process, its socket and its records.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    clock::Clock,
    http::{self, Response},
    limits,
    mesh::Mesh,
    node::Node,
    program::{Finished, Program, Running, find_binary},
    resources::Resources,
    wait::wait_for,
    yaml::to_yaml,
};

#[derive(Debug)]
pub struct Agent {
    node: Node,
    directory: PathBuf,
    running: Option<Running>,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
    binary: Option<PathBuf>,
    capabilities: Vec<u8>,
}

/// What the unit in `deploy/` starts it with: `CAP_NET_ADMIN`, `CAP_SYS_PTRACE`, `CAP_SYS_ADMIN`.
pub const AGENT_CAPABILITIES: [u8; 3] = [12, 19, 21];

impl Agent {
    /// Writes the node file, starts the agent, waits until it is ready.
    pub fn start(mesh: &Mesh, node: &Node) -> Result<Agent> {
        let mut agent = Agent::prepare(mesh, node)?;
        agent.launch()?;
        agent.wait_until_ready()?;
        Ok(agent)
    }

    /// Writes the node file only.
    pub fn prepare(mesh: &Mesh, node: &Node) -> Result<Agent> {
        Agent::prepare_with(node, &to_yaml(&mesh.node_file(node)?))
    }

    /// The same with any text.
    pub fn prepare_with(node: &Node, text: &str) -> Result<Agent> {
        let agent = Agent {
            node: node.clone(),
            directory: node.directory()?,
            running: None,
            environment: vec![(
                "RUST_LOG".into(),
                std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into()),
            )],
            arguments: Vec::new(),
            binary: None,
            capabilities: AGENT_CAPABILITIES.to_vec(),
        };
        agent.write_file(text)?;
        Ok(agent)
    }

    /// For the next launch.
    pub fn with_env(mut self, name: &str, value: &str) -> Agent {
        self.set_env(name, value);
        self
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

    /// For the next launch.
    pub fn with_argument(mut self, argument: &str) -> Agent {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Another build of the agent than the one that was built along, from the next launch on.
    pub fn set_binary(&mut self, binary: &Path) {
        self.binary = Some(binary.to_owned());
    }

    /// For the next launch: other capabilities than those that it needs, by their numbers.
    pub fn set_capabilities(&mut self, numbers: &[u8]) {
        self.capabilities = numbers.to_vec();
    }

    pub fn node(&self) -> &Node {
        &self.node
    }

    pub fn file(&self) -> PathBuf {
        self.directory.join("node.yaml")
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.join("agent.sock")
    }

    /// How the agent is started, for those who want to start it otherwise.
    pub fn program(&self) -> Result<Program> {
        self.program_with(&self.file())
    }

    /// The same with another node file.
    pub fn program_with(&self, file: &Path) -> Result<Program> {
        let binary = match &self.binary {
            Some(binary) => binary.clone(),
            None => find_binary("martlet-agent")?,
        };
        let mut program = self.node.command_in("agent", binary);
        program = program.arg("--config").arg(file).args(&self.arguments);
        program = program.with_capabilities(&self.capabilities).current_dir(&self.directory);
        Ok(self.environment.iter().fold(program, |program, (name, value)| program.env(name, value)))
    }

    pub fn launch(&mut self) -> Result<()> {
        self.running = Some(self.program()?.spawn()?);
        Ok(())
    }

    /// Starts another one beside the one that runs, which is given back. Of the two it is the one that
    /// is asked from now on.
    pub fn launch_successor(&mut self) -> Result<Running> {
        let before = self.running.take().context("the agent is not started")?;
        self.launch()?;
        Ok(before)
    }

    /// The one that is asked from now on.
    pub fn adopt(&mut self, running: Running) {
        self.running = Some(running);
    }

    /// The same, and waits until it has taken over.
    pub fn succeed(&mut self) -> Result<Running> {
        let before = self.launch_successor()?;
        wait_for("the successor to take over", limits::AGENT_READY, || {
            let log = self.log();
            if !self.is_running() {
                bail!("it has ended: {log}\n--\n{}", before.stderr());
            }
            Ok(log.contains("taken over from the agent that lived here").then_some(()))
        })?;
        self.wait_until_ready()?;
        Ok(before)
    }

    pub fn wait_until_ready(&mut self) -> Result<()> {
        let ready = wait_for("the agent to be ready", limits::AGENT_READY, || {
            if !self.running_mut()?.is_running() {
                bail!("the agent has ended");
            }
            Ok(matches!(self.admin("/readyz"), Ok(Response { status: 200, .. })).then_some(()))
        });
        ready.with_context(|| format!("node {}: {}", self.node.name(), self.last_words()))
    }

    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(Running::pid)
    }

    pub fn resources(&self) -> Result<Resources> {
        Resources::of(self.pid().context("the agent is not started")?)
    }

    pub fn is_running(&mut self) -> bool {
        self.running.as_mut().is_some_and(Running::is_running)
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.running.as_ref().context("the agent is not started")?.signal(signal)
    }

    /// As the kernel's out-of-memory killer would.
    pub fn kill(&mut self) -> Result<Finished> {
        self.running.take().context("the agent is not started")?.kill()
    }

    /// In order: SIGTERM, and the time to drain.
    pub fn stop(&mut self) -> Result<Finished> {
        self.signal(Signal::SIGTERM)?;
        self.wait_for_end()
    }

    /// Of an agent that was signaled before.
    pub fn wait_for_end(&mut self) -> Result<Finished> {
        self.running.take().context("the agent is not started")?.wait(limits::AGENT_STOP)
    }

    pub fn restart(&mut self) -> Result<()> {
        self.launch()?;
        self.wait_until_ready()
    }

    /// Replaces the node file, and waits until the agent has taken it, or has said why not.
    pub fn reload(&mut self, mesh: &Mesh) -> Result<()> {
        self.reload_text(&to_yaml(&mesh.node_file(&self.node)?))
    }

    /// The same with any text, also a broken one: then the error is the agent's.
    pub fn reload_text(&mut self, text: &str) -> Result<()> {
        if fs::read_to_string(self.file()).is_ok_and(|old| old == text) {
            return Ok(());
        }
        let before = self.get("/status")?;
        self.write_file(text)?;
        self.signal(Signal::SIGHUP)?;
        let error = wait_for("the agent to take the new file", limits::PATIENCE, || {
            let now = self.get("/status")?;
            if now["configuration"] != before["configuration"] {
                return Ok(Some(None));
            }
            let is_new = now["configuration_error"] != before["configuration_error"];
            Ok(is_new.then(|| now["configuration_error"].as_str().map(str::to_owned)))
        })?;
        match error {
            None => Ok(()),
            Some(error) => bail!("the agent refused the file: {error}"),
        }
    }

    /// An answer of the Unix socket, such as `/status`.
    pub fn get(&self, target: &str) -> Result<Value> {
        let response = http::get_unix(&self.socket(), target)?;
        if response.status != 200 {
            bail!("{target} answered {}: {}", response.status, response.body);
        }
        serde_json::from_str(&response.body)
            .with_context(|| format!("parsing the answer of {target}"))
    }

    /// An answer of the admin address inside the node, such as `/readyz` or `/metrics`.
    pub fn admin(&self, target: &str) -> Result<Response> {
        self.node.run(|| http::get_tcp(SocketAddr::from(([127, 0, 0, 1], 15020)), target))?
    }

    /// The value of a metric summed over the label sets that contain all given `name="value"` pairs.
    pub fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let text = self.admin("/metrics")?.body;
        let matching = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|label| line.contains(label))
        });
        Ok(matching.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// How often the kernel programs of this node have reached a verdict.
    pub fn verdicts(&self, hook: &str, verdict: &str) -> Result<u64> {
        let status = self.get("/status")?;
        let counters = status["counters"].as_array().context("the status has no counters")?;
        let wanted = counters.iter().find(|c| c["hook"] == hook && c["verdict"] == verdict);
        wanted
            .and_then(|counter| counter["count"].as_u64())
            .with_context(|| format!("there is no counter {hook}/{verdict}"))
    }

    /// All access records so far.
    pub fn records(&self) -> Result<Vec<Value>> {
        let path = self.directory.join("access.log");
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            text => text.context("reading the access log")?,
        };
        // The last line may still be on its way.
        let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
        complete
            .lines()
            .map(|line| serde_json::from_str(line).context("parsing an access record"))
            .collect()
    }

    pub fn wait_for_record(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        self.wait_for_record_within(what, limits::PATIENCE, wanted)
    }

    pub fn wait_for_record_within(
        &self,
        what: &str,
        within: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        wait_for(&format!("a record of {what}"), within, || {
            Ok(self.records()?.into_iter().find(&wanted))
        })
        .with_context(|| format!("node {}: records {:#?}", self.node.name(), self.records()))
    }

    /// What the agent has logged since its last launch.
    pub fn log(&self) -> String {
        self.running
            .as_ref()
            .map(|running| running.stderr() + &running.stdout())
            .unwrap_or_default()
    }

    fn last_words(&self) -> String {
        let log = self.log();
        let from = log.char_indices().rev().nth(4000).map_or(0, |(at, _)| at);
        log[from..].to_owned()
    }

    fn running_mut(&mut self) -> Result<&mut Running> {
        self.running.as_mut().context("the agent is not started")
    }

    /// At once for whoever reads it: a rename, as configuration tools do.
    fn write_file(&self, text: &str) -> Result<()> {
        let new: &Path = &self.directory.join(".node.yaml.new");
        fs::write(new, text).context("writing the node file")?;
        fs::rename(new, self.file()).context("replacing the node file")
    }
}
