//! kubectl against one cluster: run, ask, wait.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use martlet_lab::wait_for;
use serde_json::Value;

/// A pod's image is there already; making its namespaces takes a moment, on a busy machine seconds.
const POD_READY: Duration = Duration::from_secs(90);

#[derive(Debug, Clone)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    /// `None`: what the kubeconfig says.
    namespace: Option<String>,
}

impl Kubectl {
    pub fn new(program: &Path, kubeconfig: &Path) -> Self {
        let (program, kubeconfig) = (program.to_owned(), kubeconfig.to_owned());
        Self { program, kubeconfig, namespace: None }
    }

    /// The same, for objects of another namespace.
    pub fn within(&self, namespace: &str) -> Self {
        Self { namespace: Some(namespace.to_owned()), ..self.clone() }
    }

    /// What it prints, if it succeeds.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments).stdin(Stdio::null()).output();
        let output = output.context("starting kubectl")?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {}: {}", arguments.join(" "), complaint.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// One object, or a list of them.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.run(&[&["get", "--output", "json"], arguments].concat())?;
        serde_json::from_str(&text).context("reading what kubectl says")
    }

    /// Where the API server is reached in plain HTTP, with the rights of the kubeconfig, until the
    /// process is ended.
    pub fn proxy(&self) -> Result<(Child, SocketAddr)> {
        let mut command = self.command(&["proxy", "--port=0"]);
        let mut proxy = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting kubectl proxy")?;
        let said = proxy.stdout.take().context("its output is piped")?;
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line).context("reading where it listens")?;
        let address = line.trim().rsplit(' ').next().and_then(|text| text.parse().ok());
        Ok((proxy, address.with_context(|| format!("kubectl proxy says {line:?}"))?))
    }

    pub fn apply(&self, manifests: &str) -> Result<()> {
        self.feed(&["apply", "--filename", "-"], manifests)
    }

    /// Puts a whole object to a path of the API, such as one that kubectl has no command for.
    pub fn put(&self, path: &str, object: &Value) -> Result<()> {
        self.feed(&["replace", "--raw", path, "--filename", "-"], &object.to_string())
    }

    fn feed(&self, arguments: &[&str], input_text: &str) -> Result<()> {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting kubectl")?;
        let mut input = child.stdin.take().context("kubectl's input is piped")?;
        input.write_all(input_text.as_bytes()).context("writing to kubectl")?;
        drop(input);
        let output = child.wait_with_output().context("waiting for kubectl")?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {}: {}", arguments.join(" "), complaint.trim());
        Ok(())
    }

    /// What a program in a pod prints, if it succeeds.
    pub fn exec(&self, pod: &str, command: &[&str]) -> Result<String> {
        self.run(&[&["exec", pod, "--"], command].concat())
    }

    /// The pod as it is when all its containers are ready.
    pub fn ready_pod(&self, name: &str) -> Result<Value> {
        wait_for(&format!("pod {name} to be ready"), POD_READY, || {
            let pod = self.get(&["pod", name]);
            Ok(pod.ok().filter(|pod| has_condition(pod, "Ready")))
        })
    }

    /// For what is watched while it runs.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        if let Some(namespace) = &self.namespace {
            command.args(["--namespace", namespace]);
        }
        command.args(arguments);
        command
    }
}

/// Whether an object says that something is true of it.
pub fn has_condition(object: &Value, kind: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array().map(Vec::as_slice);
    let is_true = |one: &Value| one["type"] == kind && one["status"] == "True";
    conditions.unwrap_or_default().iter().any(is_true)
}
