//! What the plugin is answered, and what of it is kept.

use std::{os::fd::AsFd as _, path::PathBuf, time::Duration};

use arc_swap::ArcSwap;
use martlet_authority::Authority;
use martlet_cni::{agent, message::Ask};
use martlet_dataplane::{Dataplane, View};
use martlet_telemetry::bind_socket;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    configuration::{Loaded, read},
    issuer::Issuer,
    reports::InUse,
};

/// An agent that has begun, as far as the plugin sees it.
struct Begun {
    directory: TempDir,
    arrivals: Arc<Arrivals>,
    shutdown: CancellationToken,
}

impl Begun {
    fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let (authority, domain) = (directory.path().join("authority"), "a.org".parse().unwrap());
        Authority::init(&authority, &domain).unwrap();
        let path = directory.path().join("node.yaml");
        let text = format!(
            "trustDomain: a.org\nauthority: {{ directory: {} }}\nnode: {{ name: one }}\n",
            authority.display(),
        );
        std::fs::write(&path, text).unwrap();
        let Loaded { file, digest } = read(&path, None).unwrap();
        let in_use = InUse { file: Arc::new(file), digest, error: None };
        let view = Arc::new(ArcSwap::from_pointee(View::default()));
        let dataplane = Dataplane::new(view.clone(), mpsc::channel(1).0);
        let issuer = Arc::new(Issuer::open(&authority, &domain, None).unwrap());
        let shared = Arc::new(Shared::new(in_use, vec![], issuer, dataplane, view));
        let (arrivals, shutdown) = (Arc::new(Arrivals::default()), CancellationToken::new());
        let socket = bind_socket(&directory.path().join("cni.sock")).unwrap();
        tokio::spawn(serve(arrivals.clone(), socket, shared, shutdown.clone()));
        Self { directory, arrivals, shutdown }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("cni.sock")
    }

    async fn asks(&self, ask: Ask, passes: bool) -> Answer {
        let socket = self.socket();
        let asking = tokio::task::spawn_blocking(move || {
            let netns = File::open("/proc/self/ns/net").unwrap();
            agent::ask(&socket, &ask, passes.then_some(&netns), Duration::from_secs(10)).unwrap()
        });
        asking.await.unwrap()
    }

    async fn arrives(&self, sandbox: &str, uid: Option<&str>, address: &str) -> Answer {
        self.asks(Ask::Arrives(arrival(sandbox, uid, address)), true).await
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn arrival(sandbox: &str, uid: Option<&str>, address: &str) -> Arrival {
    Arrival {
        sandbox: sandbox.to_owned(),
        netns: "/proc/self/ns/net".into(),
        pod: Some(PodName {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            uid: uid.map(str::to_owned),
        }),
        addresses: vec![address.parse().unwrap()],
        is_exempt: false,
    }
}

fn is_no(answer: &Answer, why: &str) -> bool {
    matches!(answer, Answer::No { why: said } if said.contains(why))
}

#[tokio::test]
async fn a_pod_may_have_a_network_when_the_agent_is_ready_and_not_before_nor_after() {
    let agent = Begun::start();
    let early = agent.arrives("c1", Some("u1"), "10.0.0.1").await;
    assert!(is_no(&early, "is not ready: the kernel programs are not attached yet"), "{early:?}");
    agent.arrivals.open();
    assert_eq!(agent.arrives("c1", Some("u1"), "10.0.0.1").await, Answer::Go);
    agent.arrivals.stop();
    let late = agent.arrives("c2", Some("u2"), "10.0.0.2").await;
    assert!(is_no(&late, "is stopping"), "{late:?}");
    assert_eq!(agent.arrivals.told().len(), 1, "of those that may not, nothing is kept");
}

#[tokio::test]
async fn nobody_comes_while_another_agent_takes_over_and_whoever_does_when_it_has_not() {
    let agent = Begun::start();
    agent.arrivals.pause();
    agent.arrivals.resume();
    let early = agent.arrives("c1", Some("u1"), "10.0.0.1").await;
    assert!(is_no(&early, "is not ready"), "what was not open before is not open after: {early:?}");
    agent.arrivals.open();
    agent.arrivals.pause();
    agent.arrivals.open();
    let meanwhile = agent.arrives("c1", Some("u1"), "10.0.0.1").await;
    assert!(is_no(&meanwhile, "another agent takes over"), "{meanwhile:?}");
    assert!(agent.arrivals.inheritance().is_empty());
    agent.arrivals.resume();
    assert_eq!(agent.arrives("c1", Some("u1"), "10.0.0.1").await, Answer::Go);
    agent.arrivals.stop();
    agent.arrivals.resume();
    let late = agent.arrives("c2", Some("u2"), "10.0.0.2").await;
    assert!(is_no(&late, "is stopping"), "{late:?}");
}

#[tokio::test]
async fn a_successor_knows_who_has_arrived_and_decides_itself_what_they_are() {
    let agent = Begun::start();
    agent.arrivals.open();
    agent.arrives("c1", Some("u1"), "10.0.0.1").await;
    assert!(agent.arrivals.settle(|uid, _, _| uid == "u1"));
    agent.arrives("c2", Some("u2"), "10.0.0.2").await;
    let exempt = Arrival { is_exempt: true, ..arrival("c3", Some("u3"), "10.0.0.3") };
    agent.asks(Ask::Arrives(exempt), true).await;
    let told = agent.arrivals.inheritance();
    let last = serde_json::to_string(&told[0].0).unwrap();
    assert!(last.contains("\"c3\""), "the last one first: {last}");
    let told = told.into_iter().map(|(one, netns)| {
        let text = serde_json::to_string(&one).unwrap();
        (serde_json::from_str(&text).unwrap(), netns.as_fd().try_clone_to_owned().unwrap())
    });
    let successor = Arrivals::default();
    successor.inherit(told.collect());
    let mut undecided: Vec<_> = successor.undecided().into_iter().map(|(ip, _)| ip).collect();
    undecided.sort_unstable();
    let closed: [IpAddr; 2] = ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse().unwrap());
    assert_eq!(undecided, closed, "an exempt one is not closed");
    let own = Netns::open(std::path::Path::new("/proc/self/ns/net")).unwrap();
    let found = successor.find(&NetnsSource::Pod("u2".into())).unwrap();
    assert_eq!(found.cookie(), own.cookie());
    assert!(successor.find(&NetnsSource::Pod("u4".into())).is_err());
}

