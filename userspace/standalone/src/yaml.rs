//! From text to the file's shape: the limits that the YAML library keeps, and its errors in words
//! that a person who edits the file understands.

use serde::de::DeserializeOwned;
use serde_saphyr::{
    DefaultMessageFormatter, DuplicateKeyPolicy, Error, MessageFormatter, Options, alias_limits,
    budget, options,
};

use crate::{
    limits,
    mark::Mark,
    problem::{Fault, Problem},
};

/// The first problem of the text's form; what is wrong with the values is `check`'s.
pub(crate) fn read<T: DeserializeOwned>(text: &str) -> Result<T, Problem> {
    if text.len() > limits::MAX_FILE_BYTES {
        return Err(Problem { mark: None, fault: Fault::TooLarge(text.len()) });
    }
    serde_saphyr::from_str_with_options(text, strict()).map_err(|error| {
        let mark = error.location().and_then(Mark::of);
        Problem { mark, fault: describe(&error) }
    })
}

fn strict() -> Options {
    options! {
        budget: budget! {
            max_nodes: limits::MAX_NODES,
            max_events: limits::MAX_EVENTS,
            max_depth: limits::MAX_DEPTH,
            max_aliases: limits::MAX_ALIASES,
            max_anchors: limits::MAX_ALIASES,
            max_recorded_anchor_events: limits::MAX_ALIASED_EVENTS,
            max_recorded_anchor_bytes: limits::MAX_FILE_BYTES,
            max_total_scalar_bytes: limits::MAX_FILE_BYTES,
            // A second document is refused by its own name, which is not that of a limit.
            max_documents: 2,
        },
        alias_limits: alias_limits! {
            max_total_replayed_events: limits::MAX_ALIASED_EVENTS,
            max_replay_stack_depth: limits::MAX_ALIAS_DEPTH,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        reject_unsupported_tags: true,
        reject_tagged_field_names: true,
        with_snippet: false,
    }
}

fn describe(error: &Error) -> Fault {
    match error {
        Error::AliasError { error, .. } | Error::WithSnippet { error, .. } => describe(error),
        Error::SerdeUnknownField { field, expected, .. } => {
            Fault::UnknownKey { key: shown(field), expected: one_of(expected) }
        }
        // What the library calls a value that is not there.
        Error::SerdeUnknownVariant { variant, .. } if matches!(&**variant, "" | "~" | "null") => {
            Fault::NoValue
        }
        Error::SerdeUnknownVariant { variant, expected, .. } => {
            Fault::UnknownValue { value: shown(variant), expected: one_of(expected) }
        }
        Error::SerdeMissingField { field, .. } => Fault::MissingKey(field),
        Error::DuplicateMappingKey { key, .. } => {
            Fault::KeyTwice(shown(key.as_deref().unwrap_or_default()))
        }
        Error::NullIntoString { .. } => Fault::NoValue,
        Error::Eof { .. } => Fault::EndOfFile,
        Error::MultipleDocuments { .. } => Fault::SecondDocument,
        Error::ExpectedMappingEndAfterEnumVariantValue { .. } => Fault::OneKeyOnly,
        Error::Unexpected { expected: "mapping start", .. } => Fault::Form("keys with values"),
        Error::Unexpected { expected: "sequence start", .. } => Fault::Form("a list like [a, b]"),
        Error::Unexpected { expected: "string scalar", .. } => Fault::Form("one text or number"),
        Error::Budget { breach, .. } => Fault::Limit(format!("{breach:?}")),
        Error::AliasReplayLimitExceeded { .. } | Error::AliasReplayStackDepthExceeded { .. } => {
            Fault::Limit(DefaultMessageFormatter.format_message(error).into_owned())
        }
        other => Fault::Yaml(DefaultMessageFormatter.format_message(other).into_owned()),
    }
}

/// Enough of a text to find it again, on one line.
fn shown(text: &str) -> String {
    text.escape_debug().take(limits::MAX_SHOWN).collect()
}

fn one_of(expected: &[&str]) -> String {
    match expected {
        [only] => format!("`{only}`"),
        several => format!("one of {}", several.join(", ")),
    }
}
