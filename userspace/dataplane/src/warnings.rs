//! Warnings that are given once, not once per connection.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use martlet_model::{Closed, WorkloadName};

use crate::limits::WARNING_INTERVAL;

/// When each warning was last given. Bounded by workloads and reasons.
#[derive(Debug, Default)]
pub struct Warnings {
    given: Mutex<HashMap<(WorkloadName, Closed), Instant>>,
}

impl Warnings {
    /// Whether it is time to warn about this workload for this reason.
    pub fn are_due(&self, workload: &WorkloadName, reason: Closed, now: Instant) -> bool {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (workload.clone(), reason);
        if given.get(&key).is_some_and(|last| now.duration_since(*last) < WARNING_INTERVAL) {
            return false;
        }
        given.insert(key, now);
        true
    }

    /// Forgets what is so old that it would be given again.
    pub fn sweep(&self, now: Instant) {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.retain(|_, last| now.duration_since(*last) < WARNING_INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_repeated_only_after_a_while() {
        let (warnings, now) = (Warnings::default(), Instant::now());
        let name = |name: &str| WorkloadName {
            namespace: "shop".parse().unwrap(),
            name: name.parse().unwrap(),
        };
        assert!(warnings.are_due(&name("web"), Closed::NoRoute, now));
        assert!(!warnings.are_due(&name("web"), Closed::NoRoute, now));
        assert!(warnings.are_due(&name("web"), Closed::Denied, now));
        assert!(warnings.are_due(&name("cart"), Closed::NoRoute, now));
        let later = now + WARNING_INTERVAL;
        assert!(warnings.are_due(&name("web"), Closed::NoRoute, later));
        warnings.sweep(later);
        assert_eq!(warnings.given.lock().unwrap().len(), 1);
    }
}