#[tokio::test]
async fn what_is_no_question_is_answered_no() {
    let agent = Begun::start();
    agent.arrivals.open();
    let without = agent.asks(Ask::Arrives(arrival("c1", Some("u1"), "10.0.0.1")), false).await;
    assert!(is_no(&without, "no network namespace was passed"), "{without:?}");
    let socket = agent.socket();
    let file = tokio::task::spawn_blocking(move || {
        let ask = Ask::Arrives(arrival("c1", Some("u1"), "10.0.0.1"));
        let file = File::open("/proc/self/status").unwrap();
        agent::ask(&socket, &ask, Some(&file), Duration::from_secs(10)).unwrap()
    });
    assert!(is_no(&file.await.unwrap(), "opening the network namespace"));
    for text in ["\n".to_owned(), "{}\n".to_owned(), "x".repeat(100_000)] {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::UnixStream::connect(agent.socket()).await.unwrap();
        // It may be refused before all of it is said.
        let _ = stream.write_all(text.as_bytes()).await;
        let mut said = String::new();
        let _ = stream.read_to_string(&mut said).await;
        assert!(!said.contains("go"), "{said}");
    }
    assert!(agent.arrivals.told().is_empty());
}

#[tokio::test]
async fn a_pod_is_known_by_its_uid_until_its_network_is_taken_away() {
    let agent = Begun::start();
    agent.arrivals.open();
    let own = Netns::open(std::path::Path::new("/proc/self/ns/net")).unwrap();
    agent.arrives("c1", Some("u1"), "10.0.0.1").await;
    let found = agent.arrivals.find(&NetnsSource::Pod("u1".into())).unwrap();
    assert_eq!(found.cookie(), own.cookie());
    assert!(agent.arrivals.find(&NetnsSource::Pod("u2".into())).is_err());
    let told = agent.arrivals.told();
    let told = told.values().next().unwrap();
    assert_eq!((told.name.to_string().as_str(), &*told.pod), ("shop/web", "u1"));
    assert_eq!(agent.asks(Ask::Leaves { sandbox: "c1".to_owned() }, false).await, Answer::Go);
    assert!(agent.arrivals.find(&NetnsSource::Pod("u1".into())).is_err());
    assert!(agent.arrivals.told().is_empty());
    agent.arrives("c3", None, "10.0.0.3").await;
    assert!(agent.arrivals.told().is_empty(), "without a UID nobody can know it by that");
}

#[tokio::test]
async fn who_is_not_decided_is_closed_until_somebody_decides_and_an_address_is_the_last_ones() {
    let agent = Begun::start();
    agent.arrivals.open();
    agent.arrives("c1", Some("u1"), "10.0.0.1").await;
    let undecided = || agent.arrivals.undecided().into_iter().map(|(ip, _)| ip.to_string());
    assert_eq!(undecided().collect::<Vec<_>>(), ["10.0.0.1"]);
    agent.arrivals.forget_old(Instant::now() + 2 * ARRIVAL_KEPT);
    assert_eq!(undecided().count(), 1, "however long it takes");
    assert!(!agent.arrivals.settle(|uid, _, _| uid == "u2"));
    assert!(agent.arrivals.settle(|uid, _, addresses| uid == "u1" && addresses.len() == 1));
    assert_eq!(undecided().count(), 0);
    assert_eq!(agent.arrivals.told().len(), 1);
    agent.arrivals.forget_old(Instant::now() + 2 * ARRIVAL_KEPT);
    assert!(agent.arrivals.told().is_empty());
    agent.arrives("c2", Some("u2"), "10.0.0.2").await;
    agent.arrives("c3", Some("u3"), "10.0.0.2").await;
    let told: Vec<_> = agent.arrivals.told().into_values().map(|one| one.pod).collect();
    assert_eq!(told, ["u3".into()]);
    let exempt = Arrival { is_exempt: true, ..arrival("c4", Some("u4"), "10.0.0.4") };
    agent.asks(Ask::Arrives(exempt), true).await;
    assert!(undecided().all(|ip| ip != "10.0.0.4"), "it is served whatever is decided");
}
