//! The parser of SPIFFE IDs against the oracle: with texts that the grammar makes, with mutations
//! of them, and with all short ones.

#![allow(clippy::unwrap_used)]

mod oracle;

use std::cell::Cell;

use martlet_model::{SpiffeId, TrustDomain};
use proptest::{
    prelude::{Just, ProptestConfig, Strategy, any},
    prop_oneof,
    test_runner::{TestCaseError, TestRunner},
};

const CASES: u32 = 120_000;

/// What breaks identities, or looks as if it did.
const PIECES: &[&str] = &[
    "/",
    "//",
    ".",
    "..",
    "/./",
    "/../",
    "%",
    "%2f",
    "%2e",
    ":",
    ":443",
    "@",
    "u@",
    "?",
    "?a=b",
    "#",
    "\\",
    "\0",
    " ",
    "\t",
    "\n",
    "~",
    "+",
    ",",
    ";",
    "[",
    "]",
    "A",
    "Z",
    "z",
    "0",
    "-",
    "_",
    "ü",
    "о",
    "\u{200b}",
    "\u{212a}",
    "\u{ff0f}",
    "spiffe://",
    "SPIFFE",
    "a.",
    "aaaaaaaaaaaaaaaa",
];

fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        9 => proptest::sample::select(PIECES).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
    ]
}

fn valid() -> impl Strategy<Value = String> {
    let domain = prop_oneof![
        40 => "[a-z0-9._-]{1,20}",
        1 => "[a-z0-9._-]{253,255}",
    ];
    let segment = prop_oneof![
        88 => "[a-zA-Z0-9._-]{1,12}",
        10 => "\\.{1,4}",
        1 => "[a-zA-Z0-9._-]{600,700}",
    ];
    (domain, proptest::collection::vec(segment, 1..6))
        .prop_map(|(domain, segments)| format!("spiffe://{domain}/{}", segments.join("/")))
}

#[derive(Debug, Clone)]
enum Change {
    Insert(usize, String),
    Remove(usize, usize),
    Replace(usize, String),
    Upper(usize),
    Repeat(usize, usize),
    Pad(usize),
}

fn change() -> impl Strategy<Value = Change> {
    // Most of what there is to break stands in front.
    let at = prop_oneof![0..30_usize, 0..2100_usize].boxed();
    prop_oneof![
        30 => (at.clone(), piece()).prop_map(|(at, piece)| Change::Insert(at, piece)),
        20 => (at.clone(), 1..12_usize).prop_map(|(at, count)| Change::Remove(at, count)),
        30 => (at.clone(), piece()).prop_map(|(at, piece)| Change::Replace(at, piece)),
        10 => at.clone().prop_map(Change::Upper),
        10 => (at, 1..12_usize).prop_map(|(at, count)| Change::Repeat(at, count)),
        1 => (2045..2052_usize).prop_map(Change::Pad),
    ]
}

impl Change {
    fn apply(self, text: &str) -> String {
        let mut characters: Vec<char> = text.chars().collect();
        let length = characters.len();
        let within = |at: usize| if length == 0 { 0 } else { at % (length + 1) };
        match self {
            Change::Insert(at, piece) => {
                characters.splice(within(at)..within(at), piece.chars());
            }
            Change::Remove(at, count) => {
                characters.drain(within(at)..(within(at) + count).min(length));
            }
            Change::Replace(at, piece) => {
                characters.splice(within(at)..(within(at) + 1).min(length), piece.chars());
            }
            Change::Upper(at) => {
                if let Some(character) = characters.get_mut(within(at)) {
                    *character = character.to_ascii_uppercase();
                }
            }
            Change::Repeat(at, count) => {
                let again = characters[within(at)..(within(at) + count).min(length)].to_vec();
                characters.splice(within(at)..within(at), again);
            }
            Change::Pad(to) => characters.resize(to.max(length), 'x'),
        }
        characters.into_iter().collect()
    }
}

fn text() -> impl Strategy<Value = String> {
    let changed =
        (valid(), proptest::collection::vec(change(), 1..4)).prop_map(|(text, changes)| {
            changes.into_iter().fold(text, |text, change| change.apply(&text))
        });
    let pieces =
        proptest::collection::vec(piece(), 0..6).prop_map(|pieces| pieces.concat()).boxed();
    prop_oneof![
        2 => valid(),
        6 => changed,
        1 => (Just("spiffe://"), pieces.clone()).prop_map(|(scheme, rest)| format!("{scheme}{rest}")),
        1 => pieces,
    ]
}

/// Whether it is one, if both agree about everything.
fn agreed(text: &str) -> Result<bool, String> {
    let (parsed, expected) = (text.parse::<SpiffeId>(), oracle::parts(text));
    let domain = text.parse::<TrustDomain>();
    if domain.is_ok() != oracle::is_trust_domain(text) {
        return Err(format!("as a trust domain: {domain:?}"));
    }
    let read = serde_json::from_value::<SpiffeId>(text.into());
    if read.as_ref().ok() != parsed.as_ref().ok() {
        return Err(format!("{read:?} from JSON, and {parsed:?}"));
    }
    match (&parsed, &expected) {
        (Err(_), None) => Ok(false),
        (Ok(id), Some((domain, path)))
            if id.as_str() == text
                && id.to_string() == text
                && id.trust_domain_str() == domain
                && id.trust_domain().as_str() == domain
                && id.path() == path =>
        {
            Ok(true)
        }
        _ => Err(format!("parsed {parsed:?}, expected {expected:?}")),
    }
}

#[test]
fn what_the_grammar_makes_and_its_mutations_are_judged_as_by_the_oracle() {
    let config = ProptestConfig { cases: CASES, failure_persistence: None, ..Default::default() };
    let accepted = Cell::new(0_u32);
    let run = TestRunner::new(config).run(&text(), |text| match agreed(&text) {
        Ok(is_one) => {
            accepted.set(accepted.get() + u32::from(is_one));
            Ok(())
        }
        Err(difference) => Err(TestCaseError::fail(difference)),
    });
    run.unwrap_or_else(|difference| panic!("{difference}"));
    let accepted = accepted.get();
    assert!((CASES / 10..CASES / 10 * 9).contains(&accepted), "{accepted} of {CASES} are valid");
    martlet_lab::evidence(
        "what_the_grammar_makes_and_its_mutations_are_judged_as_by_the_oracle",
        &[("texts", &CASES), ("of them identities", &accepted), ("differences", &0)],
    )
    .unwrap();
}

#[test]
fn all_short_texts_of_the_characters_that_matter_are_judged_as_by_the_oracle() {
    const CHARACTERS: &[u8] = b"aA/.:%";
    let (mut count, mut accepted) = (0, 0);
    for length in 0..=6 {
        for mut number in 0..CHARACTERS.len().pow(length) {
            let mut text = "spiffe://".to_owned();
            for _ in 0..length {
                text.push(char::from(CHARACTERS[number % CHARACTERS.len()]));
                number /= CHARACTERS.len();
            }
            accepted += u32::from(agreed(&text).unwrap_or_else(|why| panic!("{text:?}: {why}")));
            count += 1;
        }
    }
    assert_eq!(count, 55_987);
    assert!(accepted > 200, "{accepted}");
}
