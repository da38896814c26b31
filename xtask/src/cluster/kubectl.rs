//! kubectl, against one cluster.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::place::Place;

/// The one that was built with the cluster's other programs.
pub fn command(place: &Place) -> Command {
    let mut command = Command::new(place.path("programs").join("kubectl"));
    command.arg("--kubeconfig").arg(place.kubeconfig());
    command
}

pub fn output(place: &Place, arguments: &[&str]) -> Result<String> {
    let mut kubectl = command(place);
    kubectl.args(["--request-timeout", "5s"]).args(arguments);
    let output = kubectl.stdin(Stdio::null()).output().context("starting kubectl")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "kubectl {}: {}", arguments.join(" "), complaint.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

pub fn items(place: &Place, kind: &str) -> Result<Vec<Value>> {
    let list = output(place, &["get", kind, "--output", "json"])?;
    let list: Value = serde_json::from_str(&list).context("reading what kubectl says")?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

pub fn apply(place: &Place, manifests: &str) -> Result<()> {
    let mut child = command(place)
        .args(["--request-timeout", "20s", "apply", "--filename", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting kubectl")?;
    let mut input = child.stdin.take().context("kubectl's input is piped")?;
    input.write_all(manifests.as_bytes()).context("writing to kubectl")?;
    drop(input);
    let output = child.wait_with_output().context("waiting for kubectl")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "kubectl apply: {}", complaint.trim());
    Ok(())
}
