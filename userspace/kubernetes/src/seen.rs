//! Of each object of the cluster, the part that matters here, and what is wrong with it.
//!
//! Objects are read by types of our own that name only the fields that are used: what else stands in
//! them is dropped while it is parsed.

mod namespace;
mod node;
mod pod;
mod service;
mod slice;

pub use namespace::{Namespace, NamespaceObject};
pub use node::{Node, NodeObject};
pub use pod::{Pod, PodObject};
pub use service::{Service, ServiceKey, ServiceObject, ServicePort};
pub use slice::{Endpoint, Slice, SliceObject, SliceVersion};

use std::collections::BTreeMap;

use martlet_model::Mode;

use crate::MODE_LABEL;

/// What the label says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    Enrolled(Mode),
    Off,
    /// Something that is none of the three values. It counts as strict: whatever was meant, nothing
    /// is widened.
    Unknown(String),
}

impl Wanted {
    /// `None` without the label.
    pub fn of(labels: Option<&BTreeMap<String, String>>) -> Option<Self> {
        let value = labels?.get(MODE_LABEL)?;
        Some(match value.as_str() {
            "permissive" => Self::Enrolled(Mode::Permissive),
            "strict" => Self::Enrolled(Mode::Strict),
            "off" => Self::Off,
            _ => Self::Unknown(value.clone()),
        })
    }

    pub fn mode(&self) -> Option<Mode> {
        match self {
            Self::Enrolled(mode) => Some(*mode),
            Self::Off => None,
            Self::Unknown(_) => Some(Mode::Strict),
        }
    }
}

/// Why an object of the cluster cannot be used as it is. The object is left out, or a part of it is;
/// nothing else is touched by it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Problem {
    /// One word, as Events have it.
    pub reason: &'static str,
    pub message: String,
}

impl Problem {
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(value: &str) -> Option<Mode> {
        Wanted::of(Some(&[(MODE_LABEL.to_owned(), value.to_owned())].into())).unwrap().mode()
    }

    #[test]
    fn the_label_has_three_values_and_whatever_else_is_strict() {
        assert_eq!(wanted("permissive"), Some(Mode::Permissive));
        assert_eq!(wanted("strict"), Some(Mode::Strict));
        assert_eq!(wanted("off"), None);
        for typo in ["", "Strict", "enabled", "true", "offf"] {
            assert_eq!(wanted(typo), Some(Mode::Strict), "{typo:?}");
        }
    }

    #[test]
    fn without_the_label_nothing_is_wanted() {
        assert_eq!(Wanted::of(None), None);
        let other = [("app".to_owned(), "strict".to_owned())].into();
        assert_eq!(Wanted::of(Some(&other)), None);
    }
}
