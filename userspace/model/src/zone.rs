//! Where nodes are that are near each other.

use std::{fmt, str::FromStr, sync::Arc};

use thiserror::Error;

/// A failure zone, as the label `topology.kubernetes.io/zone` of a node names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Zone(Arc<str>);

#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is no zone: letters, digits, `-`, `_` and `.`, at most 63")]
pub struct ZoneError(String);

impl Zone {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Zone {
    type Err = ZoneError;

    fn from_str(text: &str) -> Result<Self, ZoneError> {
        let fits = (1..=63).contains(&text.len());
        let is_one = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        match fits && text.bytes().all(is_one) {
            true => Ok(Self(text.into())),
            false => Err(ZoneError(text.chars().take(64).collect())),
        }
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_what_labels_may_say_and_nothing_else() {
        for good in ["a", "eu-West_1.b", "x".repeat(63).as_str()] {
            assert_eq!(good.parse::<Zone>().unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a/b", "ü", "x".repeat(64).as_str()] {
            assert!(bad.parse::<Zone>().is_err(), "{bad}");
        }
    }
}
