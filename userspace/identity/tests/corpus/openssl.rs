//! The chains of the corpus before another judge: what openssl refuses, we refuse too.

use std::{path::Path, process::Command};

use crate::{Accepted, Case, Outcome, corpus, manifest};

/// What openssl makes of a chain with the roots of one trust domain, and why.
fn judge(case: &Case, domain: &str) -> (bool, String) {
    let chain = corpus().join("cases").join(&case.id).with_extension("pem");
    let roots = corpus().join("trust").join(&case.trust).join(domain);
    let path = |path: &Path| path.display().to_string();
    let (roots, chain, now) = (path(&roots), path(&chain), case.now.to_string());
    let output = Command::new("openssl")
        .args(["verify", "-no-CApath", "-no-CAstore", "-purpose", "sslclient"])
        .args(["-attime", &now, "-CAfile", &roots, "-untrusted", &chain, &chain])
        .output()
        .unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Not after is inclusive (RFC 5280, section 4.1.2.5), which openssl takes otherwise.
const KNOWN: &[&str] = &["valid-to-the-second"];

#[test]
fn no_chain_is_believed_that_openssl_refuses() {
    let (mut both_refuse, mut only_we_refuse, mut known) = (0, 0, 0);
    let mut complaints = Vec::new();
    let cases = manifest().cases;
    for case in &cases {
        let domain = if case.id == "partner" { "partner.example.pem" } else { "prod.example.pem" };
        let (is_good, why) = judge(case, domain);
        let is_ours = case.terminate == Outcome::Accepted(Accepted::Accepted);
        match (is_ours, is_good) {
            (true, false) if KNOWN.contains(&case.id.as_str()) => known += 1,
            (true, false) => complaints.push(format!("{}: {why}", case.id)),
            (false, false) => both_refuse += 1,
            (false, true) => only_we_refuse += 1,
            (true, true) => {}
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    assert!(both_refuse > 40, "{both_refuse} refused by both, {only_we_refuse} by us alone");
    martlet_lab::evidence(
        "no_chain_is_believed_that_openssl_refuses",
        &[
            ("refused by both", &both_refuse),
            ("by us alone", &only_we_refuse),
            ("by openssl alone, in the last second of a certificate", &known),
            ("by openssl alone otherwise", &complaints.len()),
        ],
    )
    .unwrap();
}
