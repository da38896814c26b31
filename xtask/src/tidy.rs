//! What the compiler does not check: which crate may import which, who alone may name a library,
//! how long a file may be, and what must not be in the tree.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

/// The crates of ours that each crate may import. A crate that is not listed may import nothing.
const EDGES: &[(&str, &[&str])] = &[
    ("ebpf/shared", &[]),
    ("ebpf/programs", &["ebpf-shared"]),
    ("userspace/model", &[]),
    ("userspace/policy", &["model"]),
    ("userspace/identity", &["model"]),
    ("userspace/authority", &["model", "identity"]),
    ("userspace/telemetry", &["model"]),
    ("userspace/standalone", &["model", "policy"]),
    ("userspace/kernel", &["model", "ebpf-shared", "ebpf"]),
    ("userspace/dataplane", &["model", "policy", "identity"]),
    (
        "userspace/agent",
        &[
            "model",
            "policy",
            "identity",
            "authority",
            "telemetry",
            "standalone",
            "kernel",
            "dataplane",
        ],
    ),
    ("userspace/cli", &["model", "authority", "telemetry"]),
];

/// Words that only these directories of `userspace` may use in code.
const ALONE: &[(&str, &[&str])] = &[
    ("rustls::", &["userspace/identity"]),
    ("aya::", &["userspace/kernel"]),
    ("nix::", &["userspace/kernel"]),
    ("libc::", &["userspace/kernel"]),
    ("unsafe ", &["userspace/kernel"]),
    ("rcgen::", &["userspace/identity", "userspace/authority"]),
];

const FORBIDDEN_PACKAGES: &[&str] =
    &["ring", "openssl", "openssl-sys", "native-tls", "serde_yaml", "serde_yml"];

const LONGEST_FILE: usize = 500;

pub fn run() -> Result<()> {
    let mut findings = Vec::new();
    for directory in crates()? {
        let path = Path::new(&directory).join("Cargo.toml");
        let manifest = fs::read_to_string(&path).with_context(|| format!("reading {path:?}"))?;
        findings.extend(edges(&directory, &manifest, allowed(&directory)));
    }
    for path in rust_files(Path::new("."))? {
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path:?}"))?;
        findings.extend(source(&path, &text));
    }
    findings.extend(packages(&tree()?));
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => Ok(()),
        count => bail!("{count} findings"),
    }
}

/// The directories of all crates that are part of the product.
fn crates() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for parent in ["ebpf", "userspace"] {
        for entry in fs::read_dir(parent).with_context(|| format!("listing {parent}"))? {
            let entry = entry?;
            if entry.path().join("Cargo.toml").exists() {
                found.push(format!("{parent}/{}", entry.file_name().to_string_lossy()));
            }
        }
    }
    found.sort();
    Ok(found)
}

fn allowed(directory: &str) -> &'static [&'static str] {
    EDGES.iter().find(|(known, _)| *known == directory).map_or(&[], |(_, allowed)| *allowed)
}

fn edges(directory: &str, manifest: &str, allowed: &[&str]) -> Vec<String> {
    let code = manifest.split("[dev-dependencies]").next().unwrap_or(manifest);
    let build = manifest.split("[build-dependencies]").nth(1).unwrap_or("");
    [code, build]
        .iter()
        .flat_map(|part| part.lines())
        .filter_map(|line| line.strip_prefix("martlet-"))
        .filter_map(|rest| rest.split(['.', ' ', '=']).next())
        .filter(|name| !allowed.contains(name))
        .map(|name| format!("{directory}: may not import martlet-{name}"))
        .collect()
}

fn source(path: &Path, text: &str) -> Vec<String> {
    let shown = path.strip_prefix(".").unwrap_or(path).display().to_string();
    let mut findings = Vec::new();
    if !text.starts_with("//!") {
        findings.push(format!("{shown}: does not begin with what it is for (`//!`)"));
    }
    if text.lines().count() > LONGEST_FILE {
        findings.push(format!("{shown}: longer than {LONGEST_FILE} lines"));
    }
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or("");
        if shown.starts_with("userspace/") && !shown.contains("/tests/") {
            for (word, directories) in ALONE {
                let owned = directories.iter().any(|directory| shown.starts_with(directory));
                if !owned && names(code, word) {
                    findings.push(format!("{shown}:{}: may not name {word}", number + 1));
                }
            }
        }
        if code.contains(concat!("#[ign", "ore")) {
            findings.push(format!("{shown}:{}: an ignored test", number + 1));
        }
    }
    findings
}

/// Whether `code` has `word`, and not only as the end of a longer one.
fn names(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|char| char.is_alphanumeric() || char == '_')
    })
}

/// What is compiled, a package a line. `Cargo.lock` also has what no feature turns on.
fn tree() -> Result<String> {
    let arguments =
        ["tree", "--workspace", "--target", "all", "--edges", "all", "--prefix", "none"];
    let output = Command::new("cargo").args(arguments).output().context("running cargo tree")?;
    ensure!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn packages(tree: &str) -> Vec<String> {
    let named = |name: &&&str| tree.lines().any(|line| line.split(' ').next() == Some(**name));
    FORBIDDEN_PACKAGES
        .iter()
        .filter(named)
        .map(|name| format!("Cargo.toml: {name} must not be in the tree (`cargo tree -i {name}`)"))
        .collect()
}

fn rust_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| format!("listing {directory:?}"))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            files.extend(rust_files(&path)?);
        } else if name.ends_with(".rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_that_is_not_drawn_is_found() {
        let manifest = "[dependencies]\nmartlet-model.workspace = true\nmartlet-kernel = {}\n\
            [dev-dependencies]\nmartlet-authority.workspace = true\n";
        let found = edges("userspace/policy", manifest, &["model"]);
        assert_eq!(found, ["userspace/policy: may not import martlet-kernel"]);
        assert_eq!(allowed("userspace/policy"), ["model"]);
        assert!(allowed("userspace/not-drawn").is_empty());
    }

    #[test]
    fn a_library_is_named_only_where_it_may_be() {
        let text = "//! A file.\nuse rustls::ClientConfig;\n// rustls:: in a comment\n";
        assert_eq!(source(Path::new("userspace/policy/src/lib.rs"), text).len(), 1);
        assert_eq!(source(Path::new("userspace/identity/src/lib.rs"), text).len(), 0);
    }

    #[test]
    fn the_end_of_a_longer_name_is_no_name() {
        assert!(names("use nix::sched;", "nix::") && names("(nix::sched)", "nix::"));
        assert!(!names("use std::os::unix::fs;", "nix::"));
    }

    #[test]
    fn a_file_says_what_it_is_for_and_is_not_too_long() {
        assert_eq!(source(Path::new("xtask/src/a.rs"), "fn a() {}\n").len(), 1);
        let long = format!("//! Long.\n{}", "\n".repeat(LONGEST_FILE));
        assert_eq!(source(Path::new("xtask/src/a.rs"), &long).len(), 1);
    }

    #[test]
    fn a_second_crypto_provider_is_found() {
        assert_eq!(packages("rustls v0.23.46\nring v0.17.14 (*)\n").len(), 1);
        assert!(packages("aws-lc-rs v1.19.0\nstring v1.0.0\n").is_empty());
    }
}
