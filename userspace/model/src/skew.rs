//! How far a node's clock is from its controller's.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

/// As measured by one question and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skew {
    /// By how many milliseconds the node's clock is ahead; negative if it is behind.
    pub ahead_ms: i64,
    /// The measurement is wrong by so many milliseconds at most: half of the round trip.
    pub within_ms: u64,
}

impl Skew {
    /// Half of what certificates are backdated by, so that somebody hears of it before anybody refuses
    /// a new certificate as not valid yet.
    pub const LIMIT: Duration = Duration::from_secs(30);

    /// The controller's clock showed `theirs` at some moment of a round trip, at whose end the node's
    /// clock showed `ours`.
    pub fn measured(theirs: SystemTime, trip: Duration, ours: SystemTime) -> Self {
        let half = trip / 2;
        let (ours, theirs) = (since_epoch(ours), since_epoch(theirs));
        let ahead = ours - theirs - millis(half);
        let within_ms = u64::try_from(half.as_millis()).unwrap_or(u64::MAX);
        Self { ahead_ms: i64::try_from(ahead).unwrap_or(i64::MAX), within_ms }
    }

    /// Whether it is beyond the limit, however wrong the measurement is.
    pub fn is_too_far(&self) -> bool {
        let limit = u64::try_from(Self::LIMIT.as_millis()).unwrap_or(u64::MAX);
        self.ahead_ms.unsigned_abs().saturating_sub(self.within_ms) > limit
    }
}

/// `31.2 s ahead of the controller's`.
impl fmt::Display for Skew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = if self.ahead_ms < 0 { "behind" } else { "ahead of" };
        write!(f, "{:.1} s {way} the controller's", self.ahead_ms.unsigned_abs() as f64 / 1e3)
    }
}

/// In milliseconds; times before it are negative.
fn since_epoch(at: SystemTime) -> i128 {
    match at.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => millis(since),
        Err(before) => -millis(before.duration()),
    }
}

fn millis(duration: Duration) -> i128 {
    i128::try_from(duration.as_millis()).unwrap_or(i128::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN_YEARS: Duration = Duration::from_secs(3652 * 86_400);

    fn at(seconds: f64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds)
    }

    fn measured(theirs: f64, trip: f64, ours: f64) -> (i64, u64) {
        let skew = Skew::measured(at(theirs), Duration::from_secs_f64(trip), at(ours));
        (skew.ahead_ms, skew.within_ms)
    }

    #[test]
    fn half_of_the_round_trip_is_taken_off_and_is_the_most_that_it_is_wrong_by() {
        assert_eq!(measured(1000.0, 0.0, 1000.0), (0, 0));
        assert_eq!(measured(1000.0, 0.2, 1000.1), (0, 100));
        assert_eq!(measured(1000.0, 2.0, 1011.0), (10_000, 1000));
        assert_eq!(measured(1000.0, 2.0, 991.0), (-10_000, 1000));
    }

    #[test]
    fn what_may_be_within_the_limit_is_not_beyond_it() {
        let skew = |ahead_ms, within_ms| Skew { ahead_ms, within_ms }.is_too_far();
        for way in [1, -1] {
            assert!(!skew(way * 30_000, 0));
            assert!(skew(way * 30_001, 0));
            assert!(!skew(way * 40_000, 10_000), "the answer was slow");
            assert!(skew(way * 40_001, 10_000));
        }
    }

    #[test]
    fn clocks_that_are_years_apart_are_far_apart_and_nothing_overflows() {
        let (now, trip) = (at(1e9), Duration::from_millis(20));
        for (theirs, ours) in [(now, now + TEN_YEARS), (now + TEN_YEARS, now)] {
            assert!(Skew::measured(theirs, trip, ours).is_too_far());
        }
        let skew = Skew::measured(now, Duration::MAX, SystemTime::UNIX_EPOCH - TEN_YEARS);
        assert!(!skew.is_too_far(), "nothing is known after so long");
    }

    #[test]
    fn it_is_said_in_seconds() {
        let said = |ahead_ms| Skew { ahead_ms, within_ms: 1 }.to_string();
        assert_eq!(said(31_249), "31.2 s ahead of the controller's");
        assert_eq!(said(-500), "0.5 s behind the controller's");
    }
}
