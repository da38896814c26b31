//! `martlet uninstall` where not everything goes as it should: on a real cluster.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use martlet_lab::wait_for;
use martlet_tests_kubernetes::{Mesh, PATIENCE, has_condition};

const NODES: [&str; 2] = ["node1", "node2"];

fn said(mesh: &Mesh, arguments: &[&str], is_success: bool) -> Result<String> {
    let output = mesh.own.martlet(arguments)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success() == is_success, "martlet {}:\n{said}", arguments.join(" "));
    Ok(said)
}

fn enrolled(mesh: &Mesh) -> Result<()> {
    mesh.install()?;
    mesh.label("=permissive")?;
    mesh.until_steered()
}

fn traces(mesh: &Mesh) -> Result<Vec<String>> {
    NODES.iter().map(|node| mesh.own.traces(node)).collect()
}

/// One cluster for both: to make one takes longer than what is shown on it.
#[test]
fn an_uninstall_is_finished_after_it_was_interrupted_and_without_nodes_that_are_away() -> Result<()>
{
    let mesh = Mesh::up()?;
    let before = traces(&mesh)?;
    an_uninstall_that_was_interrupted_is_finished_by_the_next(&mesh, &before)?;
    nodes_that_are_away_are_named_and_left_out_only_if_that_is_said(&mesh, &before)?;
    assert_eq!(mesh.restarts()?, 0);
    Ok(())
}

fn an_uninstall_that_was_interrupted_is_finished_by_the_next(
    mesh: &Mesh,
    before: &[String],
) -> Result<()> {
    enrolled(mesh)?;
    let mut first = mesh.own.martlet_command(&["uninstall"])?.stderr(Stdio::null()).spawn()?;
    // The agents are gone, and the pods that clean up after them are there or have been.
    let system = mesh.system();
    wait_for("the nodes to be visited", PATIENCE, || {
        Ok(system.run(&["get", "pod", "martlet-uninstall-node1"]).ok())
    })?;
    first.kill().context("interrupting it")?;
    ensure!(!first.wait()?.success(), "it ended before it could be interrupted");
    assert!(system.run(&["get", "daemonset", "martlet-agent"]).is_err());
    system.run(&["get", "configmap", "martlet"])?;
    let second = said(mesh, &["uninstall"], true)?;
    for node in NODES {
        assert!(second.contains(&format!("{node}: left as it was")), "{second}");
    }
    assert_eq!(traces(mesh)?, before, "{second}");
    assert!(system.run(&["get", "configmap", "martlet"]).is_err());
    let pods = system.run(&["get", "pods", "--output", "name"])?;
    assert!(!pods.contains("martlet-uninstall"), "{pods}");
    mesh.until_answered("client")?;
    assert!(said(mesh, &["uninstall"], true)?.contains("is not installed"));
    Ok(())
}

fn nodes_that_are_away_are_named_and_left_out_only_if_that_is_said(
    mesh: &Mesh,
    before: &[String],
) -> Result<()> {
    enrolled(mesh)?;
    let kubelet = |signal: &str| {
        let script = format!(
            "kill -{signal} $(cat /sys/fs/cgroup/unified/system.slice/kubelet.service/cgroup.procs /sys/fs/cgroup/system.slice/kubelet.service/cgroup.procs 2>/dev/null)"
        );
        mesh.own.task(&["exec", "node2", "bash", "-c", &script])
    };
    let until_ready = |wanted: bool| {
        wait_for(&format!("node2 to be ready: {wanted}"), PATIENCE, || {
            let node = mesh.kubectl.get(&["node", "node2"])?;
            Ok((has_condition(&node, "Ready") == wanted).then_some(()))
        })
    };
    kubelet("STOP")?;
    until_ready(false)?;
    let refused = said(mesh, &["uninstall"], false)?;
    assert!(refused.contains("not ready, so that what is on them cannot be removed: node2;"));
    mesh.system().run(&["get", "daemonset", "martlet-agent"])?;
    let left = said(mesh, &["uninstall", "--skip-unready"], true)?;
    assert!(left.contains("node1: left as it was") && left.contains("node2: not ready"), "{left}");
    let there = traces(mesh)?;
    assert_eq!(there[0], before[0], "{left}");
    assert_ne!(there[1], before[1]);
    // When it is back it can be left, too.
    kubelet("CONT")?;
    until_ready(true)?;
    mesh.install()?;
    said(mesh, &["uninstall"], true)?;
    assert_eq!(traces(mesh)?, before);
    mesh.until_answered("client")
}
