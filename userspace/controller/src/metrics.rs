//! What is counted, and what Prometheus reads.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use martlet_control::{AgentState, Refusal};
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use crate::{book::Book, cluster::Cluster, federate::Federation, members::seconds};

/// Since the start of this process.
#[derive(Debug, Default)]
pub struct Counts {
    issued: AtomicU64,
    refused: AtomicU64,
    joins_refused: AtomicU64,
    pub reloads_refused: AtomicU64,
}

impl Counts {
    pub fn issued<T>(&self, answers: &[Result<T, Refusal>]) {
        let issued = answers.iter().filter(|answer| answer.is_ok()).count() as u64;
        self.issued.fetch_add(issued, Ordering::Relaxed);
        self.refused.fetch_add(answers.len() as u64 - issued, Ordering::Relaxed);
    }

    pub fn joins_refused(&self) {
        self.joins_refused.fetch_add(1, Ordering::Relaxed);
    }
}

/// The page, in the text format of OpenMetrics. Blocks: the trust is looked at.
pub fn page(
    book: &Arc<Book>,
    counts: &Counts,
    agents: &[AgentState],
    cluster: Option<&Cluster>,
    federation: &Federation,
) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("martlet_controller");
    let mut gauge = |name: &str, help: &str, value: u64| {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        registry.register(name, help, ConstGauge::new(value));
    };
    let trust = book.trust();
    let nodes = book.nodes().len();
    let connected = agents.iter().filter(|agent| agent.is_connected).count();
    let behind =
        agents.iter().filter(|agent| agent.acknowledged.trust_version < trust.version).count();
    gauge("nodes", "Nodes that have joined and were not removed", nodes as u64);
    gauge("nodes_connected", "Nodes whose agents are connected now", connected as u64);
    gauge(
        "nodes_behind_trust",
        "Nodes that were heard of and have not put the latest trust into effect",
        behind as u64,
    );
    gauge("trust_version", "The version of the trust that nodes are told", trust.version);
    gauge("quarantines", "How many are cut off", trust.quarantines.len() as u64);
    let said = book.said(agents);
    let (report, endpoints) = book.look_at_store(|store| {
        let now = SystemTime::now();
        (store.report(&said, now), federation.report(store, now))
    });
    let stale = endpoints.iter().filter(|endpoint| endpoint.is_stale).count();
    let failing = endpoints.iter().filter(|endpoint| endpoint.failure.is_some()).count();
    gauge(
        "bundle_endpoints",
        "Bundle endpoints of other trust domains that are followed",
        endpoints.len() as u64,
    );
    gauge("bundle_endpoints_failing", "Of these, those whose last look failed", failing as u64);
    gauge(
        "bundle_endpoints_stale",
        "Of these, those whose bundle was not fetched for three intervals, or never",
        stale as u64,
    );
    if let Ok(report) = report {
        gauge(
            "rotation",
            "Whether a rotation of the root is under way",
            u64::from(report.rotation.is_some()),
        );
        let ends = |of: &mut dyn Iterator<Item = u64>| of.min().unwrap_or(0);
        let issuer = ends(
            &mut report
                .issuers
                .iter()
                .filter(|one| one.is_current)
                .map(|i| i.certificate.not_after),
        );
        let root = ends(&mut report.roots.iter().map(|root| root.certificate.not_after));
        let stale = report.foreign.iter().filter(|foreign| foreign.is_stale).count();
        gauge("issuer_expiry_timestamp_seconds", "When the issuer expires", issuer);
        gauge("root_expiry_timestamp_seconds", "When the first of the own roots expires", root);
        gauge(
            "issuer_renewal_failing",
            "Whether the issuer could not be renewed the last time",
            u64::from(report.renewal_error.is_some()),
        );
        gauge(
            "foreign_domains_stale",
            "Federated trust domains whose bundles are not fresh",
            stale as u64,
        );
    }
    gauge("time_seconds", "This machine's clock", seconds(SystemTime::now()));
    let mut counter = |name: &str, help: &str, value: u64| {
        registry.register(name, help, ConstCounter::new(value));
    };
    let looks = endpoints.iter().map(|endpoint| endpoint.looks).sum();
    let looks_failed = endpoints.iter().map(|endpoint| endpoint.looks_failed).sum();
    counter("bundle_looks", "Looks at bundle endpoints", looks);
    counter(
        "bundle_looks_failed",
        "Looks at bundle endpoints that brought nothing that could be taken",
        looks_failed,
    );
    let read = |value: &AtomicU64| value.load(Ordering::Relaxed);
    counter("certificates_issued", "Certificates issued for workloads", read(&counts.issued));
    counter(
        "certificates_refused",
        "Requests for certificates of workloads that were refused",
        read(&counts.refused),
    );
    counter("joins_refused", "Attempts to join that were refused", read(&counts.joins_refused));
    let refused = read(&counts.reloads_refused);
    counter("reloads_refused", "Directory files that were not taken", refused);
    if let Some(cluster) = cluster {
        add_lead(&mut registry, true);
        add_cluster(&mut registry, cluster);
    }
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// Of a replica that stands by.
pub fn standby_page(cluster: &Cluster) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("martlet_controller");
    add_lead(&mut registry, false);
    add_cluster(&mut registry, cluster);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

fn add_lead(registry: &mut Registry, leads: bool) {
    let help = "Whether this replica is the controller";
    registry.register("leads", help, ConstGauge::new(i64::from(leads)));
}

fn add_cluster(registry: &mut Registry, cluster: &Cluster) {
    let problems = i64::try_from(cluster.problems()).unwrap_or(i64::MAX);
    registry.register(
        "cluster_problems",
        "Objects of the cluster that are not used as they are",
        ConstGauge::new(problems),
    );
    for (resource, health) in cluster.health() {
        let registry = registry.sub_registry_with_label(("resource".into(), resource.into()));
        registry.register(
            "watch_failing",
            "Whether nothing new is heard of these objects at present",
            ConstGauge::new(i64::from(health.failure.is_some())),
        );
        registry.register(
            "watch_failures",
            "How often nothing new could be heard of these objects",
            ConstCounter::new(health.failures),
        );
        registry.register(
            "watch_contradictions",
            "Objects that a list lacked and the API server had",
            ConstCounter::new(health.contradictions),
        );
        registry.register(
            "watch_outdated",
            "How often something was said of these objects that is older than what was known",
            ConstCounter::new(health.outdated),
        );
    }
}
