//! Finds any of thousands of canaries in a piece of bytes.

use aho_corasick::AhoCorasick;
use anyhow::{Context, Result};

use crate::canary::Canaries;

#[derive(Debug)]
pub struct Search {
    /// `None` when there is nothing to look for.
    automaton: Option<AhoCorasick>,
}

impl Search {
    pub fn new(canaries: &Canaries) -> Result<Search> {
        if canaries.is_empty() {
            return Ok(Search { automaton: None });
        }
        let automaton =
            AhoCorasick::new(canaries.iter()).context("building the search for canaries")?;
        Ok(Search { automaton: Some(automaton) })
    }

    pub fn find(&self, bytes: &[u8], found: &mut Vec<usize>) {
        if let Some(automaton) = &self.automaton {
            found
                .extend(automaton.find_overlapping_iter(bytes).map(|hit| hit.pattern().as_usize()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canary_is_found_and_a_piece_of_one_is_not() {
        let canaries = Canaries::random(100);
        let search = Search::new(&canaries).unwrap();
        let wanted = canaries.iter().nth(7).unwrap();
        let mut found = Vec::new();
        search.find(&[b"before", wanted, b"after"].concat(), &mut found);
        search.find(&wanted[..31], &mut found);
        assert_eq!(found, [7]);
    }
}
