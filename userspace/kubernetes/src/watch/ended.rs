//! The lives that have ended: no object has the UID of one of them again.

use std::collections::{HashSet, VecDeque};

use crate::limits;

/// The latest of them.
#[derive(Debug, Default)]
pub struct Ended {
    uids: HashSet<String>,
    /// May name some that are not there any more.
    order: VecDeque<String>,
}

impl Ended {
    pub fn add(&mut self, uid: String) {
        if uid.is_empty() || !self.uids.insert(uid.clone()) {
            return;
        }
        self.order.push_back(uid);
        if self.order.len() > limits::ENDED
            && let Some(oldest) = self.order.pop_front()
        {
            self.uids.remove(&oldest);
        }
    }

    pub fn has(&self, uid: &str) -> bool {
        self.uids.contains(uid)
    }

    /// It has not ended after all.
    pub fn remove(&mut self, uid: &str) {
        self.uids.remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_remembered_and_no_more_than_there_is_room_for() {
        let mut ended = Ended::default();
        for number in 0..=limits::ENDED {
            ended.add(number.to_string());
        }
        assert!(!ended.has("0"));
        assert!(ended.has("1") && ended.has(&limits::ENDED.to_string()));
        assert_eq!(ended.order.len(), limits::ENDED);
    }

    #[test]
    fn one_that_is_there_after_all_has_not_ended_and_nothing_without_a_uid_ends() {
        let mut ended = Ended::default();
        ended.add("1".to_owned());
        ended.remove("1");
        ended.add(String::new());
        assert!(!ended.has("1") && !ended.has(""));
    }
}
