//! A played cluster with a small shop, its controller, and what its agents see all the time.

use std::{
    fs,
    sync::{Arc, Mutex},
};

use martlet_control::{Declared, Proof};
use martlet_model::{Mode, SpiffeId};
use martlet_played::Played;
use martlet_policy::Request;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::{Agent, Controller};

pub const POLICIES: (&str, &str) = ("martlet.dev/v1alpha1", "authorizationpolicies");
/// All kinds without which nothing is known.
pub const KINDS: [(&str, &str); 5] = [
    ("v1", "namespaces"),
    ("v1", "pods"),
    ("v1", "services"),
    ("discovery.k8s.io/v1", "endpointslices"),
    POLICIES,
];

pub struct Cluster {
    pub api: Played,
    pub controller: Controller,
    pub one: Agent,
    /// What the agent was told that is less than there was all the time.
    lost: Arc<Mutex<Vec<String>>>,
}

impl Cluster {
    /// With an agent that knows the shop, and looks at each version that it is told from then on.
    pub async fn start() -> Self {
        let api = Played::start();
        for (name, mode) in [("martlet-system", ""), ("shop", "strict")] {
            api.apply("v1", "namespaces", namespace(name, mode));
        }
        let pods = [
            pod("martlet-system", "controller-0", "martlet-controller", "two", "10.9.0.1"),
            pod("martlet-system", "agent-one", "martlet-agent", "one", "10.9.0.2"),
            pod("shop", "web", "web", "one", "10.0.0.1"),
            pod("shop", "cart", "cart", "two", "10.0.0.2"),
        ];
        api.apply_all("v1", "pods", pods);
        api.apply("v1", "services", service("web", "10.96.0.1"));
        api.apply("discovery.k8s.io/v1", "endpointslices", slice("web", "10.0.0.1"));
        api.apply(POLICIES.0, POLICIES.1, policy("no-cart", "Deny"));
        let controller = Controller::start_in_cluster(&api.kubeconfig());
        let one = agent(&api, &controller).await;
        one.until_told(|all| lost(all).is_empty()).await;
        let lost = watch(&one);
        Self { api, controller, one, lost }
    }

    /// A true change arrives: a pod that begins, and one that ends.
    pub async fn still_hears(&self) {
        let address = "10.0.0.77";
        let has = |all: &Declared| all.directory.workload_at(address.parse().unwrap()).is_some();
        self.api.apply("v1", "pods", pod("shop", "new", "new", "two", address));
        self.one.until_told(has).await;
        self.api.delete("v1", "pods", "shop", "new");
        self.one.until_told(|all| !has(all)).await;
        self.nothing_was_lost();
    }

    pub fn nothing_was_lost(&self) {
        let lost = self.lost.lock().unwrap();
        assert!(lost.is_empty(), "{lost:?}\n{}", self.controller.log());
    }

    /// What the controller counts of a kind.
    pub fn counted(&self, what: &str, kind: &str) -> u64 {
        let page = self.controller.over_tcp("GET", "/metrics").1;
        let start = format!("martlet_controller_{what}_total{{resource=\"{kind}\"}} ");
        let line = page.lines().find_map(|line| line.strip_prefix(&start));
        line.map_or(0, |value| value.trim().parse().unwrap())
    }

    pub async fn until_counted(&self, what: &str, kind: &str, least: u64) {
        let why = format!("{least} {what} of {kind}");
        self.controller.until(&why, |_| self.counted(what, kind) >= least).await;
    }
}

/// An agent of node one, with its pod's service account.
pub async fn agent(api: &Played, controller: &Controller) -> Agent {
    let pod = api.get("v1", "pods", "martlet-system", "agent-one").unwrap();
    let token = "a.b.one";
    api.vouch(
        token,
        json!({
            "username": "system:serviceaccount:martlet-system:martlet-agent",
            "extra": {
                "authentication.kubernetes.io/pod-name": ["agent-one"],
                "authentication.kubernetes.io/pod-uid": [pod["metadata"]["uid"]],
            },
        }),
    );
    let published = || api.get("v1", "configmaps", "martlet-system", "martlet-roots");
    controller.until("the roots are published", |_| published().is_some()).await;
    let roots = published().unwrap()["data"]["roots.pem"].as_str().unwrap().to_owned();
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::write(at("token"), token).unwrap();
    fs::write(at("roots"), roots).unwrap();
    let proof = Proof::Account { token: at("token"), roots: at("roots") };
    Agent::start_by(proof, "a.org", directory, "one", controller.agents)
}

