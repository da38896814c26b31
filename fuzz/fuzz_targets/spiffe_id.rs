//! The parser of SPIFFE IDs judges every text as the slow oracle of its tests does.

#![no_main]

use libfuzzer_sys::fuzz_target;
use martlet_model::SpiffeId;

#[path = "../../userspace/model/tests/spiffe/oracle.rs"]
mod oracle;

fuzz_target!(|text: &str| {
    let parsed = text.parse::<SpiffeId>().ok();
    let parts = parsed.as_ref().map(|id| (id.trust_domain_str().to_owned(), id.path().to_owned()));
    assert_eq!(parts, oracle::parts(text));
});
