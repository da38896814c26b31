//! What becomes of trust bundles.

use std::time::Duration;

use martlet_authority::Authority;
use martlet_kubernetes::ObjectMeta;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

/// A store, and the objects beside it.
struct Play {
    _place: TempDir,
    store: Store,
    objects: BTreeMap<String, Arc<BundleObject>>,
    followed: Vec<TrustDomain>,
    accepted: bool,
}

impl Play {
    fn new() -> Self {
        let place = TempDir::new().unwrap();
        let at = place.path().join("authority");
        let store = Store::open(&at, &domain("a.org"), SystemTime::now()).unwrap();
        let (objects, followed) = (BTreeMap::new(), vec![]);
        Self { _place: place, store, objects, followed, accepted: false }
    }

    fn set(&mut self, name: &str, spec: Value) -> &mut Self {
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            uid: Some(format!("uid-{name}")),
            ..ObjectMeta::default()
        };
        let object = BundleObject { metadata, spec, status: Value::Null };
        self.objects.insert(name.to_owned(), Arc::new(object));
        self
    }

    fn look(&mut self, is_complete: bool) -> BTreeMap<String, Outcome> {
        let (followed, accepted) = (self.followed.clone(), self.accepted);
        let declared = Declared {
            objects: &self.objects,
            is_complete,
            was_accepted: &|_| accepted,
            is_followed: &|domain| followed.contains(domain),
        };
        reconcile(&mut self.store, &declared, SystemTime::now()).unwrap()
    }

    /// Why each is refused, or nothing.
    fn refusals(&mut self) -> Vec<(String, &'static str)> {
        let outcomes = self.look(true).into_iter();
        let refusal = |(name, outcome): (String, Outcome)| Some((name, outcome.refused?.reason));
        outcomes.filter_map(refusal).collect()
    }

    fn trusted(&self) -> Vec<(String, usize)> {
        let foreign = self.store.foreign().into_iter();
        foreign.map(|(domain, known)| (domain.to_string(), known.roots.len())).collect()
    }

    fn is_cut_off(&self, of: &str) -> bool {
        self.store.trust().quarantines.contains(&Quarantine::Cluster(domain(of)))
    }
}

fn domain(text: &str) -> TrustDomain {
    text.parse().unwrap()
}

/// The roots of a new authority.
fn roots(of: &str) -> Vec<Vec<u8>> {
    let place = TempDir::new().unwrap();
    let at = place.path().join("authority");
    Authority::init(&at, &domain(of)).unwrap();
    Authority::load(&at, &domain(of)).unwrap().roots().to_vec()
}

fn pem(of: &str) -> String {
    roots(of).iter().map(|der| martlet_authority::pem(der)).collect()
}

fn bundle(of: &str, pem: &str) -> Value {
    json!({"trustDomain": of, "pem": pem})
}

fn one(of: &str) -> Vec<(String, usize)> {
    vec![(of.to_owned(), 1)]
}

#[test]
fn a_domain_is_trusted_while_its_object_is_there() {
    let mut play = Play::new();
    play.set("b", bundle("b.org", &pem("b.org")));
    assert_eq!(play.look(true)["b"], Outcome { refused: None, is_removed: false, roots: 1 });
    let version = play.store.trust().version;
    play.look(true);
    assert_eq!((play.trusted(), play.store.trust().version), (one("b.org"), version));
    let document = BundleDocument {
        roots: roots("b.org"),
        sequence: Some(7),
        refresh_hint: Some(Duration::from_secs(300)),
    };
    let document = document.to_json().unwrap();
    play.set("b", json!({"trustDomain": "b.org", "document": document}));
    assert_eq!(play.refusals(), []);
    assert_eq!(play.store.foreign()[&domain("b.org")].sequence, Some(7));
    play.objects.clear();
    play.look(false);
    assert_eq!(play.trusted(), one("b.org"), "it is not known yet that there is none");
    play.look(true);
    assert_eq!(play.trusted(), []);
}

