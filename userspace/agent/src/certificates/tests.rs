//! A day without a controller, looked at from the clock of one node; no time really passes.

use std::time::Duration;

use martlet_authority::{Authority, LEAF_LIFETIME, LeafRequest};
use martlet_control::{Client, ClientSettings};
use martlet_identity::SigningKey;
use martlet_model::{Mode, Trust, TrustDomain};
use tempfile::TempDir;

use super::*;
use crate::limits::{LOOK_INTERVAL, RENEWAL_PAUSE_MAX, RENEWAL_SPREAD};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const TEN_YEARS: Duration = Duration::from_secs(3652 * 86_400);

fn domain() -> TrustDomain {
    "a.org".parse().unwrap()
}

fn workload(name: &str) -> Arc<Workload> {
    Arc::new(Workload {
        name: WorkloadName { namespace: "shop".parse().unwrap(), name: name.parse().unwrap() },
        service_account: name.parse().unwrap(),
        identity: format!("spiffe://a.org/ns/shop/sa/{name}").parse().unwrap(),
        addresses: vec![],
        node: "one".parse().unwrap(),
        mode: Mode::Strict,
        policies: vec![],
    })
}

/// An answer that was on its way when the issuer was changed, or what an earlier process has left.
#[test]
fn a_certificate_of_an_issuer_that_is_given_up_is_renewed_soon_whenever_it_comes() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("authority");
    Authority::init(&path, &domain()).unwrap();
    let issuer = Arc::new(Issuer::open(&path, &domain(), None).unwrap());
    let (before, after, now) = (workload("web"), workload("cart"), SystemTime::now());
    let mut certificates = Certificates::new(issuer.clone(), Arc::default(), None);
    certificates.of(&before, 1, now).unwrap();
    let due = |certificates: &Certificates, workload: &Workload| {
        certificates.renewal(&workload.name).unwrap().due()
    };
    assert!(due(&certificates, &before) > now + 10 * RENEWAL_SPREAD);
    let roots = [(domain(), issuer.roots())].into();
    let told = Trust { roots, issuer: Some("another".to_owned()), ..Trust::default() };
    assert!(issuer.take(&Arc::new(told)).unwrap());
    certificates.of(&after, 2, now).unwrap();
    assert!(due(&certificates, &after) <= now + RENEWAL_SPREAD);
}

/// A node by its own clock, and a controller that is there or not. Its client never connects: what
/// it would have been told is put in the place of its answers.
struct Node {
    certificates: Certificates,
    workload: Arc<Workload>,
    issuer: Arc<Issuer>,
    keyring: Keyring,
    controller: Authority,
    /// By the controller's clock.
    time: SystemTime,
    /// By which the node's clock is ahead.
    ahead: Duration,
    behind: Duration,
    is_there: bool,
    asked: u32,
    _state: TempDir,
}

impl Node {
    /// With a certificate of this age. `name` is for its kept keys.
    async fn with_certificate(name: &str, age: Duration) -> Self {
        let (controller, state) =
            (Authority::ephemeral(&domain()).unwrap(), TempDir::new().unwrap());
        let settings = ClientSettings {
            trust_domain: domain(),
            node: "one".parse().unwrap(),
            controller: "192.0.2.1:15012".to_owned(),
            proof: martlet_control::Proof::Token(state.path().join("token")),
            state: state.path().join("state"),
            agent_version: "0".to_owned(),
        };
        let issuer = Arc::new(Issuer::controller(Client::open(settings).unwrap()).unwrap());
        let roots = [(domain(), controller.roots().to_vec())].into();
        issuer.take(&Arc::new(Trust { version: 1, roots, ..Trust::default() })).unwrap();
        let keyring = Keyring::of(
            format!("/test/{name}/{}", std::process::id()).as_ref(),
            &"one".parse().unwrap(),
        );
        let certificates = Certificates::new(issuer.clone(), Arc::default(), Some(keyring.clone()));
        let time = SystemTime::now();
        let zero = Duration::ZERO;
        let mut node = Self {
            certificates,
            workload: workload("web"),
            issuer,
            keyring,
            controller,
            time,
            ahead: zero,
            behind: zero,
            is_there: true,
            asked: 0,
            _state: state,
        };
        assert!(node.credentials().is_err(), "nobody was asked yet");
        node.look().await;
        assert!(age < LEAF_LIFETIME / 2, "it would have been renewed");
        node.time += age;
        node
    }

    fn now(&self) -> SystemTime {
        self.time + self.ahead - self.behind
    }

    fn credentials(&mut self) -> Result<Arc<Credentials>> {
        let now = self.now();
        self.certificates.of(&self.workload, 7, now)
    }

    fn svid(&mut self) -> Arc<Svid> {
        self.credentials().unwrap().current().unwrap()
    }

    /// The agent's process is another one.
    async fn restart(&mut self) {
        let keyring = Some(self.keyring.clone());
        self.certificates = Certificates::new(self.issuer.clone(), Arc::default(), keyring);
        let _ = self.credentials();
        self.look().await;
    }

