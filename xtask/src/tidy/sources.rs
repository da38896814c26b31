//! How a source file reads: what it is for, how long it is, and that it is finished.

use super::{Finding, code::words};

const LONGEST_FILE: usize = 500;

/// Macros that say that something is not finished.
const UNFINISHED: &[&str] = &["todo", "unimplemented", "dbg"];

/// Built from pieces, so that this file has none of them.
const NOTES: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// Beginnings of paths that only one developer's machine has.
const FOREIGN: &[&str] =
    &[concat!("/ho", "me/"), concat!("/Use", "rs/"), concat!("/ro", "ot/"), concat!("/wo", "rk/")];

/// `code` is `text` without comments and texts.
pub fn check(path: &str, text: &str, code: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !text.starts_with("//!") {
        findings.push(format!("{path}: does not begin with what it is for (`//!`)"));
    }
    if text.lines().count() > LONGEST_FILE {
        findings.push(format!("{path}: longer than {LONGEST_FILE} lines"));
    }
    for (number, (line, code)) in (1..).zip(text.lines().zip(code.lines())) {
        for (word, follows) in words(code) {
            if UNFINISHED.contains(&word) && follows == Some('!') {
                findings.push(format!("{path}:{number}: {word}!"));
            }
        }
        if code.contains("#[ignore") {
            findings.push(format!("{path}:{number}: an ignored test"));
        }
        for note in NOTES.iter().filter(|note| line.contains(**note)) {
            findings.push(format!("{path}:{number}: {note}"));
        }
    }
    findings
}

pub fn foreign_paths(path: &str, text: &str) -> Vec<Finding> {
    let begins = |line: &str, foreign: &str| {
        line.match_indices(foreign).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            !before.is_some_and(|char| char.is_alphanumeric() || "._-}*~/".contains(char))
        })
    };
    let mut findings = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        for foreign in FOREIGN.iter().filter(|foreign| begins(line, foreign)) {
            findings.push(format!("{path}:{number}: a path of one machine ({foreign})"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::code;

    fn found(text: &str) -> usize {
        check("a.rs", text, &code::only(text)).len()
    }

    #[test]
    fn a_file_says_what_it_is_for_and_is_not_too_long() {
        assert_eq!(found("//! For this.\nfn a() {}\n"), 0);
        assert_eq!(found("fn a() {}\n"), 1);
        assert_eq!(found(&format!("//! Long.\n{}", "\n".repeat(LONGEST_FILE))), 1);
    }

    #[test]
    fn what_is_not_finished_is_found() {
        for name in UNFINISHED {
            assert_eq!(found(&format!("//! For this.\nfn a() {{ {name}!() }}\n")), 1, "{name}");
            assert_eq!(found(&format!("//! For this.\n// {name}!()\n")), 0, "{name}");
        }
        for note in NOTES {
            assert_eq!(found(&format!("//! For this.\n// {note}: later\n")), 1, "{note}");
        }
    }

    #[test]
    fn an_ignored_test_is_found() {
        assert_eq!(found("//! For this.\n#[ignore = \"slow\"]\nfn a() {}\n"), 1);
        assert_eq!(found("//! For this.\n// #[ignore] is not for us\n"), 0);
    }

    #[test]
    fn a_path_of_one_machine_is_found() {
        for foreign in FOREIGN {
            assert_eq!(foreign_paths("a.md", &format!("cd {foreign}me\n")).len(), 1, "{foreign}");
            assert_eq!(foreign_paths("a.md", &format!("\"{foreign}me\"\n")).len(), 1, "{foreign}");
            assert!(foreign_paths("a.md", &format!("target{foreign}me\n")).is_empty(), "{foreign}");
        }
    }
}
