//! Whatever the bytes of a node file are, the answer is a file or a list of problems.

use martlet_standalone::parse;
use proptest::{prelude::*, sample::Index};

const SEEDS: &[&str] = &[
    include_str!("good/full.yaml"),
    include_str!("good/aliases.yaml"),
    include_str!("good/lab.json"),
];

/// What YAML and this file's texts give a meaning to.
const TOKENS: &[&str] = &[
    ":",
    "-",
    "[",
    "]",
    "{",
    "}",
    ",",
    "&a",
    "*a",
    "<<: *web",
    "!!str",
    "!",
    "|",
    ">",
    "'",
    "\"",
    "\n",
    "  ",
    "\t",
    "---\n",
    "...\n",
    "#",
    "%",
    "\0",
    "\u{feff}",
    "ü",
    "~",
    "null",
    "0",
    "-1",
    "65536",
    "99999999999999999999",
    "/",
    "::",
    "10.1.0.2",
    "spiffe://",
    ".inf",
    "\r\n",
    "\\",
    "@",
];

#[derive(Debug, Clone)]
enum Mutation {
    Insert(Index, &'static str),
    Remove(Index, usize),
    Repeat(Index, usize),
    Replace(Index, char),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let place = any::<Index>;
    prop_oneof![
        (place(), prop::sample::select(TOKENS)).prop_map(|(at, token)| Mutation::Insert(at, token)),
        (place(), 1..40usize).prop_map(|(at, length)| Mutation::Remove(at, length)),
        (place(), 1..200usize).prop_map(|(at, length)| Mutation::Repeat(at, length)),
        (place(), any::<char>()).prop_map(|(at, with)| Mutation::Replace(at, with)),
    ]
}

fn mutated(seed: &str, mutations: &[Mutation]) -> String {
    let mut text: Vec<char> = seed.chars().collect();
    for mutation in mutations {
        let at = |index: &Index, text: &Vec<char>| index.index(text.len() + 1);
        let end = |at: usize, length: usize, text: &Vec<char>| (at + length).min(text.len());
        match mutation {
            Mutation::Insert(index, token) => {
                let at = at(index, &text);
                text.splice(at..at, token.chars());
            }
            Mutation::Remove(index, length) => {
                let at = at(index, &text);
                text.drain(at..end(at, *length, &text));
            }
            Mutation::Repeat(index, length) => {
                let at = at(index, &text);
                let again = text[at..end(at, *length, &text)].to_vec();
                text.splice(at..at, again);
            }
            Mutation::Replace(index, with) => {
                let at = at(index, &text);
                text.splice(at..end(at, 1, &text), [*with]);
            }
        }
    }
    text.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_mutated_file_is_accepted_or_refused(
        seed in prop::sample::select(SEEDS),
        mutations in prop::collection::vec(mutation(), 1..12),
    ) {
        if let Err(error) = parse(&mutated(seed, &mutations), "node.yaml") {
            prop_assert!(!error.problems().is_empty());
            prop_assert!(error.to_string().starts_with("node.yaml:"));
        }
    }

    #[test]
    fn any_text_is_accepted_or_refused(text in "(?s).{0,400}") {
        let _ = parse(&text, "node.yaml");
    }

    /// What was accepted once is accepted again and says the same.
    #[test]
    fn an_accepted_file_needs_no_restart_for_itself(
        seed in prop::sample::select(SEEDS),
        mutations in prop::collection::vec(mutation(), 0..3),
    ) {
        let text = mutated(seed, &mutations);
        if let Ok(file) = parse(&text, "node.yaml") {
            let again = parse(&text, "node.yaml").expect("it was accepted before");
            prop_assert_eq!(file.needs_restart(&again), None);
            prop_assert_eq!(&file.local, &again.local);
        }
    }
}
