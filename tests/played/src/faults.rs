//! What it does wrong, for each kind of objects.

use std::{collections::HashMap, sync::Arc};

/// What becomes of lists.
#[derive(Debug, Clone, Default)]
pub enum Lists {
    #[default]
    Right,
    /// Whole, and without anything in them.
    Empty,
    /// What there was once, with the version of then.
    AsTheyWere {
        version: u64,
        items: Vec<Arc<str>>,
    },
    /// An answer that says why there is none, after so many seconds at the soonest.
    Refused(u16, Option<u32>),
    /// Pages after the first.
    Expired,
    Garbage,
    /// The request is taken, and nothing is said.
    Silent,
}

/// What becomes of watches.
#[derive(Debug, Clone, Default)]
pub enum Watches {
    #[default]
    Right,
    /// They do not even begin.
    Silent,
    /// They begin, and end.
    Ended,
    Refused(u16, Option<u32>),
    /// From no version can be watched, by the answer's status.
    Expired,
}

/// What becomes of questions for one object.
#[derive(Debug, Clone, Default)]
pub enum Gets {
    #[default]
    Right,
    Refused(u16),
    Silent,
}

#[derive(Debug, Default)]
pub struct Faults(HashMap<String, Of>);

/// Of one kind.
#[derive(Debug, Default)]
pub struct Of {
    pub lists: Lists,
    pub watches: Watches,
    pub gets: Gets,
    /// Lines that are said to all who watch at that time.
    pub said: Vec<String>,
    /// How often all watches were ended, and fell silent.
    pub cuts: u64,
    pub stalls: u64,
    pub got: u64,
    pub listed: u64,
    pub watched: u64,
    pub watching: u64,
}

impl Faults {
    pub fn of(&mut self, plural: &str) -> &mut Of {
        self.0.entry(plural.to_owned()).or_default()
    }
}
