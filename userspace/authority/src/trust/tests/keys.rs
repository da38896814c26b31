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
    lab.store().rotate(root, &said, now).unwrap();
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

#[test]
fn keys_of_new_roots_are_encrypted_as_those_before() {
    let (directory, now) = (TempDir::new().unwrap(), SystemTime::now());
    let settings = directory.path().join("keys.yaml");
    let rot13 = "[/usr/bin/tr, A-Za-z, N-ZA-Mn-za-m]";
    fs::write(&settings, format!("encrypt: {rot13}\ndecrypt: {rot13}\n")).unwrap();
    fs::set_permissions(&settings, fs::Permissions::from_mode(0o600)).unwrap();
    let mut store = Store::open(directory.path(), &domain(), now).unwrap();
    store.rotate(NewRoot::Made, &[], now).unwrap();
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
    assert!(lab.store().rotate(nonsense(), &said, now).is_err());
    assert!(matches!(lab.store().rotate(same(), &said, now), Err(TrustError::SameKey(_))));
    assert_eq!((lab.store().trust(), lab.step()), (before, None));
    assert!(!lab.directory.path().join("generations/2").exists());
    for act in
        [Store::back, |store: &mut Store, _| store.pause(), |store: &mut Store, _| store.resume()]
    {
        assert!(matches!(act(lab.store(), now), Err(TrustError::NotRotating)));
    }
}
