//! Roots whose keys are not plain files, in a rotation.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use super::*;
use crate::sign_issuer;

#[test]
fn a_root_that_is_kept_elsewhere_is_waited_for_until_it_has_signed_an_issuer() {
    let mut lab = Lab::new();
    let vault = TempDir::new().unwrap();
    Authority::init(vault.path(), &domain()).unwrap();
    let root = NewRoot::from_files(&vault.path().join("root.crt"), None).unwrap();
    let (said, now) = (lab.said(), lab.now);
    lab.store().rotate(root, None, &said, now).unwrap();
    for _ in 0..2 {
        (0..3).for_each(|of| lab.sync(of));
        assert!(!lab.tick());
        assert_eq!(lab.obstacles(), [Obstacle::NoIssuer]);
        lab.restart();
    }
    let (said, now) = (lab.said(), lab.now);
    assert!(matches!(lab.store().force(&said, now), Err(TrustError::NoIssuer)));
    assert_eq!(lab.step(), Some(Step::Staged));
    let coming = lab.directory.path().join("generations/2");
    install(&coming, vault.path(), now);
    assert!(lab.tick());
    assert_eq!(lab.step(), Some(Step::Switched));
    lab.run();
    assert_eq!(lab.lost, 0);
    // From now on issuers are installed, and taken over while everything runs.
    let before = lab.store().authority().issuer().to_vec();
    assert!(lab.store().authority().lasts().unwrap().renews.is_none());
    assert!(!lab.tick());
    install(&coming, vault.path(), lab.now);
    assert!(lab.tick());
    assert_ne!(lab.store().authority().issuer(), before);
    // What cannot be read is said, and changes nothing.
    let issuing = lab.store().authority().issuer().to_vec();
    let certificate = fs::read(vault.path().join("issuer.crt")).unwrap();
    fs::write(coming.join("issuer.crt"), certificate).unwrap();
    assert!(!lab.tick());
    assert_eq!(lab.store().authority().issuer(), issuing);
    let (said, now) = (lab.said(), lab.now);
    let error = lab.store().report(&said, now).unwrap().renewal_error.unwrap();
    assert!(error.contains("another key"), "{error}");
}

fn install(at: &Path, vault: &Path, now: SystemTime) {
    let csr = Authority::request(at, &domain()).unwrap();
    let signed = sign_issuer(vault, &domain(), csr.as_bytes(), now).unwrap();
    Authority::install(at, &domain(), signed.as_bytes(), false, now).unwrap();
}

/// A rotation to a root whose key is in `vault`.
fn rotate_offline(lab: &mut Lab, vault: &Path) {
    Authority::init(vault, &domain()).unwrap();
    let root = NewRoot::from_files(&vault.join("root.crt"), None).unwrap();
    let (said, now) = (lab.said(), lab.now);
    lab.store().rotate(root, None, &said, now).unwrap();
}

fn signed(vault: &Path, request: &str, now: SystemTime) -> Vec<u8> {
    sign_issuer(vault, &domain(), request.as_bytes(), now).unwrap().into_bytes()
}

#[test]
fn issuers_are_asked_for_and_installed_without_knowing_where_they_go() {
    let (mut lab, vault) = (Lab::new(), TempDir::new().unwrap());
    let now = lab.now;
    assert!(matches!(lab.store().request(None, now), Err(TrustError::KeyIsHere)));
    assert!(matches!(lab.store().request(Some(Whose::Other), now), Err(TrustError::NotRotating)));
    rotate_offline(&mut lab, vault.path());
    let request = lab.store().request(None, now).unwrap();
    assert!(matches!(lab.store().install(None, b"", false, now), Err(TrustError::Authority(_))));
    let issuing = lab.store().install(Some(Whose::Issuing), b"", false, now);
    assert!(matches!(issuing, Err(TrustError::KeyIsHere)));
    lab.restart();
    let certificate = signed(vault.path(), &request, now);
    lab.store().install(None, &certificate, false, now).unwrap();
    lab.run();
    assert_eq!((lab.step(), lab.lost), (None, 0));
    // A week later it is the root that issues which wants one.
    let before = lab.store().authority().issuer().to_vec();
    let now = lab.now;
    let store = lab.store();
    let certificate = signed(vault.path(), &store.request(None, now).unwrap(), now);
    store.install(None, &certificate, false, now).unwrap();
    assert!(lab.tick());
    assert_ne!(lab.store().authority().issuer(), before);
}

#[test]
fn an_issuer_that_ended_before_it_was_used_is_waited_for_again() {
    let (mut lab, vault) = (Lab::new(), TempDir::new().unwrap());
    rotate_offline(&mut lab, vault.path());
    lab.store().pause().unwrap();
    let now = lab.now;
    let certificate = signed(vault.path(), &lab.store().request(None, now).unwrap(), now);
    lab.store().install(None, &certificate, false, now).unwrap();
    assert!(!lab.obstacles().contains(&Obstacle::NoIssuer));
    let (said, late) = (lab.said(), now + crate::ISSUER_LIFETIME + TICK);
    assert!(lab.store().obstacles(&said, late).contains(&Obstacle::IssuerExpired));
    assert!(matches!(lab.store().force(&said, late), Err(TrustError::NoIssuer)));
    let request = lab.store().request(None, late).unwrap();
    let certificate = signed(vault.path(), &request, late);
    lab.store().install(None, &certificate, false, late).unwrap();
    assert!(!lab.store().obstacles(&said, late).contains(&Obstacle::IssuerExpired));
}

