//! Places that many want, shared so that nobody can take all of them.
//!
//! Whoever wants one more may then hold no more than [`SHARE`] times what is left. So one alone gets
//! most of all, several get equal parts, and some are always left for whoever comes next; nothing
//! has to be set aside for those who may never come.
//!
//! ```text
//!   all connections of the agent
//!     └─ one workload's, those it opens apart from those it is called by
//!          └─ of the latter one address's, and one identity's
//! ```

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::limits::{
    BUFFER_BYTES, BUSY_CHUNK_BYTES, CHUNK_BYTES, CONNECTIONS, CONNECTIONS_PER_WORKLOAD,
    OTHER_FILES, SHARE,
};

/// Whether one more is within a fair share, `held` and `left` counted with it.
fn is_fair(held: usize, left: usize) -> bool {
    held <= left.saturating_mul(SHARE)
}

/// All connections of an agent.
#[derive(Debug)]
pub struct Places {
    limit: usize,
    taken: AtomicUsize,
}

impl Places {
    /// As many connections as this number of open files allows: each needs two.
    pub fn within(open_files: u64) -> Self {
        let files = usize::try_from(open_files).unwrap_or(usize::MAX);
        let limit = files.saturating_sub(OTHER_FILES) / 2;
        Self { limit: limit.min(CONNECTIONS), taken: AtomicUsize::new(0) }
    }

    pub fn left(&self) -> usize {
        self.limit.saturating_sub(self.taken.load(Ordering::Relaxed))
    }
}

/// The connections of one workload in one direction.
#[derive(Debug, Default)]
pub struct Account {
    held: AtomicUsize,
    /// What its work has taken since it was last compared, in ns.
    spent: AtomicU64,
    is_busy: AtomicBool,
    is_known: AtomicBool,
}

impl Account {
    /// What is read at once for one of the connections: less when there are many, so that what
    /// waits for slow readers is bounded for all of them together.
    pub fn chunk_bytes(&self) -> usize {
        let held = self.held.load(Ordering::Relaxed).max(1);
        let most = if self.is_busy() { BUSY_CHUNK_BYTES } else { CHUNK_BYTES };
        (BUFFER_BYTES / held).min(most)
    }

    /// Whether this is the first time.
    pub fn become_known(&self) -> bool {
        !self.is_known.load(Ordering::Relaxed) && !self.is_known.swap(true, Ordering::Relaxed)
    }

    /// Whether its work is done in turns.
    pub fn is_busy(&self) -> bool {
        self.is_busy.load(Ordering::Relaxed)
    }

    pub fn set_busy(&self, is_busy: bool) {
        self.is_busy.store(is_busy, Ordering::Relaxed);
    }

    pub fn spend(&self, time: Duration) {
        let spent = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.spent.fetch_add(spent, Ordering::Relaxed);
    }

    pub fn take_spent(&self) -> Duration {
        Duration::from_nanos(self.spent.swap(0, Ordering::Relaxed))
    }

    /// How many places there are now for those who share this account.
    pub fn room(&self, places: &Places) -> usize {
        let held = self.held.load(Ordering::Relaxed);
        (places.left() * SHARE).max(held).min(CONNECTIONS_PER_WORKLOAD)
    }

