//! What is built and run by other than cargo: the binaries, and the programs that test on the kernel
//! and on clusters.
//!
//! Everything is built with the same choice of packages. Another choice would select other features
//! of the same libraries, and so build these once more.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{build::ALL_BUT_EBPF, command::cargo};

/// A package of tests that need more than what cargo runs unit tests with.
pub struct Tests {
    pub package: &'static str,
    /// Where cargo would run them.
    pub directory: &'static str,
}

pub const KERNEL: Tests = Tests { package: "martlet-tests-kernel", directory: "tests/kernel" };
pub const KUBERNETES: Tests =
    Tests { package: "martlet-tests-kubernetes", directory: "tests/kubernetes" };

impl Tests {
    /// Name and path of each program, built by the same command as the unit tests: what is tested,
    /// the release builds, is named by [`variables`].
    pub fn programs(&self) -> Result<Vec<(String, PathBuf)>> {
        let mut build = cargo("test");
        build.args(ALL_BUT_EBPF).args(["--no-run", "--message-format", "json-render-diagnostics"]);
        let output = build.stderr(Stdio::inherit()).output().context("building the tests")?;
        ensure!(output.status.success(), "the tests don't build");
        let all = self.among(&String::from_utf8_lossy(&output.stdout));
        ensure!(!all.is_empty(), "cargo names no tests of {}", self.package);
        Ok(all)
    }

    fn among(&self, messages: &str) -> Vec<(String, PathBuf)> {
        let read = |line: &str| {
            let message: Value = serde_json::from_str(line).ok()?;
            let path = message["executable"].as_str()?.into();
            let manifest = Path::new(message["manifest_path"].as_str()?);
            let is_theirs = manifest.ends_with(Path::new(self.directory).join("Cargo.toml"));
            let name = message["target"]["name"].as_str()?.to_owned();
            is_theirs.then_some((name, path))
        };
        let mut all: Vec<_> = messages.lines().filter_map(read).collect();
        all.sort();
        all
    }
}

/// By which variables the lab finds the binaries that were built for release.
pub fn variables() -> Result<Vec<(String, PathBuf)>> {
    let own = std::env::current_exe().context("finding the running binary")?;
    // target/<profile>/xtask
    let target = own.parent().and_then(Path::parent).context("a binary is in target/<profile>")?;
    let mut found = Vec::new();
    for entry in fs::read_dir(target.join("release")).context("looking for release builds")? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.filter(|name| !name.contains('.')).unwrap_or_default();
        let is_program = path.is_file() && path.metadata()?.permissions().mode() & 0o111 != 0;
        if is_program && !name.is_empty() {
            found.push((name.to_uppercase().replace('-', "_"), path));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_tests_of_one_package_are_chosen() {
        let line = |package: &str, name: &str| {
            format!(
                r#"{{"executable": "/t/{name}-1", "manifest_path": "/w/{package}/Cargo.toml", "target": {{"name": "{name}"}}}}"#
            )
        };
        let messages = [
            line("tests/kernel", "wire"),
            line("userspace/authority", "keys"),
            line("tests/kernel", "keys"),
            r#"{"reason": "build-finished", "success": true}"#.to_owned(),
        ]
        .join("\n");
        let names: Vec<_> = KERNEL.among(&messages).into_iter().map(|one| one.0).collect();
        assert_eq!(names, ["keys", "wire"]);
    }
}
