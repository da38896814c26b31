//! How long to wait before the next attempt. Pure but for the one who waits.
//!
//! Each pause is drawn evenly from a tenth of a ceiling up to all of it; the ceiling doubles with
//! every failure and begins anew after a connection that lasted longer than it.

use std::time::Duration;

use crate::limits::{FIRST_PAUSE, LONGEST_PAUSE};

#[derive(Debug, Default)]
pub struct Pauses {
    failures: u32,
}

impl Pauses {
    /// After an attempt that lasted so long; `chance` is between 0 and 1.
    pub fn next(&mut self, lasted: Duration, chance: f64) -> Duration {
        if lasted > self.ceiling() {
            self.failures = 0;
        }
        let pause = self.ceiling().mul_f64(0.1 + 0.9 * chance.clamp(0.0, 1.0));
        self.failures = self.failures.saturating_add(1);
        pause
    }

    fn ceiling(&self) -> Duration {
        FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(self.failures.min(16))).min(LONGEST_PAUSE)
    }
}

#[cfg(test)]
mod tests;
