//! What belongs to one cluster: its directory, its namespaces, its addresses, its control groups.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use super::cache;

/// Every cluster has these addresses: each is in network namespaces of its own.
pub const CONTROL: &str = "172.30.0.1";
pub const PODS: &str = "10.244.0.0/16";
pub const SERVICES: &str = "10.96.0.0/16";
/// The API server and the name server as services.
pub const API: &str = "10.96.0.1";
pub const NAMES: &str = "10.96.0.10";

/// More would need other addresses.
pub const MOST_NODES: u32 = 9;

/// A cluster that is there, or may be made.
#[derive(Debug, Clone)]
pub struct Place {
    pub name: String,
    pub directory: PathBuf,
}

/// By its number, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Node(pub u32);

impl Place {
    pub fn named(name: &str) -> Result<Self> {
        let is_good = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit();
        ensure!(
            (1..=20).contains(&name.len()) && name.chars().all(is_good),
            "a cluster's name has 1 to 20 small letters and digits, unlike {name:?}"
        );
        let directory = cache::directory()?.join("clusters").join(name);
        Ok(Self { name: name.to_owned(), directory })
    }

    /// Of the control plane, with the bridge between the nodes.
    pub fn netns(&self) -> String {
        format!("cluster-{}", self.name)
    }

    pub fn node_netns(&self, node: Node) -> String {
        format!("{}-{}", self.netns(), node.name())
    }

    pub fn node_directory(&self, node: Node) -> PathBuf {
        self.directory.join(node.name())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub fn log(&self, program: &str) -> PathBuf {
        self.directory.join(format!("{program}.log"))
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.path("kubeconfig")
    }

    /// Writes a file of the cluster's, and says which if it cannot.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        write(&self.path(name), text)
    }

    /// The nodes that were made so far.
    pub fn nodes(&self) -> Vec<Node> {
        let is_there = |node: &Node| self.node_directory(*node).is_dir();
        (1..=MOST_NODES).map(Node).filter(is_there).collect()
    }
}

impl Node {
    pub fn name(self) -> String {
        format!("node{}", self.0)
    }

    pub fn address(self) -> String {
        format!("172.30.0.{}", 10 + self.0)
    }

    pub fn pods(self) -> String {
        format!("10.244.{}.0/24", self.0)
    }
}

pub fn write(path: &Path, text: &str) -> Result<PathBuf> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
    }
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_no_name_of_a_namespace_or_a_directory_is_refused() {
        assert!(Place::named("martlet2").is_ok());
        for name in ["", "..", "a/b", "Upper", "a b", "a-node1", "a23456789012345678901"] {
            assert!(Place::named(name).is_err(), "{name}");
        }
    }
}
