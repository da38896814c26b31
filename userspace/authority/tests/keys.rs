//! Keys that are not plain files: encrypted, behind a command, or kept elsewhere.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use martlet_authority::{Authority, ISSUER_LIFETIME, NewRoot};
use martlet_identity::{Chain, TrustBundle, describe, verify_chain};
use martlet_model::Part;
use support::{csr, days, domain, openssl};
use tempfile::TempDir;

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes `keys.yaml`, as nobody else can change it.
    fn settings(&self, directory: &str, text: &str) {
        fs::create_dir_all(self.at(directory)).unwrap();
        let path = self.at(directory).join("keys.yaml");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn openssl(&self, arguments: &str) -> String {
        openssl(self.0.path(), &arguments.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

fn refusal(directory: &Path) -> String {
    text(&Authority::load(directory, &domain()).err().expect("it is refused"))
}

fn text(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", text(source)),
        None => error.to_string(),
    }
}

fn encryption(place: &Place, password: &str) -> String {
    fs::write(place.at(password), password).unwrap();
    let command = |direction: &str| {
        let file = place.at(password).display().to_string();
        format!("[/usr/bin/openssl, enc, {direction}, -aes-256-ctr, -pbkdf2, -pass, 'file:{file}']")
    };
    format!("encrypt: {}\ndecrypt: {}\n", command("-e"), command("-d"))
}

#[test]
fn keys_are_kept_encrypted_and_never_written_in_clear() {
    let place = Place::new();
    let home = place.at("authority");
    place.settings("authority", &encryption(&place, "right"));
    Authority::init(&home, &domain()).unwrap();
    for entry in fs::read_dir(&home).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains("PRIVATE KEY"));
    }
    let loaded = Authority::load(&home, &domain()).unwrap();
    let later = SystemTime::now() + days(5);
    assert!(loaded.renewed(later).unwrap().is_some(), "the root's key was read, too");
    place.settings("authority", &encryption(&place, "wrong"));
    assert!(refusal(&home).contains("cannot be used"), "{}", refusal(&home));
    place.settings("authority", "encrypt: [/bin/cat]\ndecrypt: [/bin/false]\n");
    assert!(refusal(&home).contains("/bin/false: ended with exit status: 1"), "{}", refusal(&home));
}

#[test]
fn settings_that_others_may_change_or_that_say_nonsense_are_refused() {
    let place = Place::new();
    let home = place.at("authority");
    Authority::init(&home, &domain()).unwrap();
    for (text, why) in [
        ("encrypt: [/bin/cat]\n", "given together"),
        ("decrypt: [cat]\nencrypt: [cat]\n", "whole path"),
        ("root: { signer: [] }\n", "whole path"),
        ("rot: { signer: [/bin/cat] }\n", "rot"),
        ("decrypt: /bin/cat\n", "keys.yaml"),
        ("\u{0}", "keys.yaml"),
    ] {
        place.settings("authority", text);
        assert!(refusal(&home).contains(why), "{text}: {}", refusal(&home));
    }
    place.settings("authority", "{}\n");
    Authority::load(&home, &domain()).unwrap();
    fs::set_permissions(home.join("keys.yaml"), fs::Permissions::from_mode(0o666)).unwrap();
    assert!(refusal(&home).contains("may be changed by others"));
}