fn watch(agent: &Agent) -> Arc<Mutex<Vec<String>>> {
    let (all, mut declared) = (Arc::new(Mutex::new(Vec::new())), agent.client.declared());
    let seen = all.clone();
    tokio::spawn(async move {
        while declared.changed().await.is_ok() {
            let latest = declared.borrow_and_update().clone();
            let version = latest.as_ref().map_or(0, |all| all.version);
            let lost = latest.map_or_else(|| vec!["all"], |all| lost(&all));
            let lost = lost.into_iter().map(|what| format!("version {version}: {what}"));
            seen.lock().unwrap().extend(lost);
        }
    });
    all
}

/// What agents need not to be open: all of it was there all the time.
fn lost(all: &Declared) -> Vec<&'static str> {
    let at = |address: &str| all.directory.workload_at(address.parse().unwrap());
    let is_strict = |address| at(address).is_some_and(|one| one.mode == Mode::Strict);
    let cart: SpiffeId = "spiffe://a.org/ns/shop/sa/cart".parse().unwrap();
    let is_denied = at("10.0.0.1").is_some_and(|web| {
        let caller_address = "10.0.0.2".parse().unwrap();
        let request = Request { caller: &cart, caller_address, callee: web, port: 80 };
        all.policies.authorize(&request).is_err()
    });
    let claims = [
        (is_strict("10.0.0.1"), "web is no strict workload"),
        (is_strict("10.0.0.2"), "cart is no strict workload"),
        (is_denied, "cart may call web"),
        (all.local.iter().any(|one| one.workload.name.name.as_str() == "web"), "web is not here"),
        (all.directory.services().next().is_some(), "there is no service"),
    ];
    claims.into_iter().filter(|(holds, _)| !holds).map(|(_, what)| what).collect()
}

pub fn namespace(name: &str, mode: &str) -> Value {
    let labels = if mode.is_empty() { json!({}) } else { json!({ "martlet.dev/mode": mode }) };
    json!({ "metadata": { "name": name, "labels": labels } })
}

pub fn pod(namespace: &str, name: &str, account: &str, node: &str, address: &str) -> Value {
    json!({
        "metadata": { "namespace": namespace, "name": name, "labels": { "app": name } },
        "spec": { "nodeName": node, "serviceAccountName": account, "containers": [] },
        "status": { "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }] },
    })
}

pub fn service(name: &str, address: &str) -> Value {
    json!({
        "metadata": { "namespace": "shop", "name": name },
        "spec": {
            "clusterIP": address, "clusterIPs": [address], "type": "ClusterIP",
            "selector": { "app": name },
            "ports": [{ "name": "http", "port": 80, "protocol": "TCP", "targetPort": 80 }],
        },
    })
}

pub fn slice(service: &str, address: &str) -> Value {
    json!({
        "metadata": {
            "namespace": "shop", "name": format!("{service}-1"),
            "labels": { "kubernetes.io/service-name": service },
        },
        "addressType": "IPv4",
        "endpoints": [{ "addresses": [address], "conditions": { "ready": true } }],
        "ports": [{ "name": "http", "port": 80, "protocol": "TCP" }],
    })
}

/// About the cart calling the web.
pub fn policy(name: &str, action: &str) -> Value {
    let cart = json!({ "identities": ["spiffe://a.org/ns/shop/sa/cart"] });
    json!({
        "metadata": { "namespace": "shop", "name": name, "generation": 1 },
        "spec": {
            "selector": { "matchLabels": { "app": "web" } },
            "action": action, "rules": [{ "from": [cart] }],
        },
    })
}
