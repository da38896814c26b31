//! Bundle documents that Python has made (`tests/corpus/documents`), read and written.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use data_encoding::BASE64;
use martlet_identity::{BundleDocument, DocumentError, TrustBundle, limits::MAX_DOCUMENT_BYTES};
use martlet_model::TrustDomain;
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Manifest {
    domain: TrustDomain,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    id: String,
    refused: Option<String>,
    #[serde(default)]
    roots: Vec<String>,
    sequence: Option<u64>,
    refresh_hint: Option<u64>,
    #[serde(default)]
    written: bool,
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/corpus/documents")
}

fn manifest() -> Manifest {
    serde_json::from_slice(&fs::read(corpus().join("manifest.json")).unwrap()).unwrap()
}

impl Case {
    fn text(&self) -> Vec<u8> {
        fs::read(corpus().join("cases").join(&self.id).with_extension("json")).unwrap()
    }

    fn document(&self) -> BundleDocument {
        let decode = |root: &String| BASE64.decode(root.as_bytes()).unwrap();
        BundleDocument {
            roots: self.roots.iter().map(decode).collect(),
            sequence: self.sequence,
            refresh_hint: self.refresh_hint.map(Duration::from_secs),
        }
    }
}

#[test]
fn documents_of_another_make_are_read_as_they_were_meant_or_refused_with_their_reason() {
    let Manifest { domain, cases } = manifest();
    let (mut read, mut refused) = (0, 0);
    for case in &cases {
        match (BundleDocument::parse(&case.text(), &domain), &case.refused) {
            (Ok(document), None) => {
                assert_eq!(document, case.document(), "{}", case.id);
                TrustBundle::new([(domain.clone(), document.roots)]).unwrap();
                read += 1;
            }
            (Err(problem), Some(reason)) => {
                assert!(problem.to_string().starts_with(reason), "{}: {problem}", case.id);
                refused += 1;
            }
            (outcome, _) => panic!("{}: {outcome:?}", case.id),
        }
    }
    assert!(read >= 10 && refused >= 30, "{read} {refused}");
}

#[test]
fn what_is_written_is_what_others_write_and_is_read_again() {
    let Manifest { domain, cases } = manifest();
    for case in cases.iter().filter(|case| case.refused.is_none()) {
        let (document, theirs) = (case.document(), case.text());
        let ours = document.to_json().unwrap();
        assert_eq!(BundleDocument::parse(ours.as_bytes(), &domain).unwrap(), document);
        if case.written {
            let [ours, theirs]: [Value; 2] =
                [ours.as_bytes(), &theirs].map(|text| serde_json::from_slice(text).unwrap());
            assert_eq!(ours, theirs, "{}", case.id);
        }
    }
}

#[test]
fn every_document_cut_or_changed_at_any_place_is_read_or_refused_without_a_panic() {
    let Manifest { domain, cases } = manifest();
    let text = cases.iter().find(|case| case.id == "one").unwrap().text();
    for at in 0..text.len() {
        assert!(BundleDocument::parse(&text[..at], &domain).is_err() || text[at..] == *b"\n");
        for byte in [b'"', b'0', b'A', b'{', 0] {
            let mut changed = text.clone();
            changed[at] = byte;
            // Within the certificate its signature may be changed, which nobody checks of a root.
            let _ = BundleDocument::parse(&changed, &domain);
        }
    }
}

#[test]
fn a_document_that_is_too_long_is_not_even_read() {
    let Manifest { domain, cases } = manifest();
    let mut text = cases.iter().find(|case| case.id == "one").unwrap().text();
    text.resize(MAX_DOCUMENT_BYTES, b' ');
    assert!(BundleDocument::parse(&text, &domain).is_ok());
    text.push(b' ');
    assert!(matches!(BundleDocument::parse(&text, &domain), Err(DocumentError::TooLong)));
}
