//! Endless bytes that look random, cheap to make, in which lost or swapped pieces change the checksum.

pub struct Pattern {
    block: Vec<u8>,
    at: usize,
}

/// A prime: no piece size of any layer divides it.
const BLOCK: usize = 1_048_573;

impl Pattern {
    pub fn new(seed: u64) -> Pattern {
        let mut state = seed;
        let mut block = Vec::with_capacity(BLOCK + 8);
        while block.len() < BLOCK {
            // SplitMix64.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = state;
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            block.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
        }
        block.truncate(BLOCK);
        Pattern { block, at: 0 }
    }

    /// Up to `most` of the next bytes; they stay next until [`Pattern::advance`].
    pub fn next(&self, most: usize) -> &[u8] {
        &self.block[self.at..BLOCK.min(self.at + most)]
    }

    pub fn advance(&mut self, count: usize) {
        self.at = (self.at + count) % BLOCK;
    }
}
