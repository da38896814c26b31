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

/// An offline root in one directory, an authority without its key in another.
fn with_offline_root() -> (TempDir, std::path::PathBuf, std::path::PathBuf) {
    let place = TempDir::new().unwrap();
    let (vault, online) = (place.path().join("vault"), place.path().join("online"));
    init(&vault, "demo.example");
    let root = vault.join("root.crt");
    let made =
        martlet(&["init", at(&online), "--trust-domain", "demo.example", "--root", at(&root)]);
    assert!(stdout(&made).contains("The root's key is kept elsewhere"), "{}", stderr(&made));
    assert!(!online.join("root.key").exists() && !online.join("issuer.crt").exists());
    (place, vault, online)
}

fn at(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn martlet(arguments: &[&str]) -> Output {
    run(Path::new("/none"), &[&["authority"], arguments].concat())
}

#[track_caller]
fn refused(arguments: &[&str], why: &str) {
    let output = martlet(arguments);
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    assert!(stderr(&output).contains(why), "{}", stderr(&output));
}

#[test]
fn an_issuer_is_asked_for_signed_elsewhere_and_installed() {
    let (place, vault, online) = with_offline_root();
    let request = place.path().join("issuer.csr");
    let ask = || {
        let csr = martlet(&["csr", at(&online)]);
        assert!(csr.status.success(), "{}", stderr(&csr));
        fs::write(&request, stdout(&csr)).unwrap();
        openssl(place.path(), &["req", "-in", "issuer.csr", "-verify", "-noout", "-pubkey"])
    };
    for _ in 0..2 {
        assert_eq!(ask(), ask(), "asked again, it asks for the same key");
        let signed = martlet(&["sign", at(&vault), at(&request)]);
        assert!(signed.status.success(), "{}", stderr(&signed));
        let certificate = place.path().join("issuer.crt");
        fs::write(&certificate, stdout(&signed)).unwrap();
        let installed = martlet(&["install", at(&online), at(&certificate)]);
        assert!(stdout(&installed).contains("has a new issuer"), "{}", stderr(&installed));
        openssl(&online, &["verify", "-x509_strict", "-CAfile", "root.crt", "issuer.crt"]);
        // The same certificate is for no later request.
        martlet(&["csr", at(&online)]);
        refused(&["install", at(&online), at(&certificate)], "another key than the key file");
    }
    refused(&["install", at(&online), "/dev/null"], "cannot be read as PEM");
    refused(&["sign", at(&online), at(&place.path().join("issuer.csr"))], "root.key");
}

#[test]
fn a_log_is_verified_and_a_changed_line_named() {
    use martlet_authority::log::{Event, Log};
    let place = TempDir::new().unwrap();
    let now = std::time::SystemTime::now();
    let mut log = Log::open(place.path(), now).unwrap();
    for count in 1..=3 {
        let (node, reason) = ("one".parse().unwrap(), "other_node".to_owned());
        let (workload, identity, detail) = (None, None, String::new());
        let event = Event::Refused { node, workload, identity, reason, detail, count };
        log.append(&[event], now).unwrap();
    }
    let head = log.head().to_string();
    drop(log);
    let whole = martlet(&["log", "verify", at(place.path())]);
    assert!(whole.status.success());
    let said = stdout(&whole);
    for text in ["lines     1 to 3", "refused   6", &head, "known only with an anchor"] {
        assert!(said.contains(text), "{text} is not in:\n{said}");
    }
    let anchored = martlet(&["log", "verify", at(place.path()), "--anchor", &head]);
    assert!(stdout(&anchored).contains("up to line 3 for certain"));
    let file = place.path().join("issuance-00000000000000000001.log");
    let text = fs::read_to_string(&file).unwrap();
    let cut: String = text.lines().take(2).map(|line| format!("{line}\n")).collect();
    fs::write(&file, cut).unwrap();
    assert!(martlet(&["log", "verify", at(place.path())]).status.success());
    let found = martlet(&["log", "verify", at(place.path()), "--anchor", &head]);
    assert_eq!(found.status.code(), Some(1));
    assert!(stdout(&found).contains("line 3 was anchored, and the log ends with 2"));
    fs::write(&file, text.replacen("one", "two", 1)).unwrap();
    let found = martlet(&["log", "verify", at(place.path())]);
    assert_eq!(found.status.code(), Some(1));
    assert!(stdout(&found).contains(".log:1: was changed"), "{}", stdout(&found));
}
