//! `martlet authority init`, judged by openssl.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use tempfile::TempDir;

use crate::{run, stderr, stdout};

/// The socket does not matter.
fn init(directory: &Path, domain: &str) -> Output {
    let directory = directory.to_str().unwrap();
    let socket = Path::new("/none");
    run(socket, &["authority", "init", directory, "--trust-domain", domain])
}

#[track_caller]
fn openssl(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("openssl").args(arguments).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "openssl {arguments:?}: {}", stderr(&output));
    stdout(&output).to_owned()
}

#[test]
fn openssl_accepts_what_is_made_and_agrees_on_the_fingerprints() {
    let place = TempDir::new().unwrap();
    let directory = place.path().join("a/b");
    let output = init(&directory, "demo.example");
    assert!(output.status.success(), "{}", stderr(&output));
    let said = stdout(&output);
    let verify = ["verify", "-x509_strict", "-CAfile", "root.crt", "root.crt", "issuer.crt"];
    openssl(&directory, &verify);
    for (name, authority) in [("root", "root"), ("issuer", "issuer")] {
        let file = format!("{name}.crt");
        let fingerprint =
            openssl(&directory, &["x509", "-in", &file, "-noout", "-fingerprint", "-sha256"]);
        let digits = fingerprint.split_once('=').unwrap().1.trim().replace(':', "").to_lowercase();
        assert!(said.contains(&digits), "{digits} is not in:\n{said}");
        let subject = openssl(&directory, &["x509", "-in", &file, "-noout", "-subject"]);
        assert!(subject.contains(&format!("demo.example {authority}")), "{subject}");
        let of_certificate = openssl(&directory, &["x509", "-in", &file, "-noout", "-pubkey"]);
        let of_key = openssl(&directory, &["pkey", "-in", &format!("{name}.key"), "-pubout"]);
        assert_eq!(of_certificate, of_key);
    }
}

#[test]
fn it_says_what_was_made_and_what_to_keep_safe() {
    let place = TempDir::new().unwrap();
    let directory = place.path().join("authority");
    let said = stdout(&init(&directory, "demo.example")).to_owned();
    for text in [
        &format!("made the authority of demo.example in {}", directory.display()),
        "root.crt",
        "issuer.crt",
        "Keep safe:\n  root.key",
        "  issuer.key",
        "trustDomain: demo.example",
    ] {
        assert!(said.contains(text), "{text} is not in:\n{said}");
    }
    assert!(!said.contains("PRIVATE KEY"));
}

#[test]
fn keys_are_for_their_owner_only() {
    let place = TempDir::new().unwrap();
    let directory = place.path().join("authority");
    init(&directory, "demo.example");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    assert_eq!(mode(&directory.join("root.key")), 0o600);
    assert_eq!(mode(&directory.join("issuer.key")), 0o600);
}

#[test]
fn an_authority_is_never_overwritten() {
    let place = TempDir::new().unwrap();
    let directory = place.path().join("authority");
    init(&directory, "demo.example");
    let read = |name: &str| fs::read(directory.join(name)).unwrap();
    let names = ["root.crt", "root.key", "issuer.crt", "issuer.key"];
    let before = names.map(read);
    let again = init(&directory, "demo.example");
    assert_eq!(again.status.code(), Some(1));
    assert_eq!(stdout(&again), "");
    assert!(stderr(&again).contains("an authority is never overwritten"), "{}", stderr(&again));
    assert_eq!(before, names.map(read));
}

#[test]
fn one_key_that_is_there_already_stops_it_before_anything_is_made() {
    let place = TempDir::new().unwrap();
    fs::write(place.path().join("issuer.key"), "precious").unwrap();
    let output = init(place.path(), "demo.example");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
}

#[test]
fn what_cannot_be_made_is_named_with_the_reason() {
    let output = init(Path::new("/proc/none"), "demo.example");
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(
        said.starts_with("error: making the authority: /proc/none: cannot be made: "),
        "{said}"
    );
}

#[test]
fn a_trust_domain_that_is_none_is_a_wrong_command_line() {
    let place = TempDir::new().unwrap();
    for domain in ["Demo.example", "", "a/b", "spiffe://demo.example"] {
        let output = init(&place.path().join("authority"), domain);
        assert_eq!(output.status.code(), Some(2), "{domain}");
    }
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}
