//! One buffer for each worker thread, for bytes that pass through within one poll.
//!
//! A connection owns a buffer only while somebody does not take what was read for him, so an idle
//! connection owns none, and a busy one works in memory that is warm.

use std::cell::RefCell;

use crate::{frame::HEADER_BYTES, limits::CHUNK_BYTES};

/// Room for a chunk, its header, and an `OPEN` before it.
pub const SCRATCH_BYTES: usize = CHUNK_BYTES + 64;
const _: () = assert!(SCRATCH_BYTES > CHUNK_BYTES + 2 * HEADER_BYTES + 10);

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Lends the thread's buffer; what it holds at the start is somebody else's old data.
pub fn with<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|buffer| {
        if buffer.is_empty() {
            buffer.resize(SCRATCH_BYTES, 0);
        }
        work(buffer)
    })
}

/// Bytes that wait until somebody takes them. Holds no memory when nothing waits.
#[derive(Debug, Default)]
pub struct Waiting {
    bytes: Vec<u8>,
    taken: usize,
}

impl Waiting {
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub fn take(&mut self, count: usize) {
        self.taken += count;
        if self.taken >= self.bytes.len() {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_leaves_no_memory_behind() {
        let mut waiting = Waiting::default();
        waiting.push(b"abc");
        waiting.take(1);
        waiting.push(b"d");
        assert_eq!(waiting.bytes(), b"bcd");
        waiting.take(3);
        assert!(waiting.is_empty());
        assert_eq!(waiting.bytes.capacity(), 0);
    }
}
