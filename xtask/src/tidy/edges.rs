//! Which crate of ours may import which, and who alone may depend on a library.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Finding;
use crate::command::cargo;

/// The crates of ours that each crate may import, tests aside. Names without `martlet-`.
const EDGES: &[(&str, &[&str])] = &[
    ("ebpf-shared", &[]),
    ("ebpf", &["ebpf-shared"]),
    ("model", &[]),
    ("policy", &["model"]),
    ("identity", &["model"]),
    ("authority", &["model", "identity"]),
    ("control", &["model", "policy", "identity"]),
    ("federation", &["model", "identity"]),
    ("workload-api", &["model", "identity"]),
    ("kubernetes", &["model", "policy"]),
    // Nothing: it is linked statically, and started for every pod.
    ("cni", &[]),
    ("telemetry", &["model"]),
    ("traces", &["model", "identity"]),
    ("standalone", &["model", "policy"]),
    // The programs themselves only to build them.
    ("kernel", &["model", "ebpf-shared", "ebpf"]),
    ("dataplane", &["model", "policy", "identity"]),
    (
        "agent",
        &[
            "model",
            "policy",
            "identity",
            "authority",
            "control",
            "cni",
            "telemetry",
            "traces",
            "standalone",
            "kernel",
            "dataplane",
            "workload-api",
        ],
    ),
    (
        "controller",
        &[
            "model",
            "policy",
            "identity",
            "authority",
            "control",
            "federation",
            "kubernetes",
            "telemetry",
            "standalone",
        ],
    ),
    ("manifests", &["model"]),
    ("cli", &["model", "policy", "authority", "kubernetes", "manifests"]),
    // The lab judges the product from outside, as a user would see it.
    ("lab", &[]),
    ("played", &[]),
    // Nodes' certificates and handshakes; the controller that is measured is the program.
    ("scale", &["played", "model", "identity", "authority"]),
    ("demo", &["lab"]),
    ("bench", &["lab"]),
    (
        "tests-kernel",
        &[
            "lab",
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
    // The product is seen only through its images, the API server, and the wire.
    ("tests-kubernetes", &["lab", "played"]),
    ("xtask", &[]),
];

/// Libraries that only these crates may depend on.
const ALONE: &[(&str, &[&str])] = &[
    ("rustls", &["identity"]),
    ("tokio-rustls", &["identity"]),
    ("rustls-webpki", &["identity"]),
    // The authority reads and writes PEM with it.
    ("rustls-pki-types", &["identity", "authority"]),
    ("aws-lc-rs", &["identity", "authority", "tests-kernel"]),
    ("rcgen", &["identity", "authority"]),
    ("tonic", &["control", "traces", "workload-api", "scale"]),
    ("kube", &["kubernetes"]),
    ("k8s-openapi", &["kubernetes"]),
    ("prost", &["control", "traces", "workload-api", "scale"]),
    // `ebpf-shared` only says which of its types are plain memory.
    ("aya", &["kernel", "ebpf-shared"]),
    ("aya-build", &["kernel"]),
    ("aya-obj", &["kernel"]),
    ("aya-ebpf", &["ebpf"]),
    ("nix", &["kernel", "lab", "demo", "bench", "scale", "tests-kernel"]),
    ("libc", &["kernel", "lab", "demo", "bench", "tests-kernel"]),
];

pub fn check() -> Result<Vec<Finding>> {
    let output = cargo("metadata")
        .args(["--no-deps", "--format-version", "1"])
        .output()
        .context("running cargo metadata")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata = serde_json::from_slice(&output.stdout).context("reading cargo metadata")?;
    Ok(findings(&metadata))
}

fn findings(metadata: &Value) -> Vec<Finding> {
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    packages.iter().flat_map(package).collect()
}

fn package(package: &Value) -> Vec<Finding> {
    let name = package["name"].as_str().map(ours).unwrap_or_default();
    let Some((_, allowed)) = EDGES.iter().find(|(known, _)| *known == name) else {
        return vec![format!(
            "{name}: stands in no table of crate edges (xtask/src/tidy/edges.rs)"
        )];
    };
    let dependencies = package["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut findings = Vec::new();
    for dependency in dependencies.iter().filter(|dependency| dependency["kind"] != "dev") {
        let Some(wanted) = dependency["name"].as_str() else { continue };
        if dependency["path"].is_string() {
            if !allowed.contains(&ours(wanted)) {
                findings.push(format!("{name}: may not import {wanted}"));
            }
        } else if let Some((_, owners)) = ALONE.iter().find(|(library, _)| *library == wanted)
            && !owners.contains(&name)
        {
            findings.push(format!("{name}: may not depend on {wanted}, only {owners:?} may"));
        }
    }
    findings
}

fn ours(name: &str) -> &str {
    name.strip_prefix("martlet-").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(name: &str, dependency: Value) -> Vec<Finding> {
        findings(&json!({ "packages": [{ "name": name, "dependencies": [dependency] }] }))
    }

    #[test]
    fn an_edge_that_is_not_drawn_is_found() {
        let kernel = json!({ "name": "martlet-kernel", "kind": null, "path": "userspace/kernel" });
        assert_eq!(
            found("martlet-policy", kernel.clone()),
            ["policy: may not import martlet-kernel"]
        );
        assert!(found("martlet-agent", kernel).is_empty());
    }

    #[test]
    fn tests_may_import_more() {
        let kernel = json!({ "name": "martlet-kernel", "kind": "dev", "path": "userspace/kernel" });
        assert!(found("martlet-policy", kernel).is_empty());
    }

    #[test]
    fn a_library_is_used_only_where_it_may_be() {
        let library = json!({ "name": "rustls", "kind": null });
        assert_eq!(found("martlet-dataplane", library.clone()).len(), 1);
        assert!(found("martlet-identity", library).is_empty());
    }

    #[test]
    fn a_crate_that_is_in_no_table_is_found() {
        assert_eq!(found("martlet-common", json!({ "name": "anyhow", "kind": null })).len(), 1);
    }
}
