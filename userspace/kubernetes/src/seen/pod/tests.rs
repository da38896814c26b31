//! What is read of a pod.

use martlet_model::Mode;
use serde_json::{Value, json};

use super::*;

fn object(change: impl FnOnce(&mut Value)) -> PodObject {
    let mut value = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": "shop", "name": "web-0", "uid": "u1",
            "creationTimestamp": "2026-01-02T03:04:05Z",
            "labels": {"app": "web", "martlet.dev/mode": "strict"},
        },
        "spec": {
            "nodeName": "one", "serviceAccountName": "web",
            "containers": [{
                "name": "web", "image": "web",
                "ports": [{"name": "http", "containerPort": 8080}],
                "readinessProbe": {"httpGet": {"port": "http"}},
                "livenessProbe": {"tcpSocket": {"port": 9000}},
                "startupProbe": {"grpc": {"port": 9001}},
            }],
        },
        "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]},
    });
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

fn read(change: impl FnOnce(&mut Value)) -> Result<Option<Pod>, Problem> {
    Pod::read(object(change))
}

fn pod(change: impl FnOnce(&mut Value)) -> Pod {
    read(change).unwrap().unwrap()
}

#[test]
fn a_pod_is_who_and_where_and_how_to_reach_it() {
    let pod = pod(|_| {});
    assert_eq!(pod.name.to_string(), "shop/web-0");
    assert_eq!((&*pod.uid, pod.node.as_str()), ("u1", "one"));
    assert_eq!(pod.service_account.as_str(), "web");
    let addresses: Vec<IpAddr> = ["10.0.0.1", "fd00::1"].map(|a| a.parse().unwrap()).into();
    assert_eq!(pod.addresses, addresses);
    assert_eq!(pod.wanted, Some(Wanted::Enrolled(Mode::Strict)));
    assert!(!pod.is_on_host && !pod.is_over && !pod.is_ending);
    assert_eq!(pod.created, 1_767_323_045);
}

#[test]
fn a_pod_without_a_node_does_not_run() {
    assert_eq!(read(|pod| pod["spec"]["nodeName"] = Value::Null), Ok(None));
}

#[test]
fn probes_are_found_by_number_by_name_and_by_a_number_in_quotes() {
    assert_eq!(pod(|_| {}).probes, [8080, 9000, 9001]);
    let quoted = pod(|pod| {
        pod["spec"]["containers"][0]["readinessProbe"]["httpGet"]["port"] = json!("8081");
    });
    assert_eq!(quoted.probes, [8081, 9000, 9001]);
    let init = pod(|pod| {
        let sidecar = json!([{"name": "s", "startupProbe": {"tcpSocket": {"port": 7000}}}]);
        pod["spec"]["initContainers"] = sidecar;
    });
    assert_eq!(init.probes, [7000, 8080, 9000, 9001]);
}

#[test]
fn a_probe_of_no_port_opens_none() {
    for port in [json!("nowhere"), json!(0), json!(-1), json!(65536), json!("0")] {
        let odd = pod(|pod| {
            pod["spec"]["containers"][0]["readinessProbe"]["httpGet"]["port"] = port.clone();
        });
        assert_eq!(odd.probes, [9000, 9001], "{port}");
    }
    let by_command = pod(|pod| {
        let container = &mut pod["spec"]["containers"][0];
        container["readinessProbe"] = json!({"exec": {"command": ["true"]}});
        container["livenessProbe"] = Value::Null;
        container["startupProbe"] = Value::Null;
    });
    assert_eq!(by_command.probes, [0_u16; 0]);
}

#[test]
fn an_ended_pod_is_over_and_a_deleted_one_is_ending() {
    for phase in ["Succeeded", "Failed"] {
        assert!(pod(|pod| pod["status"]["phase"] = json!(phase)).is_over);
    }
    assert!(!pod(|pod| pod["status"]["phase"] = json!("Unknown")).is_over);
    let deleted = json!("2026-01-02T03:04:05Z");
    assert!(pod(|pod| pod["metadata"]["deletionTimestamp"] = deleted).is_ending);
}

#[test]
fn the_account_is_default_unless_one_is_named() {
    let unnamed = pod(|pod| pod["spec"]["serviceAccountName"] = Value::Null);
    assert_eq!(unnamed.service_account.as_str(), "default");
}

#[test]
fn addresses_that_no_pod_can_have_are_refused() {
    for address in ["::", "127.0.0.1", "::ffff:127.0.0.1", "224.0.0.1", "ten"] {
        let refused = read(|pod| pod["status"]["podIPs"] = json!([{"ip": address}])).unwrap_err();
        assert_eq!(refused.reason, "Address", "{address}");
    }
}

#[test]
fn names_that_are_none_are_refused() {
    assert_eq!(read(|pod| pod["spec"]["nodeName"] = json!("a b")).unwrap_err().reason, "Name");
    assert_eq!(read(|pod| pod["metadata"]["name"] = json!("")).unwrap_err().reason, "Name");
}

#[test]
fn a_pod_with_nothing_but_a_name_and_a_node_can_be_read() {
    let bare: PodObject = serde_json::from_value(json!({
        "metadata": {"namespace": "a", "name": "b"}, "spec": {"nodeName": "one"},
    }))
    .unwrap();
    let pod = Pod::read(bare).unwrap().unwrap();
    assert!(pod.addresses.is_empty() && pod.probes.is_empty() && pod.wanted.is_none());
}

#[test]
fn of_the_conditions_only_what_is_said_of_its_enrolment_is_read() {
    let conditions = json!([
        {"type": "Ready", "status": "True", "lastProbeTime": null},
        {"type": CONDITION, "status": "False", "reason": "Pending", "message": "why"},
    ]);
    let said = pod(|pod| pod["status"]["conditions"] = conditions).said.unwrap();
    assert_eq!(said, Said::new(false, "Pending", "why"));
    assert_eq!(pod(|pod| pod["status"]["conditions"] = json!(null)).said, None);
    assert_eq!(pod(|_| {}).said, None);
}