    /// What the owner of the workloads does once a second.
    async fn look(&mut self) {
        self.certificates.ask(self.now());
        while let Some(answers) = self.certificates.answered().await {
            self.asked += u32::try_from(answers.len()).unwrap();
            let answers = match self.is_there {
                true => answers.into_iter().map(|(asked, _)| (asked, Ok(self.issued()))).collect(),
                false => answers,
            };
            self.certificates.take(answers, self.now());
        }
    }

    /// Looks for so long, and says when the certificate was another one.
    async fn look_for(&mut self, time: Duration, every: Duration) -> Option<Duration> {
        let (began, before) = (self.time, self.svid().not_after());
        let mut renewed = None;
        while self.time < began + time {
            self.time += every;
            self.look().await;
            if renewed.is_none() && self.svid().not_after() != before {
                renewed = self.time.duration_since(began).ok();
            }
        }
        renewed
    }

    fn issued(&self) -> Svid {
        let key = SigningKey::generate().unwrap();
        let request = LeafRequest {
            identity: self.workload.identity.clone(),
            workload: self.workload.name.clone(),
            node: self.workload.node.clone(),
            uid: None,
            lifetime: LEAF_LIFETIME,
        };
        let chain = self.controller.issue(&key.csr().unwrap(), &request, self.time).unwrap();
        Svid::new(&key, chain, &self.workload.identity).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.keyring.forget_all_but(|_| false);
    }
}

#[tokio::test(start_paused = true)]
async fn through_an_outage_the_last_good_certificate_is_kept_until_it_expires_also_by_new_processes()
 {
    for age in [0, 6, 11].map(|hours| hours * HOUR) {
        let mut node = Node::with_certificate(&format!("outage-{}", age.as_secs()), age).await;
        let (good, began) = (node.svid(), node.time);
        node.is_there = false;
        for hour in 1..=24 {
            node.look_for(HOUR, MINUTE).await;
            if hour % 5 == 0 && node.time < good.not_after() {
                node.restart().await;
            }
            // Nothing else is ever used; whether it is good still is what handshakes look at.
            assert_eq!(node.svid().chain(), good.chain(), "hour {hour}");
            let is_good = node.now() < good.not_after();
            let lasts = HOUR * hour + age < LEAF_LIFETIME;
            assert_eq!(is_good, lasts, "hour {hour}, {age:?} old when it began");
        }
        // Renewal was tried from half of its life on, at least every five minutes and not all the time.
        let due = LEAF_LIFETIME - age;
        let tries = (24 * HOUR).saturating_sub(due / 2).as_secs() / RENEWAL_PAUSE_MAX.as_secs();
        let tries = u32::try_from(tries).unwrap();
        assert!((tries / 2..4 * tries).contains(&node.asked), "{} of {tries}", node.asked);
        // What has expired is taken over by nobody: then there is nothing, and a reason.
        node.time = began + 25 * HOUR;
        node.restart().await;
        let why = node.credentials().unwrap_err().to_string();
        assert!(why.contains("it has no certificate"), "{why}");
        node.is_there = true;
        let now = node.now();
        node.certificates.ask_again(now);
        node.look().await;
        assert!(node.svid().not_after() > node.now());
    }
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_all_is_renewed_within_the_longest_pause_and_what_has_expired_at_once() {
    let mut node = Node::with_certificate("back", 11 * HOUR).await;
    node.is_there = false;
    assert_eq!(node.look_for(6 * HOUR, MINUTE).await, None);
    node.is_there = true;
    let took = node.look_for(2 * RENEWAL_PAUSE_MAX, LOOK_INTERVAL).await.unwrap();
    assert!(took <= RENEWAL_PAUSE_MAX, "{took:?}");
    // The next outage is longer than its certificate.
    node.is_there = false;
    node.look_for(25 * HOUR, 5 * MINUTE).await;
    let expired = node.svid();
    assert!(expired.not_after() < node.now());
    node.is_there = true;
    let now = node.now();
    node.certificates.ask_again(now);
    node.look().await;
    assert!(node.svid().not_after() > now, "at once");
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_by_ten_years_uses_nothing_that_is_over_and_asks_with_pauses() {
    let zero = Duration::ZERO;
    for (name, ahead, behind) in [("later", TEN_YEARS, zero), ("earlier", zero, TEN_YEARS)] {
        let mut node = Node::with_certificate(name, HOUR).await;
        let before = node.svid();
        (node.ahead, node.behind) = (ahead, behind);
        node.asked = 0;
        node.look_for(10 * MINUTE, LOOK_INTERVAL).await;
        assert!((1..=20).contains(&node.asked), "{name}: asked {} times", node.asked);
        if !ahead.is_zero() {
            // By this clock everything is over: nothing is opened with it.
            assert!(node.svid().not_after() < node.now());
            let why = node.certificates.renewal(&node.workload.name).unwrap().error().unwrap();
            assert!(why.contains("set the clock"), "{why}");
        }
        node.restart().await;
        (node.ahead, node.behind) = (zero, zero);
        let _ = node.credentials();
        for _ in 0..3 {
            node.look().await;
            node.time += LOOK_INTERVAL;
        }
        assert!(node.svid().not_after() > node.now(), "{name}: it is right again");
        assert!(node.svid().not_after() >= before.not_after());
    }
}
