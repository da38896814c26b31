//! Tokens are good for one node, once and for a while; what is kept outlives the process.

use martlet_identity::NodeKey;
use tempfile::TempDir;

use super::*;

fn key() -> KeyDigest {
    NodeKey::generate().unwrap().signing().csr().unwrap().key().unwrap()
}

fn node(name: &str) -> Label {
    name.parse().unwrap()
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_token_makes_one_key_a_node_and_no_other() {
    let directory = TempDir::new().unwrap();
    let mut members = Members::open(directory.path()).unwrap();
    let now = SystemTime::now();
    let secret = members.invite(&node("one"), HOUR, now).unwrap();
    let (first, second) = (key(), key());
    assert!(members.join(&secret, &node("two"), &first, now).is_err(), "another's");
    assert!(members.join(&Secret::new(), &node("one"), &first, now).is_err(), "a guess");
    assert!(!members.has(&node("one"), &first));
    members.join(&secret, &node("one"), &first, now).unwrap();
    assert!(members.has(&node("one"), &first) && !members.has(&node("one"), &second));
    members.join(&secret, &node("one"), &first, now).expect("its answer was lost");
    assert!(members.join(&secret, &node("one"), &second, now).is_err(), "used");
    assert!(members.join(&secret, &node("one"), &first, now + HOUR).is_err(), "expired");
}

#[test]
fn a_token_that_has_expired_is_good_for_nobody() {
    let directory = TempDir::new().unwrap();
    let mut members = Members::open(directory.path()).unwrap();
    let now = SystemTime::now();
    let secret = members.invite(&node("one"), HOUR, now).unwrap();
    assert!(members.join(&secret, &node("one"), &key(), now + HOUR).is_err());
    assert!(members.join(&secret, &node("one"), &key(), now + HOUR / 2).is_ok());
    for lifetime in [Duration::from_secs(59), 8 * 24 * HOUR] {
        assert!(matches!(members.invite(&node("one"), lifetime, now), Err(MembersError::Lifetime)));
    }
}

#[test]
fn what_is_kept_outlives_the_process_and_holds_no_secret() {
    let directory = TempDir::new().unwrap();
    let mut members = Members::open(directory.path()).unwrap();
    let now = SystemTime::now();
    let (open, spent) = (
        members.invite(&node("one"), HOUR, now).unwrap(),
        members.invite(&node("two"), HOUR, now).unwrap(),
    );
    let first = key();
    members.join(&spent, &node("two"), &first, now).unwrap();
    let text = fs::read_to_string(directory.path().join("nodes.json")).unwrap();
    let hex: String = open.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(text.contains(&open.digest()) && !text.contains(&hex));

    let mut again = Members::open(directory.path()).unwrap();
    assert!(again.has(&node("two"), &first));
    assert!(again.join(&spent, &node("two"), &key(), now).is_err(), "used before");
    again.join(&open, &node("one"), &key(), now).unwrap();
    fs::write(directory.path().join("nodes.json"), "{").unwrap();
    assert!(matches!(Members::open(directory.path()), Err(MembersError::Damaged { .. })));
}

#[test]
fn a_removed_node_is_nobody_and_its_name_is_free() {
    let directory = TempDir::new().unwrap();
    let mut members = Members::open(directory.path()).unwrap();
    let now = SystemTime::now();
    let old = key();
    let secret = members.invite(&node("one"), HOUR, now).unwrap();
    members.join(&secret, &node("one"), &old, now).unwrap();
    let unused = members.invite(&node("one"), HOUR, now).unwrap();
    members.remove(&node("one")).unwrap();
    assert!(!members.has(&node("one"), &old));
    assert!(members.join(&secret, &node("one"), &old, now).is_err());
    assert!(members.join(&unused, &node("one"), &key(), now).is_err());
    assert!(matches!(members.remove(&node("one")), Err(MembersError::NoNode(_))));
    let (secret, new) = (members.invite(&node("one"), HOUR, now).unwrap(), key());
    members.join(&secret, &node("one"), &new, now).unwrap();
    assert!(members.has(&node("one"), &new) && !members.has(&node("one"), &old));
}
