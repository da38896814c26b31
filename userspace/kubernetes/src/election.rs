//! Who of several holds a lease: the decisions, without IO and without a clock of their own.
//!
//! ```text
//!             free, or unchanged for 15 s: written          asked for the last time 10 s ago
//!   stands by ───────────────────────────────▶ holds ───────────────────────────────▶ stands by
//!                                              │   ▲       somebody else's is there
//!                                              └───┘
//!                                             written again
//! ```
//!
//! Times in the lease are for people: whoever waits counts from when it saw the last change, by its
//! own monotonic clock, and whoever holds it counts from before it asked. So the holder has stopped
//! five seconds before anybody else can begin, however long an answer was on its way and whatever
//! the clocks of the machines show.

use tokio::time::Instant;

use crate::limits;

/// What stands in the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Empty: nobody holds it.
    pub holder: String,
    /// Of the object: a write over another one is refused.
    pub version: String,
    /// How often it went to somebody else.
    pub transitions: i32,
}

/// What to do about what was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// To write that it is ours over what was read, and nothing else.
    Take,
    Wait,
}

#[derive(Debug)]
pub struct Election {
    me: String,
    /// The version that was seen last, and since when.
    seen: Option<(String, Instant)>,
    held_until: Option<Instant>,
    /// It is not to hold it again.
    has_stepped_down: bool,
}

impl Election {
    pub fn new(me: String) -> Self {
        Self { me, seen: None, held_until: None, has_stepped_down: false }
    }

    pub fn me(&self) -> &str {
        &self.me
    }

    /// `now`: after it was read.
    pub fn look(&mut self, record: Option<&Record>, now: Instant) -> Act {
        if self.has_stepped_down {
            return Act::Wait;
        }
        let Some(record) = record else { return Act::Take };
        if record.holder == self.me || record.holder.is_empty() {
            return Act::Take;
        }
        self.held_until = None;
        match &self.seen {
            Some((version, since)) if *version == record.version => {
                match now.saturating_duration_since(*since) >= limits::LEASE {
                    true => Act::Take,
                    false => Act::Wait,
                }
            }
            _ => {
                self.seen = Some((record.version.clone(), now));
                Act::Wait
            }
        }
    }

    /// What was written was taken. `asked`: before it was sent.
    pub fn won(&mut self, asked: Instant) {
        if !self.has_stepped_down {
            let until = asked + limits::LEASE_RENEWED_WITHIN;
            self.held_until = self.held_until.max(Some(until));
        }
    }

    /// Somebody else is to have it at once. Nothing is done as its holder from now on, whatever
    /// answers are still on their way.
    pub fn step_down(&mut self) {
        (self.held_until, self.has_stepped_down) = (None, true);
    }

    /// Until when it is held if nothing is heard any more.
    pub fn held_until(&self) -> Option<Instant> {
        self.held_until
    }

    pub fn is_holder(&self, now: Instant) -> bool {
        self.held_until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests;
