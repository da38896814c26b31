//! What must not be compiled: other cryptography, abandoned libraries, the same library twice.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};

use super::Finding;
use crate::command::cargo;

const FORBIDDEN: &[(&str, &str)] = &[
    ("ring", "aws-lc-rs is the only cryptography"),
    ("openssl", "aws-lc-rs is the only cryptography"),
    ("openssl-sys", "aws-lc-rs is the only cryptography"),
    ("native-tls", "rustls is the only TLS"),
    ("serde_yaml", "it is not maintained; serde-saphyr reads YAML"),
    ("serde_yml", "it is not sound; serde-saphyr reads YAML"),
    ("rustls-pemfile", "it is not maintained; rustls-pki-types reads PEM"),
];

/// Direct dependencies that another library has in an older or newer version, and which.
const TWICE: &[(&str, &str)] = &[];

pub fn check() -> Result<Vec<Finding>> {
    // What is compiled, a package a line. `Cargo.lock` also has what no feature turns on.
    let compiled = tree(&["--edges", "all", "--target", "all", "--prefix", "none"])?;
    let direct = tree(&["--edges", "normal,build", "--depth", "1", "--prefix", "none"])?;
    let product = tree(&["--edges", "normal,build", "--prefix", "none"])?;
    let lock = std::fs::read_to_string("Cargo.lock").context("reading Cargo.lock")?;
    Ok([forbidden(&compiled), twice(&direct, &product), strange_sources(&lock)].concat())
}

fn tree(arguments: &[&str]) -> Result<String> {
    let output =
        cargo("tree").arg("--workspace").args(arguments).output().context("running cargo tree")?;
    ensure!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Name and version of each line such as `serde v1.0.228 (proc-macro)`.
fn packages(tree: &str) -> impl Iterator<Item = (&str, &str)> {
    tree.lines().filter_map(|line| {
        let mut parts = line.split(' ');
        Some((parts.next()?, parts.next()?))
    })
}

fn forbidden(compiled: &str) -> Vec<Finding> {
    let names: BTreeSet<_> = packages(compiled).map(|(name, _)| name).collect();
    FORBIDDEN
        .iter()
        .filter(|(name, _)| names.contains(name))
        .map(|(name, why)| format!("{name} is compiled (`cargo tree -i {name}`), but {why}"))
        .collect()
}

fn twice(direct: &str, product: &str) -> Vec<Finding> {
    let mut versions: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for (name, version) in packages(product) {
        versions.entry(name).or_default().insert(version);
    }
    let direct: BTreeSet<_> = packages(direct).map(|(name, _)| name).collect();
    direct
        .into_iter()
        .filter(|name| versions.get(name).is_some_and(|versions| versions.len() > 1))
        .filter(|name| !TWICE.iter().any(|(known, _)| known == name))
        .map(|name| format!("{name} is compiled in several versions (`cargo tree -d`)"))
        .collect()
}

/// Only the usual registry: what is built must be what was published.
fn strange_sources(lock: &str) -> Vec<Finding> {
    const USUAL: &str = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
    let sources = lock.lines().filter(|line| line.starts_with("source = "));
    sources.filter(|line| *line != USUAL).map(|line| format!("Cargo.lock: {line}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_crypto_provider_is_found() {
        assert_eq!(forbidden("rustls v0.23.46\nring v0.17.14 (*)\n").len(), 1);
        assert!(forbidden("aws-lc-rs v1.19.0\nstring v1.0.0\n").is_empty());
    }

    #[test]
    fn a_direct_dependency_in_two_versions_is_found() {
        let product = "rand v0.9.5\nfoo v1.0.0\nrand v0.10.4\nsyn v2.0.0\nsyn v3.0.0\n";
        let found = twice("foo v1.0.0\nrand v0.9.5\n", product);
        assert_eq!(found, ["rand is compiled in several versions (`cargo tree -d`)"]);
        assert!(twice("foo v1.0.0\n", product).is_empty());
    }

    #[test]
    fn a_source_that_is_not_the_registry_is_found() {
        let usual = "source = \"registry+https://github.com/rust-lang/crates.io-index\"\n";
        assert!(strange_sources(usual).is_empty());
        let fork = "source = \"git+https://example.org/fork#0123\"\n";
        assert_eq!(strange_sources(&format!("{usual}{fork}")).len(), 1);
    }
}
