//! `martlet install` and its like, and what they refuse: of a played API server.

use std::process::Output;

use serde_json::{Value, json};

use crate::{
    api::{Api, Objects},
    run, stderr,
};

const CONTROLLER: &str = "/apis/apps/v1/namespaces/martlet-system/deployments/martlet-controller";
const RIGHTS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

/// A cluster in which this user may do everything, and `by` has installed Martlet.
fn cluster(by: Option<&str>) -> Api {
    let mut objects = Objects::default();
    let allowed = json!({
        "kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1",
        "metadata": {}, "spec": {}, "status": {"allowed": true},
    });
    objects.answers.insert(RIGHTS.to_owned(), allowed);
    if let Some(by) = by {
        objects.answers.insert(CONTROLLER.to_owned(), installed_by(by));
    }
    Api::start(objects)
}

fn installed_by(by: &str) -> Value {
    let labels = json!({
        "app.kubernetes.io/managed-by": by,
        "app.kubernetes.io/version": env!("CARGO_PKG_VERSION"),
    });
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": {"name": "martlet-controller", "namespace": "martlet-system", "labels": labels},
    })
}

fn asked(api: &Api, arguments: &[&str]) -> Output {
    let kubeconfig = api.directory().join("kubeconfig");
    let kubeconfig = kubeconfig.to_str().unwrap();
    run("/nowhere/agent.sock".as_ref(), &[arguments, &["--kubeconfig", kubeconfig]].concat())
}

fn refused(api: &Api, arguments: &[&str]) -> String {
    let output = asked(api, arguments);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    stderr(&output).to_owned()
}

#[test]
fn what_helm_has_installed_is_helms_to_change() {
    let api = cluster(Some("Helm"));
    for command in ["install", "upgrade"] {
        let said = refused(&api, &[command]);
        assert!(said.contains("Martlet was installed by Helm, which looks after it"), "{said}");
    }
}

#[test]
fn what_martlet_has_installed_is_applied_again() {
    let api = cluster(Some("martlet"));
    for command in ["install", "upgrade"] {
        // It gets as far as to where this server knows no more.
        let said = refused(&api, &[command]);
        assert!(!said.contains("looks after it"), "{said}");
        assert!(said.contains("customresourcedefinitions"), "{said}");
    }
}

#[test]
fn a_monitor_is_refused_where_its_kind_is_not_known_before_anything_is_applied() {
    let said = refused(&cluster(None), &["install", "--set", "metrics.podMonitor=true"]);
    assert!(said.contains("metrics.podMonitor: this cluster has no such kind"), "{said}");
    assert!(!said.contains("customresourcedefinitions"), "{said}");
}

#[test]
fn a_cluster_is_named_before_the_command_or_after_it() {
    let api = cluster(Some("Helm"));
    let kubeconfig = api.directory().join("kubeconfig");
    let kubeconfig = kubeconfig.to_str().unwrap();
    for arguments in [
        ["--kubeconfig", kubeconfig, "--context", "played", "install"],
        ["install", "--kubeconfig", kubeconfig, "--context", "played"],
    ] {
        let output = run("/nowhere/agent.sock".as_ref(), &arguments);
        assert!(stderr(&output).contains("installed by Helm"), "{output:?}");
    }
    let said = refused(&api, &["install", "--context", "another"]);
    assert!(said.contains("name a cluster by --kubeconfig or --context"), "{said}");
}

#[test]
fn the_system_namespace_is_that_which_is_said() {
    // Helm's is elsewhere.
    let said = refused(&cluster(Some("Helm")), &["upgrade", "--namespace-system", "mesh"]);
    assert!(said.contains("Martlet is not installed in mesh"), "{said}");
}

#[test]
fn single_nodes_are_not_installed() {
    let api = cluster(None);
    for command in ["install", "upgrade", "uninstall"] {
        let said = refused(&api, &[command, "--node", "one"]);
        assert!(said.contains("agent.nodeSelector"), "{said}");
    }
}
