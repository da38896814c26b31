//! A cluster by kind, for machines that have Docker: made, given the product's image, removed.
//!
//! Where Docker, kind, its node image or ours is missing, it says which, and what to do.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::command::{find, output, run as run_command};

#[derive(clap::Args)]
pub struct Args {
    #[arg(long, default_value = "martlet", env = "MARTLET_CLUSTER")]
    name: String,
    #[command(subcommand)]
    task: Task,
}

#[derive(clap::Subcommand)]
enum Task {
    /// Make the cluster, and load the product's image.
    Up {
        /// The first one is the control plane; it runs pods if it is alone.
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=9))]
        nodes: u8,
        /// What `cargo xtask image` has written.
        #[arg(long, default_value = "target/image/martlet.tar")]
        image: PathBuf,
    },
    /// Load an image, as a tar archive, into every node.
    Load { archive: PathBuf },
    /// Remove the cluster.
    Down,
}

pub fn run(args: &Args) -> Result<()> {
    let archive = match &args.task {
        Task::Up { image, .. } => Some(image.as_path()),
        Task::Load { archive } => Some(archive.as_path()),
        Task::Down => None,
    };
    let missing = missing(archive, |program| find(program).is_some(), has_daemon);
    if !missing.is_empty() {
        bail!("kind cannot be used here:\n  {}", missing.join("\n  "));
    }
    let kind = |arguments: &[&str]| {
        let mut kind = Command::new("kind");
        kind.args(arguments).args(["--name", &args.name]);
        kind
    };
    match &args.task {
        Task::Up { nodes, image } => {
            create(kind(&["create", "cluster", "--wait", "3m", "--config", "-"]), *nodes)?;
            run_command(kind(&["load", "image-archive"]).arg(image))
        }
        Task::Load { archive } => run_command(kind(&["load", "image-archive"]).arg(archive)),
        Task::Down => run_command(&mut kind(&["delete", "cluster"])),
    }
}

fn create(mut kind: Command, nodes: u8) -> Result<()> {
    let mut child = kind.stdin(Stdio::piped()).spawn().context("starting kind")?;
    let mut input = child.stdin.take().context("kind's input is piped")?;
    input.write_all(config(nodes).as_bytes()).context("writing to kind")?;
    drop(input);
    let status = child.wait().context("waiting for kind")?;
    ensure!(
        status.success(),
        "kind made no cluster ({status}); if it says that it cannot pull its node image \
         (kindest/node), load one with `docker load`, or use `cargo xtask cluster up`, which \
         needs neither"
    );
    Ok(())
}

fn config(nodes: u8) -> String {
    let workers = "- role: worker\n".repeat(usize::from(nodes.saturating_sub(1)));
    format!(
        "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnodes:\n- role: control-plane\n{workers}"
    )
}

/// Whether Docker answers; the command alone does nothing.
fn has_daemon() -> bool {
    output("docker", &["version", "--format", "{{.Server.Version}}"]).is_some()
}

/// All that is missing, not only the first thing.
fn missing(
    archive: Option<&Path>,
    has: impl Fn(&str) -> bool,
    has_daemon: impl Fn() -> bool,
) -> Vec<String> {
    let mut missing = Vec::new();
    if !has("docker") {
        missing.push("docker is not installed (Debian: apt-get install docker.io)".to_owned());
    } else if !has_daemon() {
        missing.push("docker does not answer: is its daemon running, may you use it?".to_owned());
    }
    if !has("kind") {
        missing
            .push("kind is not installed (Debian 13 and later: apt-get install kind)".to_owned());
    }
    if let Some(archive) = archive.filter(|archive| !archive.is_file()) {
        let path = archive.display();
        missing.push(format!("there is no image at {path}: `cargo xtask image` writes one"));
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(archive: &str, programs: &[&str], daemon: bool) -> Vec<String> {
        missing(Some(Path::new(archive)), |program| programs.contains(&program), || daemon)
    }

    #[test]
    fn everything_that_is_missing_is_named_at_once() {
        let all = found("no/such/image.tar", &[], false);
        assert_eq!(all.len(), 3, "{all:?}");
        for (named, word) in all.iter().zip(["docker", "kind", "cargo xtask image"]) {
            assert!(named.contains(word), "{named}");
        }
    }

    #[test]
    fn a_docker_that_does_not_answer_is_as_good_as_none() {
        let silent = found("Cargo.toml", &["docker", "kind"], false);
        assert_eq!(silent.len(), 1);
        assert!(silent[0].contains("does not answer"), "{silent:?}");
        assert!(found("Cargo.toml", &["docker", "kind"], true).is_empty());
    }

    #[test]
    fn nodes_are_a_control_plane_and_workers() {
        assert_eq!(config(3).matches("- role: worker").count(), 2);
        assert_eq!(config(1).matches("- role: ").count(), 1);
    }
}
