//! A world in which it is known at every moment what runs where.

#![allow(dead_code, reason = "each test file uses a part")]

use std::{
    collections::HashMap,
    path::Path,
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use martlet_authority::{
    Ask, Attested, Attestor, Authority, Denied, LEAF_LIFETIME, Refusal, Registrar, log::Log,
};
use martlet_identity::{Chain, Csr, SigningKey};
use martlet_model::{Label, SpiffeId, TrustDomain, WorkloadName};
use tempfile::TempDir;

pub fn domain() -> TrustDomain {
    "prod.example".parse().unwrap()
}

pub fn label(text: &str) -> Label {
    text.parse().unwrap()
}

pub fn workload(text: &str) -> WorkloadName {
    let (namespace, name) = text.split_once('/').unwrap();
    WorkloadName { namespace: label(namespace), name: label(name) }
}

pub fn identity(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

pub fn csr() -> Csr {
    SigningKey::generate().unwrap().csr().unwrap()
}

pub fn ask(name: &str) -> Ask {
    Ask { workload: workload(name), csr: csr() }
}

/// What runs, by name.
#[derive(Default)]
pub struct World {
    pub running: Mutex<HashMap<WorkloadName, Attested>>,
    /// What it answers whatever runs.
    pub fixed: Mutex<Option<Result<Attested, Denied>>>,
    /// How often it was asked.
    pub asked: AtomicU64,
}

impl World {
    pub fn run(&self, name: &str, attested: Attested) {
        self.running.lock().unwrap().insert(workload(name), attested);
    }
}

impl Attestor for &World {
    async fn attest(&self, node: &Label, name: &WorkloadName) -> Result<Attested, Denied> {
        // Others run between any two questions.
        tokio::task::yield_now().await;
        if let Some(fixed) = self.fixed.lock().unwrap().clone() {
            return fixed;
        }
        let found = self.running.lock().unwrap().get(name).cloned();
        self.asked.fetch_add(1, Ordering::SeqCst);
        match found {
            Some(found) if found.node == *node => Ok(found),
            Some(_) => Err(Denied::OtherNode),
            None => Err(Denied::UnknownWorkload),
        }
    }
}

pub fn attested(account: &str, node: &str, uid: &str) -> Attested {
    Attested {
        identity: identity(&format!("spiffe://prod.example/ns/shop/sa/{account}")),
        node: label(node),
        uid: Some(uid.to_owned()),
    }
}

/// An authority and whoever asks it; the log is in the directory.
pub struct Office<A> {
    pub directory: TempDir,
    pub authority: Authority,
    pub registrar: Registrar<A>,
}

pub fn office<A: Attestor>(attestor: A) -> Office<A> {
    let directory = TempDir::new().unwrap();
    let authority = Authority::ephemeral(&domain()).unwrap();
    let log = Log::open(directory.path(), SystemTime::now()).unwrap();
    let registrar = Registrar::new(attestor, log, LEAF_LIFETIME);
    Office { directory, authority, registrar }
}

impl<A: Attestor> Office<A> {
    pub async fn ask(&self, node: &str, ask: Ask, now: SystemTime) -> Result<Chain, Refusal> {
        self.batch(node, vec![ask], now).await.remove(0)
    }

    pub async fn batch(
        &self,
        node: &str,
        asks: Vec<Ask>,
        now: SystemTime,
    ) -> Vec<Result<Chain, Refusal>> {
        self.registrar.issue(&self.authority, &label(node), asks, now).await
    }
}

/// `issued`, or why not.
pub fn outcome(answer: &Result<Chain, Refusal>) -> &'static str {
    answer.as_ref().map_or_else(Refusal::code, |_| "issued")
}

/// A request as other programs make it.
pub fn openssl_csr(directory: &Path, key: &str) -> Csr {
    openssl(directory, &format!("{key} -out key.pem"));
    let arguments = "req -new -key key.pem -subj /CN=evil -outform der -out csr.der \
        -addext subjectAltName=URI:spiffe://prod.example/ns/kube-system/sa/root \
        -addext basicConstraints=critical,CA:TRUE";
    openssl(directory, &arguments.split_whitespace().collect::<Vec<_>>().join(" "));
    Csr(std::fs::read(directory.join("csr.der")).unwrap())
}

pub fn openssl(directory: &Path, arguments: &str) -> String {
    let arguments = arguments.split(' ');
    let output = Command::new("openssl").args(arguments).current_dir(directory).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    format!("{text}{}", String::from_utf8_lossy(&output.stderr))
}

pub fn days(count: u64) -> Duration {
    Duration::from_secs(count * 86_400)
}
