//! Files that are refused: each `tests/bad/*.yaml` has what is said about it in a `.txt` beside it.
//!
//! `MARTLET_BLESS=1` rewrites what is said; read the difference before you commit it.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
};

use martlet_standalone::{MAX_FILE_BYTES, parse};

fn cases() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad");
    let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = paths.collect();
    paths.sort();
    paths
}

#[test]
fn bad_files_are_refused_with_place_and_remedy() {
    let bless = std::env::var_os("MARTLET_BLESS").is_some();
    let mut different = Vec::new();
    for path in cases().iter().filter(|path| path.extension().unwrap() == "yaml") {
        let text = fs::read_to_string(path).unwrap();
        let said = match parse(&text, "node.yaml") {
            Ok(_) => format!("{} was accepted\n", path.display()),
            Err(error) => format!("{error}\n"),
        };
        let expected = path.with_extension("txt");
        if bless {
            fs::write(&expected, &said).unwrap();
        }
        if fs::read_to_string(&expected).unwrap_or_default() != said {
            different.push(format!("{}:\n{said}", path.display()));
        }
    }
    assert!(different.is_empty(), "what is said has changed:\n{}", different.join("\n"));
}

#[test]
fn every_expectation_belongs_to_a_file() {
    for path in cases() {
        assert!(path.with_extension("yaml").exists(), "{}", path.display());
    }
}

#[test]
fn every_refusal_names_the_file_and_all_but_the_file_as_a_whole_a_place() {
    for path in cases().iter().filter(|path| path.extension().unwrap() == "txt") {
        for line in fs::read_to_string(path).unwrap().lines() {
            let rest = line.strip_prefix("node.yaml:");
            let rest = rest.unwrap_or_else(|| panic!("{}: {line}", path.display()));
            let has_place = rest.split(':').take(2).all(|part| part.parse::<u32>().is_ok());
            let is_about_all = rest.starts_with(" and ");
            assert!(has_place || is_about_all, "{}: {line}", path.display());
        }
    }
}

#[test]
fn a_file_beyond_the_limit_is_not_even_read() {
    let text = "#".repeat(MAX_FILE_BYTES + 1);
    let error = parse(&text, "node.yaml").unwrap_err().to_string();
    assert_eq!(error, "node.yaml: the file has 16777217 bytes, and at most 16777216 are read");
}

fn with_policies(policies: &str) -> String {
    format!("trustDomain: a.b\nauthority: {{ directory: /a }}\nnode: {{ name: one }}\n{policies}")
}

fn refusal(text: &str) -> String {
    parse(text, "node.yaml").unwrap_err().to_string()
}

#[test]
fn few_bytes_never_become_many_values() {
    let rules = ["{}"; 1_000].join(", ");
    let first = format!("  - {{ namespace: a, name: p, action: deny, rules: &r [{rules}] }}\n");
    let policy =
        |number| format!("  - {{ namespace: a, name: p{number}, action: deny, rules: *r }}\n");
    let policies: String = (0..900).map(policy).collect();
    let said = refusal(&with_policies(&format!("policies:\n{first}{policies}")));
    assert!(said.contains("more aliases than a node file may"), "{said}");
}

#[test]
fn aliases_are_counted() {
    let aliases = ["*s"; 2_000].join(", ");
    let said = refusal(&with_policies(&format!(
        "policies: [{{ namespace: &s a, name: p, action: deny, rules: [{{ from: {{ namespaces: \
         [{aliases}] }} }}] }}]\n"
    )));
    assert!(said.contains("more aliases than a node file may"), "{said}");
}

#[test]
fn nodes_are_counted() {
    let rules = ["{}"; 1_600_000].join(",");
    let said = refusal(&with_policies(&format!(
        "policies: [{{ namespace: a, name: p, action: deny, rules: [{rules}] }}]\n"
    )));
    assert!(said.contains("the file is larger"), "{said}");
}

#[test]
fn many_problems_are_counted_and_few_are_said() {
    let ports = ["0"; 30_000].join(", ");
    let said = refusal(&with_policies(&format!(
        "policies: [{{ namespace: a, name: p, action: deny, rules: [{{ ports: [{ports}] }}] }}]\n"
    )));
    assert_eq!(said.lines().count(), 21);
    assert_eq!(said.lines().last(), Some("node.yaml: and 29980 more"));
}

#[test]
fn a_long_text_is_not_said_in_full() {
    let long = "\u{e9}".repeat(100_000);
    for text in [
        format!("\"{long}\": 1\n"),
        with_policies(&format!(
            "workloads: [{{ namespace: {long}, name: a, serviceAccount: a, addresses: [{long}] }}]\n"
        )),
        with_policies(&format!(
            "policies: [{{ namespace: a, name: a, action: {long}, rules: [{{}}] }}]\n"
        )),
    ] {
        let said = refusal(&text);
        assert!(said.len() < 1_000, "{said}");
    }
}

#[test]
fn a_key_cannot_write_lines_of_its_own() {
    assert_eq!(refusal("\"a\\nnode.yaml:1:1: b\": 1\n").lines().count(), 1);
}
