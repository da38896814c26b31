//! The objects of a large cluster: namespaces of 500 pods, services of 20 endpoints, a policy each.

use martlet_played::Played;
use serde_json::{Value, json};

const PODS_OF_NAMESPACE: usize = 500;
const PODS_OF_SERVICE: usize = 20;
const POLICIES: (&str, &str) = ("martlet.dev/v1alpha1", "authorizationpolicies");

pub fn fill(api: &Played, pods: usize, nodes: usize) {
    let namespaces = pods.div_ceil(PODS_OF_NAMESPACE);
    let of = |number: usize| namespace(number / PODS_OF_NAMESPACE);
    api.apply("v1", "namespaces", json!({ "metadata": { "name": "martlet-system" } }));
    api.apply_all(
        "v1",
        "namespaces",
        (0..namespaces).map(|number| {
            let labels = json!({ "martlet.dev/mode": "permissive" });
            json!({ "metadata": { "name": namespace(number), "labels": labels } })
        }),
    );
    api.apply_all(
        "v1",
        "nodes",
        (0..nodes).map(|number| {
            let labels = json!({ "topology.kubernetes.io/zone": format!("zone-{}", number % 3) });
            json!({ "metadata": { "name": node(number), "labels": labels } })
        }),
    );
    api.apply_all(
        "v1",
        "pods",
        (0..nodes).map(|number| {
            let name = format!("martlet-agent-{number:05}");
            pod("martlet-system", &name, "martlet-agent", &node(number), &address(11, number))
        }),
    );
    api.apply_all(
        "v1",
        "pods",
        (0..pods).map(|number| {
            let (name, service) = (name(number), service(number / PODS_OF_SERVICE));
            pod(&of(number), &name, &service, &node(number % nodes), &address(10, number))
        }),
    );
    let services = pods / PODS_OF_SERVICE;
    api.apply_all("v1", "services", (0..services).map(|number| {
        let address = address(12, number);
        json!({
            "metadata": { "namespace": of(number * PODS_OF_SERVICE), "name": service(number) },
            "spec": {
                "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address],
                "selector": { "app": service(number) },
                "ports": [{ "name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080 }],
            },
        })
    }));
    api.apply_all(
        "discovery.k8s.io/v1",
        "endpointslices",
        (0..services).map(|number| {
            let first = number * PODS_OF_SERVICE;
            let endpoints = (first..first + PODS_OF_SERVICE).map(|pod| {
                json!({
                    "addresses": [address(10, pod)], "nodeName": node(pod % nodes),
                    "conditions": { "ready": true },
                })
            });
            json!({
                "metadata": {
                    "namespace": of(first), "name": format!("{}-abcde", service(number)),
                    "labels": { "kubernetes.io/service-name": service(number) },
                },
                "addressType": "IPv4",
                "endpoints": endpoints.collect::<Vec<_>>(),
                "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
            })
        }),
    );
    api.apply_all(POLICIES.0, POLICIES.1, (0..namespaces).map(|number| {
        let from = json!([{ "namespaces": [namespace(number), namespace(number + 1)] }]);
        json!({
            "metadata": { "namespace": namespace(number), "name": "neighbours", "generation": 1 },
            "spec": { "action": "Allow", "rules": [{ "from": from }] },
        })
    }));
}

/// Each second one goes again that has come before.
pub fn change(api: &Played, number: usize, nodes: usize) {
    let (namespace, name) = (namespace(0), format!("comes-{:05}", number / 2));
    if number % 2 == 1 {
        api.delete("v1", "pods", &namespace, &name);
        return;
    }
    let (node, address) = (node(number % nodes), address(13, number));
    api.apply("v1", "pods", pod(&namespace, &name, "comes", &node, &address));
}

pub fn node(number: usize) -> String {
    format!("node-{number:05}")
}

fn namespace(number: usize) -> String {
    format!("namespace-{number:04}")
}

fn service(number: usize) -> String {
    format!("service-{number:05}")
}

fn name(number: usize) -> String {
    format!("{}-5d8f7c9b6d-{number:06}", service(number / PODS_OF_SERVICE))
}

fn address(first: usize, number: usize) -> String {
    format!("{first}.{}.{}.{}", number >> 16, number >> 8 & 255, number & 255)
}

fn pod(namespace: &str, name: &str, account: &str, node: &str, address: &str) -> Value {
    let probe = json!({ "httpGet": { "path": "/healthz", "port": 8080 } });
    let container = json!({
        "name": "main", "image": "registry.example/shop/app:1", "readinessProbe": probe,
        "ports": [{ "name": "http", "containerPort": 8080 }],
    });
    json!({
        "metadata": {
            "namespace": namespace, "name": name,
            "labels": { "app": account, "pod-template-hash": "5d8f7c9b6d", "tier": "backend" },
        },
        "spec": { "nodeName": node, "serviceAccountName": account, "containers": [container] },
        "status": { "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }] },
    })
}
