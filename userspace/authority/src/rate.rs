//! How often a node may ask: a flood costs it its own certificates, and nobody else anything.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use martlet_model::Label;

use crate::limits::{COUNTED_NODES, NODE_BURST, NODE_PER_SECOND, SUMMED};

#[derive(Default)]
pub struct Rate {
    nodes: HashMap<Label, Node>,
}

struct Node {
    left: f64,
    at: SystemTime,
    /// Refused since the last line about it.
    refused: usize,
    told: Option<SystemTime>,
}

/// Whether one more may be asked for, and how many refusals one line of the log shall stand for.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    Granted { summed: Option<usize> },
    Refused { summed: Option<usize> },
}

impl Rate {
    pub fn take(&mut self, node: &Label, now: SystemTime) -> Taken {
        if !self.nodes.contains_key(node) && self.nodes.len() >= COUNTED_NODES {
            self.forget(now);
            if self.nodes.len() >= COUNTED_NODES {
                return Taken::Refused { summed: None };
            }
        }
        let fresh = || Node { left: f64::from(NODE_BURST), at: now, refused: 0, told: None };
        self.nodes.entry(node.clone()).or_insert_with(fresh).take(now)
    }

    /// Those that may ask for as many as if they had never asked.
    fn forget(&mut self, now: SystemTime) {
        self.nodes.retain(|_, node| {
            node.refill(now);
            node.left < f64::from(NODE_BURST) || node.refused > 0
        });
    }
}

impl Node {
    fn take(&mut self, now: SystemTime) -> Taken {
        self.refill(now);
        if self.left >= 1.0 {
            self.left -= 1.0;
            let refused = std::mem::take(&mut self.refused);
            return Taken::Granted { summed: (refused > 0).then_some(refused) };
        }
        self.refused += 1;
        // A clock that was put back must not silence it.
        let is_due = |told| now.duration_since(told).map_or(true, |since| since >= SUMMED);
        let summed = self.told.is_none_or(is_due).then(|| {
            self.told = Some(now);
            std::mem::take(&mut self.refused)
        });
        Taken::Refused { summed }
    }

    fn refill(&mut self, now: SystemTime) {
        let since = now.duration_since(self.at).unwrap_or(Duration::ZERO);
        self.at = now;
        let more = since.as_secs_f64() * f64::from(NODE_PER_SECOND);
        self.left = (self.left + more).min(f64::from(NODE_BURST));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_off_and_summed_and_others_are_not_touched() {
        let (mut rate, start) = (Rate::default(), SystemTime::UNIX_EPOCH);
        let (loud, quiet) = ("loud".parse().unwrap(), "quiet".parse().unwrap());
        let taken: Vec<_> = (0..100_000).map(|_| rate.take(&loud, start)).collect();
        let granted = taken.iter().filter(|taken| matches!(taken, Taken::Granted { .. })).count();
        assert_eq!(granted, NODE_BURST as usize);
        let told = |taken: &&Taken| matches!(taken, Taken::Refused { summed: Some(_) });
        assert_eq!(taken.iter().filter(told).count(), 1, "one line for all");
        assert_eq!(rate.take(&quiet, start), Taken::Granted { summed: None });
        let later = start + Duration::from_secs(1);
        let refused = 100_000 - NODE_BURST as usize - 1;
        assert_eq!(rate.take(&loud, later), Taken::Granted { summed: Some(refused) });
    }

    #[test]
    fn a_clock_that_jumps_back_neither_grants_more_nor_silences() {
        let (mut rate, start) = (Rate::default(), SystemTime::now());
        let node = "one".parse().unwrap();
        while rate.take(&node, start) == (Taken::Granted { summed: None }) {}
        let back = start - Duration::from_secs(3600);
        assert_eq!(rate.take(&node, back), Taken::Refused { summed: Some(1) });
        assert_eq!(rate.take(&node, back), Taken::Refused { summed: None });
    }

    #[test]
    fn nodes_without_number_are_bounded() {
        let (mut rate, now) = (Rate::default(), SystemTime::now());
        for number in 0..COUNTED_NODES {
            rate.take(&format!("n{number}").parse().unwrap(), now);
        }
        let one_more = "one-more".parse().unwrap();
        assert_eq!(rate.take(&one_more, now), Taken::Refused { summed: None });
        let later = now + Duration::from_secs(60);
        assert_eq!(rate.take(&one_more, later), Taken::Granted { summed: None });
        assert_eq!(rate.nodes.len(), 1);
    }
}