    /// One more connection, or `None`.
    pub fn claim(self: &Arc<Self>, places: &Arc<Places>) -> Option<Place> {
        let held = self.held.fetch_add(1, Ordering::Relaxed) + 1;
        let taken = places.taken.fetch_add(1, Ordering::Relaxed) + 1;
        // Given back if it is not granted.
        let place = Place { places: places.clone(), account: self.clone() };
        let granted = taken <= places.limit
            && held <= CONNECTIONS_PER_WORKLOAD
            && is_fair(held, places.limit - taken);
        granted.then_some(place)
    }

    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

/// A connection's place; given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    account: Arc<Account>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken.fetch_sub(1, Ordering::Relaxed);
        self.account.held.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What several who are known by `K` hold of one account.
#[derive(Debug)]
pub struct Shares<K> {
    held: Mutex<Held<K>>,
}

#[derive(Debug)]
struct Held<K> {
    of: HashMap<K, usize>,
    all: usize,
}

impl<K> Default for Shares<K> {
    fn default() -> Self {
        Self { held: Mutex::new(Held { of: HashMap::new(), all: 0 }) }
    }
}

impl<K> Shares<K> {
    fn lock(&self) -> MutexGuard<'_, Held<K>> {
        // Both numbers are changed together, and nothing between them can panic.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash + Clone> Shares<K> {
    /// One more of `room` places for `key`, or `None`.
    pub fn claim(self: &Arc<Self>, key: &K, room: usize) -> Option<Share<K>> {
        let mut held = self.lock();
        let own = held.of.get(key).copied().unwrap_or(0) + 1;
        let all = held.all + 1;
        if all > room || !is_fair(own, room - all) {
            return None;
        }
        held.of.insert(key.clone(), own);
        held.all = all;
        Some(Share { shares: self.clone(), key: key.clone() })
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        let held = self.lock();
        held.of.is_empty() && held.all == 0
    }
}

/// Given back when it is dropped.
#[derive(Debug)]
pub struct Share<K: Eq + Hash> {
    shares: Arc<Shares<K>>,
    key: K,
}

impl<K: Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        let mut held = self.shares.lock();
        held.all -= 1;
        if let Some(own) = held.of.get_mut(&self.key) {
            *own -= 1;
            if *own == 0 {
                held.of.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(limit: usize) -> Arc<Places> {
        Arc::new(Places::within((2 * limit + OTHER_FILES) as u64))
    }

    fn take_all<T>(mut claim: impl FnMut() -> Option<T>) -> Vec<T> {
        std::iter::from_fn(&mut claim).take(1_000_000).collect()
    }

    #[test]
    fn one_alone_gets_most_and_leaves_some_for_whoever_comes_next() {
        let (places, bad, good) = (places(8000), Arc::default(), Arc::default());
        let taken = take_all(|| Account::claim(&bad, &places));
        assert_eq!(taken.len(), 8000 * SHARE / (SHARE + 1));
        let next = take_all(|| Account::claim(&good, &places));
        assert_eq!(next.len(), (8000 - taken.len()) * SHARE / (SHARE + 1));
        assert!(Account::claim(&bad, &places).is_none());
        drop((taken, next));
        assert_eq!((bad.held(), good.held(), places.left()), (0, 0, 8000), "no drift");
        assert!(Account::claim(&bad, &places).is_some());
    }

    #[test]
    fn no_workload_has_more_than_its_limit_however_many_files_there_are() {
        let (places, one) = (Arc::new(Places::within(u64::MAX)), Arc::default());
        let taken = take_all(|| Account::claim(&one, &places));
        assert_eq!(taken.len(), CONNECTIONS_PER_WORKLOAD);
    }

    #[test]
    fn without_files_for_a_connection_there_are_none() {
        for files in [0, OTHER_FILES as u64] {
            assert!(Account::claim(&Arc::default(), &Arc::new(Places::within(files))).is_none());
        }
    }

    #[test]
    fn one_source_cannot_take_all_of_a_workload() {
        let shares = Arc::new(Shares::default());
        let bad = take_all(|| shares.claim(&1, 800));
        assert_eq!(bad.len(), 700);
        let good = take_all(|| shares.claim(&2, 800));
        assert_eq!(good.len(), 87);
        assert!(shares.claim(&1, 800).is_none());
        drop(bad);
        assert!(shares.claim(&1, 800).is_some());
        drop(good);
        assert!(shares.is_empty(), "nothing is remembered about who holds nothing");
    }

    #[test]
    fn what_waits_for_slow_readers_is_bounded_for_all_together() {
        let (places, one) = (Arc::new(Places::within(u64::MAX)), Arc::default());
        let first = Account::claim(&one, &places);
        assert_eq!(one.chunk_bytes(), CHUNK_BYTES);
        let rest = take_all(|| Account::claim(&one, &places));
        assert!(one.chunk_bytes() * rest.len() <= BUFFER_BYTES);
        drop((first, rest));
        assert_eq!(one.chunk_bytes(), CHUNK_BYTES);
    }
}