#[test]
fn what_cannot_be_used_leaves_what_was_there() {
    let mut play = Play::new();
    play.set("b", bundle("b.org", &pem("b.org"))).look(true);
    let before = play.store.trust();
    let own = pem("a.org");
    let leaf = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (spec, reason) in [
        (json!({}), "Invalid"),
        (json!(null), "Invalid"),
        (bundle("b.org", ""), "Invalid"),
        (bundle("b.org", "no certificate"), "Invalid"),
        (bundle("b.org", leaf), "Invalid"),
        (bundle("b.org", &own), "Invalid"),
        (json!({"trustDomain": "b.org", "document": "{"}), "Invalid"),
        (json!({"trustDomain": "b.org", "pem": "x", "more": 1}), "Invalid"),
        (bundle("c.org", &pem("c.org")), "Immutable"),
    ] {
        play.set("b", spec.clone());
        assert_eq!(play.refusals(), [("b".to_owned(), reason)], "{spec}");
        assert_eq!(play.store.trust(), before, "{spec}");
    }
    play.set("own", bundle("a.org", &own));
    assert!(play.refusals().contains(&("own".to_owned(), "Refused")));
    assert_eq!(play.store.trust(), before);
}

#[test]
fn an_older_bundle_than_the_known_one_is_refused() {
    let mut play = Play::new();
    let numbered = |sequence: Value, pem: &str| json!({"trustDomain": "b.org", "pem": pem, "sequence": sequence});
    let (first, second) = (pem("b.org"), pem("b.org"));
    play.set("b", numbered(json!(5), &first)).look(true);
    for sequence in [json!(4), json!(5), json!(null)] {
        play.set("b", numbered(sequence, &second));
        assert_eq!(play.refusals(), [("b".to_owned(), "Refused")]);
    }
    play.set("b", numbered(json!(6), &second));
    assert_eq!(play.refusals(), []);
}

#[test]
fn a_domain_is_one_objects_and_nobody_speaks_for_two() {
    let mut play = Play::new();
    let first = pem("b.org");
    play.set("z", bundle("b.org", &first)).look(true);
    play.set("a", bundle("b.org", &pem("b.org")));
    assert_eq!(play.refusals(), [("a".to_owned(), "Conflict")]);
    play.set("thief", bundle("c.org", &first));
    assert!(play.refusals().iter().any(|(name, _)| name == "thief"));
    assert_eq!(play.trusted(), one("b.org"));
    play.objects.remove("z");
    play.look(true);
    // The domain is the other one's now, in this look or the next.
    assert_eq!(play.refusals().iter().filter(|(name, _)| name == "a").count(), 0);
    play.followed.push(domain("d.org"));
    play.set("d", bundle("d.org", &pem("d.org")));
    assert!(play.refusals().contains(&("d".to_owned(), "Followed")));
}

#[test]
fn who_is_removed_by_hand_stays_removed_until_the_object_changes() {
    let mut play = Play::new();
    play.set("b", bundle("b.org", &pem("b.org"))).look(true);
    play.store.remove(&domain("b.org"), SystemTime::now()).unwrap();
    play.accepted = true;
    assert!(play.look(true)["b"].is_removed);
    assert_eq!(play.trusted(), []);
    play.accepted = false;
    assert!(!play.look(true)["b"].is_removed);
    assert_eq!(play.trusted(), one("b.org"));
}

#[test]
fn a_domain_is_cut_off_by_its_object_and_released_by_it_alone() {
    let mut play = Play::new();
    let text = pem("b.org");
    play.set("b", json!({"trustDomain": "b.org", "pem": text, "quarantined": true})).look(true);
    assert!(play.is_cut_off("b.org"));
    play.set("b", bundle("b.org", &text)).look(true);
    assert!(!play.is_cut_off("b.org"));
    let bad = json!({"trustDomain": "b.org", "pem": "nonsense", "quarantined": true});
    play.set("b", bad).look(true);
    assert!(play.is_cut_off("b.org"), "also by an object that cannot be used");
    play.objects.clear();
    play.look(true);
    assert!(play.is_cut_off("b.org"), "to delete an object releases nobody");
    play.set("own", json!({"trustDomain": "a.org", "pem": "x", "quarantined": true})).look(true);
    assert!(!play.is_cut_off("a.org"), "nobody cuts off everybody");
    let now = SystemTime::now();
    let by_hand = Quarantine::Cluster(domain("c.org"));
    play.store.quarantine(by_hand, "an incident", now).unwrap();
    play.set("c", bundle("c.org", &pem("c.org"))).look(true);
    assert!(play.is_cut_off("c.org"), "a person has done it");
}
