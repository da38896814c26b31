//! Who alone may name a library, or write `unsafe`.

use super::{Finding, code::words};

/// Words that only sources below these paths may use.
const ALONE: &[(&str, &[&str])] = &[
    ("rustls", &["userspace/identity/"]),
    ("tokio_rustls", &["userspace/identity/"]),
    ("webpki", &["userspace/identity/"]),
    ("rcgen", &["userspace/identity/", "userspace/authority/"]),
    ("aws_lc_rs", &["userspace/identity/", "userspace/authority/", "tests/kernel/"]),
    ("aya", &["userspace/kernel/", "ebpf/shared/"]),
    ("aya_ebpf", &["ebpf/programs/"]),
    ("nix", &["userspace/kernel/", "tests/", "bench/"]),
    ("libc", &["userspace/kernel/", "tests/", "bench/"]),
    (
        "unsafe",
        &["userspace/kernel/", "ebpf/", "tests/lab/", "tests/kernel/", "bench/src/compare/hook.rs"],
    ),
];

/// The evidence that a connection needs, and who alone can build it.
const EVIDENCE: &[(&str, &str)] =
    &[("Permit", "userspace/policy/src/"), ("Peer", "userspace/identity/src/")];

pub fn check(path: &str, code: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in (1..).zip(code.lines()) {
        for (word, _) in words(line) {
            if let Some((_, owners)) = ALONE.iter().find(|(name, _)| *name == word)
                && !is_tests_of_a_crate(path)
                && !owners.iter().any(|owner| path.starts_with(owner))
            {
                findings.push(format!("{path}:{number}: may not name {word}, only {owners:?} may"));
            }
        }
        for (evidence, owner) in EVIDENCE {
            if builds(line, evidence) && !path.starts_with(owner) {
                findings.push(format!("{path}:{number}: only {owner} may build a {evidence}"));
            }
            if path.starts_with(owner) && gives_away(line, evidence) {
                findings.push(format!("{path}:{number}: nobody else may build a {evidence}"));
            }
        }
    }
    findings
}

/// Integration tests stand outside of the crate that they show.
fn is_tests_of_a_crate(path: &str) -> bool {
    path.starts_with("userspace/") && path.split('/').nth(2) == Some("tests")
}

/// `Permit::new(…)` and the like.
fn builds(line: &str, evidence: &str) -> bool {
    line.split(evidence).skip(1).any(|after| {
        let Some(path) = after.strip_prefix("::") else { return false };
        words(path).next().is_some_and(|(word, follows)| {
            follows == Some('(') && word.starts_with(|char: char| char.is_lowercase())
        })
    })
}

/// Traits that would let anybody make evidence from something else.
fn gives_away(line: &str, evidence: &str) -> bool {
    let declared: Vec<_> = words(line).map(|(word, _)| word).collect();
    let (Some(&"impl"), Some(&last)) = (declared.first(), declared.last()) else { return false };
    let giver = |word: &&str| ["Default", "From", "Deserialize", "FromStr"].contains(word);
    last == evidence && declared.contains(&"for") && declared.iter().any(giver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_is_named_only_where_it_may_be() {
        let code = "use rustls::ClientConfig;\n";
        assert_eq!(check("userspace/policy/src/lib.rs", code).len(), 1);
        assert!(check("userspace/identity/src/lib.rs", code).is_empty());
        assert!(check("userspace/dataplane/tests/connections.rs", code).is_empty());
    }

    #[test]
    fn unsafe_is_written_only_where_it_may_be() {
        let code = "unsafe { call() }";
        assert_eq!(check("userspace/dataplane/src/relay.rs", code).len(), 1);
        assert!(check("userspace/kernel/src/link.rs", code).is_empty());
    }

    #[test]
    fn evidence_is_built_only_by_who_checks() {
        let code = "let permit = Permit::new(None);";
        assert_eq!(check("userspace/dataplane/src/outbound.rs", code).len(), 1);
        assert!(check("userspace/policy/src/evaluate.rs", code).is_empty());
        assert!(check("userspace/dataplane/src/outbound.rs", "fn a(permit: Permit) {}").is_empty());
    }

    #[test]
    fn evidence_is_not_given_away() {
        let code = "impl Default for Permit {";
        assert_eq!(check("userspace/policy/src/permit.rs", code).len(), 1);
        let shown = "impl fmt::Display for Permit {";
        assert!(check("userspace/policy/src/permit.rs", shown).is_empty());
    }
}
