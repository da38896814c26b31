//! When a certificate is renewed. Pure: time and chance are arguments.
//!
//! ```text
//!   issued ── half of its life, up to a tenth later ──▶ due ── issued again ──▶ …
//!                                                        │ failed
//!                                                        ▼
//!                             due again after 1, 2, 4, … 300 s; the old one is used meanwhile
//! ```

use std::time::{Duration, SystemTime};

use crate::limits::{CLOCK_TOLERANCE, RENEWAL_PAUSE, RENEWAL_PAUSE_MAX};

/// Of one workload's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewal {
    /// When this was decided: a clock that shows less was set back, and `due` means nothing.
    since: SystemTime,
    due: SystemTime,
    failures: u32,
    error: Option<String>,
    is_refused: bool,
}

impl Renewal {
    pub fn at(due: SystemTime, now: SystemTime) -> Self {
        Self { since: now, due, failures: 0, error: None, is_refused: false }
    }

    /// `jitter` is between 0 and 1: the pause is between half of the full one and all of it, so
    /// that many that failed together do not come back together.
    pub fn failed(&self, now: SystemTime, error: String, jitter: f64) -> Self {
        let full = RENEWAL_PAUSE * 2_u32.saturating_pow(self.failures.min(16));
        let pause = full.min(RENEWAL_PAUSE_MAX).mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0);
        let failures = self.failures.saturating_add(1);
        Self { since: now, due: now + pause, failures, error: Some(error), is_refused: false }
    }

    /// Whether the latest attempt failed by somebody's decision.
    pub fn refused(self, is_refused: bool) -> Self {
        Self { is_refused, ..self }
    }

    pub fn is_refused(&self) -> bool {
        self.is_refused
    }

    pub fn is_due(&self, now: SystemTime) -> bool {
        self.due <= now || now + CLOCK_TOLERANCE < self.since
    }

    pub fn due(&self) -> SystemTime {
        self.due
    }

    /// Why the latest attempt failed, if it did.
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Whether this failure is worth a log line: it is another than the last one.
    pub fn is_news(&self, error: &str) -> bool {
        self.error.as_deref() != Some(error)
    }

    #[cfg(test)]
    fn pause(&self, now: SystemTime) -> Duration {
        self.due.duration_since(now).unwrap_or_default()
    }
}

/// Whole seconds since the Unix epoch, for reports; 0 for what lies before it.
pub fn unix_seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).as_ref().map_or(0, Duration::as_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_due_at_its_time_and_not_before() {
        let now = SystemTime::now();
        let renewal = Renewal::at(now, now - Duration::from_secs(10));
        assert!(renewal.is_due(now));
        assert!(!renewal.is_due(now - Duration::from_secs(1)));
    }

    #[test]
    fn a_clock_that_is_set_back_makes_it_due() {
        let now = SystemTime::now();
        let future = now + Duration::from_secs(365 * 86_400);
        let renewal = Renewal::at(future + Duration::from_secs(43_200), future);
        assert!(!renewal.is_due(future - CLOCK_TOLERANCE), "a correction by a little");
        assert!(renewal.is_due(now), "its certificate is not valid yet");
        assert!(renewal.failed(future, "no issuer".into(), 1.0).is_due(now));
    }

    #[test]
    fn pauses_double_up_to_a_ceiling_and_never_vanish() {
        let now = SystemTime::now();
        let mut renewal = Renewal::at(now, now);
        let mut pauses = Vec::new();
        for _ in 0..40 {
            renewal = renewal.failed(now, "no issuer".into(), 1.0);
            pauses.push(renewal.pause(now).as_secs());
        }
        assert_eq!(pauses[..4], [1, 2, 4, 8]);
        assert_eq!(pauses.last(), Some(&300));
        let shortest = Renewal::at(now, now).failed(now, "no issuer".into(), 0.0);
        assert_eq!(shortest.pause(now), Duration::from_millis(500));
    }

    #[test]
    fn the_same_failure_is_news_once() {
        let now = SystemTime::now();
        let renewal = Renewal::at(now, now);
        assert!(renewal.is_news("no issuer"));
        let failed = renewal.failed(now, "no issuer".into(), 0.0);
        assert!(!failed.is_news("no issuer") && failed.is_news("disk full"));
        assert_eq!(failed.error(), Some("no issuer"));
    }
}