#[test]
fn a_rotation_to_a_root_without_an_issuer_is_taken_back_and_goes_on_no_further() {
    let (mut lab, vault) = (Lab::new(), TempDir::new().unwrap());
    let before = lab.own_roots();
    rotate_offline(&mut lab, vault.path());
    let now = lab.now;
    lab.store().back(now).unwrap();
    assert!(matches!(lab.store().back(now), Err(TrustError::NoIssuer)), "not forwards again");
    lab.run();
    assert_eq!((lab.own_roots(), lab.lost), (before, 0));
}

#[test]
fn a_root_behind_a_command_is_rotated_to_if_the_command_has_its_key() {
    let (mut lab, vault) = (Lab::new(), TempDir::new().unwrap());
    Authority::init(vault.path(), &domain()).unwrap();
    let root = || NewRoot::from_files(&vault.path().join("root.crt"), None).unwrap();
    let signer = |key: &Path| {
        let key = key.display();
        format!("root:\n  signer: [/usr/bin/openssl, dgst, -sha256, -sign, {key}]\n")
    };
    let (said, now, before) = (lab.said(), lab.now, lab.store().trust());
    let other = TempDir::new().unwrap();
    Authority::init(other.path(), &domain()).unwrap();
    for (keys, why) in [
        (signer(&other.path().join("root.key")), "not by the key of the certificate"),
        (signer(Path::new("/nowhere")), "No such file"),
        ("root: { signer: [openssl] }".to_owned(), "whole path of a program"),
        ("encrypt: [/bin/cat]\ndecrypt: [/bin/cat]\n".to_owned(), "names no command"),
        ("signer: x".to_owned(), "keys.yaml cannot be read"),
    ] {
        let refused = lab.store().rotate(root(), Some(keys.as_bytes()), &said, now).unwrap_err();
        let cause = std::error::Error::source(&refused).map(ToString::to_string);
        let refused = format!("{refused}: {}", cause.unwrap_or_default());
        assert!(refused.contains(why), "{refused}, not {why}");
        assert_eq!((lab.store().trust(), lab.step()), (before.clone(), None));
    }
    let keys = signer(&vault.path().join("root.key"));
    lab.store().rotate(root(), Some(keys.as_bytes()), &said, now).unwrap();
    lab.restart();
    lab.run();
    assert_eq!(lab.lost, 0);
    assert!(lab.store().authority().lasts().unwrap().renews.is_some(), "it signs again by itself");
    // The next root is none of this command's.
    lab.rotate();
    let next = lab.directory.path().join("generations/3");
    assert!(next.join("root.key").exists() && !next.join("keys.yaml").exists());
}

#[test]
fn keys_of_new_roots_are_encrypted_as_those_before() {
    let (directory, now) = (TempDir::new().unwrap(), SystemTime::now());
    let settings = directory.path().join("keys.yaml");
    let rot13 = "[/usr/bin/tr, A-Za-z, N-ZA-Mn-za-m]";
    fs::write(&settings, format!("encrypt: {rot13}\ndecrypt: {rot13}\n")).unwrap();
    fs::set_permissions(&settings, fs::Permissions::from_mode(0o600)).unwrap();
    let mut store = Store::open(directory.path(), &domain(), now).unwrap();
    store.rotate(NewRoot::Made, None, &[], now).unwrap();
    assert!(store.tick(&[], now + TICK).unwrap());
    for number in ["1", "2"] {
        let at = directory.path().join("generations").join(number);
        for name in ["root.key", "issuer.key"] {
            let text = fs::read_to_string(at.join(name)).unwrap();
            assert!(text.contains("CEVINGR XRL") && !text.contains("PRIVATE"), "{text}");
        }
    }
}

#[test]
fn a_root_that_can_be_none_leaves_everything_as_it_was() {
    let mut lab = Lab::new();
    let before = lab.store().trust();
    let nonsense = || NewRoot::Brought { certificates: b"nonsense".to_vec(), key: None };
    let own = lab.directory.path().join("generations/1/root.crt");
    let same = || NewRoot::from_files(&own, None).unwrap();
    let (said, now) = (lab.said(), lab.now);
    assert!(lab.store().rotate(nonsense(), None, &said, now).is_err());
    assert!(matches!(lab.store().rotate(same(), None, &said, now), Err(TrustError::SameKey(_))));
    assert_eq!((lab.store().trust(), lab.step()), (before, None));
    assert!(!lab.directory.path().join("generations/2").exists());
    for act in
        [Store::back, |store: &mut Store, _| store.pause(), |store: &mut Store, _| store.resume()]
    {
        assert!(matches!(act(lab.store(), now), Err(TrustError::NotRotating)));
    }
}