#[test]
fn a_key_behind_a_link_or_for_others_too_is_refused() {
    let place = Place::new();
    let home = place.at("authority");
    Authority::init(&home, &domain()).unwrap();
    for key in ["root.key", "issuer.key"] {
        let path = home.join(key);
        for mode in [0o640, 0o604, 0o660, 0o601] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(refusal(&home).contains("make it 0600"), "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        Authority::load(&home, &domain()).unwrap();
        let moved = place.at(key);
        fs::rename(&path, &moved).unwrap();
        symlink(&moved, &path).unwrap();
        assert!(refusal(&home).contains("is a link"), "{}", refusal(&home));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(refusal(&home).contains("is no file"));
        fs::remove_dir(&path).unwrap();
        fs::rename(&moved, &path).unwrap();
    }
    Authority::load(&home, &domain()).unwrap();
}

/// A root that was made by another program, in `root.pem` and `root.crt`.
fn foreign_root(place: &Place, key: &str) {
    place.openssl(&format!("genpkey {key} -out root.pem"));
    fs::set_permissions(place.at("root.pem"), fs::Permissions::from_mode(0o600)).unwrap();
    place.openssl(
        "req -x509 -new -key root.pem -sha256 -days 1000 -subj /C=DE/O=Example/CN=Corporate -out root.crt
         -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign",
    );
}

const KEYS: [&str; 3] = [
    "-algorithm EC -pkeyopt ec_paramgen_curve:P-256",
    "-algorithm EC -pkeyopt ec_paramgen_curve:P-384",
    "-algorithm RSA -pkeyopt rsa_keygen_bits:2048",
];

#[test]
fn a_root_is_brought_with_its_key() {
    for key in KEYS {
        let place = Place::new();
        foreign_root(&place, key);
        let home = place.at("authority");
        let root = NewRoot::from_files(&place.at("root.crt"), Some(&place.at("root.pem"))).unwrap();
        assert!(Authority::init_below(&home, &domain(), root, SystemTime::now()).unwrap());
        accepted_by_openssl(&place, &Authority::load(&home, &domain()).unwrap());
    }
}

#[test]
fn a_command_signs_for_the_root() {
    for (key, digest) in KEYS.iter().zip(["-sha256", "-sha384", "-sha256"]) {
        let place = Place::new();
        foreign_root(&place, key);
        let home = place.at("authority");
        let pem = place.at("root.pem").display().to_string();
        let command =
            format!("root: {{ signer: [/usr/bin/openssl, dgst, {digest}, -sign, {pem}] }}\n");
        place.settings("authority", &command);
        let root = NewRoot::from_files(&place.at("root.crt"), None).unwrap();
        assert!(Authority::init_below(&home, &domain(), root, SystemTime::now()).unwrap());
        assert!(!home.join("root.key").exists());
        let authority = Authority::load(&home, &domain()).unwrap();
        accepted_by_openssl(&place, &authority);
        let later = SystemTime::now() + days(4);
        let renewed = authority.renewed(later).unwrap().expect("it is due");
        assert_ne!(renewed.issuer(), authority.issuer());
        // Another key than that of the certificate, or none, is noticed at the start.
        place.openssl(&format!("genpkey {key} -out root.pem"));
        assert!(refusal(&home).contains("not by the key of the certificate"), "{}", refusal(&home));
        place.settings("authority", "root: { signer: [/bin/false] }\n");
        assert!(refusal(&home).contains("/bin/false"), "{}", refusal(&home));
        assert!(authority.renewed(later).is_err());
        assert!(authority.renewed(SystemTime::now()).unwrap().is_none(), "what it has is good");
    }
}

#[test]
fn a_root_that_cannot_be_one_is_refused() {
    let place = Place::new();
    foreign_root(&place, KEYS[0]);
    let brought = |certificate: &str, key: Option<&str>| {
        let key = key.map(|name| place.at(name));
        let root = NewRoot::from_files(&place.at(certificate), key.as_deref()).unwrap();
        let home = place.at("authority");
        let made = Authority::init_below(&home, &domain(), root, SystemTime::now());
        let error = text(&made.expect_err("it is refused"));
        assert!(!home.exists(), "nothing is written");
        error
    };
    let make = |name: &str, extensions: &str, days: i32| {
        place.openssl(&format!(
            "req -x509 -new -key root.pem -sha256 -days {days} -subj /CN=x -out {name} {extensions}"
        ));
    };
    make("leaf.crt", "-addext basicConstraints=critical,CA:FALSE", 10);
    make("short.crt", "-addext basicConstraints=critical,CA:TRUE,pathlen:0", 10);
    place.openssl("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out other.pem");
    fs::set_permissions(place.at("other.pem"), fs::Permissions::from_mode(0o600)).unwrap();
    assert!(brought("leaf.crt", Some("root.pem")).contains("no authority's"));
    assert!(brought("short.crt", Some("root.pem")).contains("path length is 0"));
    assert!(brought("root.crt", Some("other.pem")).contains("none of the roots"));
}

/// Names, kind and time of what is issued, by another program.
fn accepted_by_openssl(place: &Place, authority: &Authority) {
    let chain = issue(authority, SystemTime::now());
    for (name, der) in [("l", &chain.0[0]), ("i", &chain.0[1]), ("r", &authority.roots()[0])] {
        fs::write(place.at("der"), der).unwrap();
        place.openssl(&format!("x509 -inform der -in der -out {name}.crt"));
    }
    let verdict = place.openssl("verify -x509_strict -CAfile r.crt -untrusted i.crt l.crt");
    assert_eq!(verdict.trim(), "l.crt: OK");
}

fn issue(authority: &Authority, now: SystemTime) -> Chain {
    authority.issue_part(&csr(), &Part::Controller, days(1), now).unwrap()
}

fn accepted(authority: &Authority, chain: &Chain, now: SystemTime) -> bool {
    let trust = TrustBundle::new([(domain(), authority.roots().to_vec())]).unwrap();
    verify_chain(chain, Arc::new(trust), now).is_ok()
}

#[test]
fn issuers_live_a_week_and_renew_themselves_at_half_of_it() {
    let (start, mut now) = (SystemTime::now(), SystemTime::now());
    let place = Place::new();
    Authority::init(&place.at("authority"), &domain()).unwrap();
    let mut authority = Authority::load(&place.at("authority"), &domain()).unwrap();
    let mut issuers = 1;
    let mut kept = Vec::new();
    // Looked at each hour, for as long as a root lives that has nine years left.
    while now < start + days(100) {
        now += Duration::from_secs(3600);
        let before = describe(authority.issuer()).unwrap();
        match authority.renewed(now).unwrap() {
            Some(renewed) => {
                let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
                let half = (before.not_before + before.not_after) / 2;
                assert!((half..=half + 3600).contains(&seconds), "not before and soon after half");
                authority = renewed;
                issuers += 1;
            }
            None => assert!(authority.lasts().unwrap().renews.unwrap() > now),
        }
        let issuer = describe(authority.issuer()).unwrap();
        assert!(issuer.not_after - issuer.not_before <= ISSUER_LIFETIME.as_secs() + 60);
        if issuers % 7 == 0 {
            kept.push((issue(&authority, now), now));
        }
        kept.retain(|(chain, at)| {
            let is_alive = now <= *at + days(1);
            assert_eq!(accepted(&authority, chain, now), is_alive, "leaves outlive a renewal");
            is_alive
        });
    }
    assert!((27..=30).contains(&issuers), "{issuers}");
}

#[test]
fn without_the_roots_key_it_says_how_long_it_lasts_and_then_issues_no_more() {
    let place = Place::new();
    let home = place.at("authority");
    Authority::init(&home, &domain()).unwrap();
    fs::remove_file(home.join("root.key")).unwrap();
    let authority = Authority::load(&home, &domain()).unwrap();
    let lasting = authority.lasts().unwrap();
    assert_eq!(lasting.renews, None);
    let now = SystemTime::now();
    let left = lasting.issuer.duration_since(now).unwrap();
    assert!(left > days(6) && left <= ISSUER_LIFETIME, "{left:?}");
    assert!(authority.renewed(now + days(5)).unwrap().is_none());
    // A leaf does not outlive its issuer.
    let late = lasting.issuer - Duration::from_secs(60);
    let leaf = describe(&issue(&authority, late).0[0]).unwrap();
    assert_eq!(leaf.not_after, describe(authority.issuer()).unwrap().not_after);
    let ended = authority.issue_part(&csr(), &Part::Controller, days(1), lasting.issuer);
    assert!(ended.unwrap_err().to_string().contains("martlet authority csr"));
    let dead = Authority::load_at(&home, &domain(), lasting.issuer).err().unwrap().to_string();
    assert!(dead.contains("has expired"), "{dead}");
}

#[test]
fn a_clock_that_was_wrong_for_years_leaves_nothing_behind() {
    let place = Place::new();
    Authority::init(&place.at("authority"), &domain()).unwrap();
    let authority = Authority::load(&place.at("authority"), &domain()).unwrap();
    let (now, years) = (SystemTime::now(), days(3 * 365));
    let ahead = authority.renewed(now + years).unwrap().unwrap();
    let back = ahead.renewed(now).unwrap().expect("an issuer from the future is due");
    assert!(accepted(&back, &issue(&back, now), now));
    assert!(authority.renewed(now - years).is_err(), "the root is not valid then");
    assert!(authority.renewed(now + years * 5).is_err(), "the root has expired then");
}
