//! Idle lanes, kept for the next connection of the same caller to the same place.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Wake, Waker},
    time::{Duration, Instant, SystemTime},
};

use martlet_model::{SpiffeId, WorkloadName};
use tokio::{sync::mpsc, task::coop::unconstrained};

use crate::{
    Dataplane, Local,
    lane::MutualLane,
    limits::{IDLE_LANE, IDLE_LANES, IDLE_LANES_PER_PAIR, STIRRED_LANES},
};

/// Whose lane it is, where it goes, and who must be there. Who follows at an address with the same
/// identity is somebody else: of the lanes to who was there it knows nothing, and would not say so.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    pub caller: WorkloadName,
    pub destination: SocketAddr,
    pub callee: WorkloadName,
    pub identity: SpiffeId,
}

/// A lane that may be idle.
pub trait Kept {
    fn is_usable(&mut self, now: SystemTime) -> bool;
}

/// An idle lane, and the workload of ours that it belongs to.
pub struct Parked {
    pub lane: Box<MutualLane>,
    local: Arc<Local>,
    /// Woken when the far side says something, or is gone.
    waker: Waker,
}

/// Tells that something has happened to an idle lane to a destination. What is not told because
/// there is too much of it is found by the next sweep.
struct Stirred {
    destination: SocketAddr,
    told: mpsc::Sender<SocketAddr>,
}

impl Wake for Stirred {
    fn wake(self: Arc<Self>) {
        let _ = self.told.try_send(self.destination);
    }
}

/// Closes lanes that the far side has said goodbye on, as soon as it has: it may wait for that. Runs
/// until the data plane is gone.
///
/// Unconstrained, since a lane that is asked when the task's budget is used up says that it has
/// something to tell.
pub async fn watch(dataplane: Weak<Dataplane>, mut stirred: mpsc::Receiver<SocketAddr>) {
    let watching = async {
        while let Some(destination) = stirred.recv().await {
            let Some(dataplane) = dataplane.upgrade() else { return };
            dataplane.pool.sweep_where(|key| key.destination == destination);
            drop(dataplane);
            tokio::task::yield_now().await;
        }
    };
    unconstrained(watching).await;
}

impl Kept for Parked {
    fn is_usable(&mut self, now: SystemTime) -> bool {
        let Self { lane, local, waker } = self;
        let own = local.credentials.current();
        !local.is_retired()
            && own.is_some_and(|own| own.not_after() > now)
            && local.credentials.goes_on_with(lane.stream.peer())
            && lane.is_usable(local.credentials.generation(), now, waker)
    }
}

/// Last in, first out: a pair that needs few lanes lets the others grow old.
pub struct Pool<L> {
    idle: Mutex<Idle<L>>,
    stirred: mpsc::Sender<SocketAddr>,
}

struct Idle<L> {
    /// The oldest stand first.
    lanes: HashMap<Key, Vec<(Instant, L)>>,
    count: usize,
    closed: bool,
}

impl<L> Idle<L> {
    /// So many lanes of a pair are gone.
    fn forget(&mut self, key: &Key, count: usize) {
        self.count -= count;
        if self.lanes.get(key).is_some_and(Vec::is_empty) {
            self.lanes.remove(key);
        }
    }
}

impl<L> Default for Idle<L> {
    fn default() -> Self {
        Self { lanes: HashMap::new(), count: 0, closed: false }
    }
}

impl Pool<Parked> {
    /// Keeps a lane that has carried a connection to its end, and watches it.
    pub fn park(&self, key: Key, mut lane: Box<MutualLane>, local: Arc<Local>) {
        let stirred = Stirred { destination: key.destination, told: self.stirred.clone() };
        let waker = Arc::new(stirred).into();
        if lane.is_silent(&waker) {
            self.put(key, Parked { lane, local, waker });
        }
    }
}

impl<L: Kept> Pool<L> {
    /// And where it is told that [`watch`] must look.
    pub fn new() -> (Self, mpsc::Receiver<SocketAddr>) {
        let (stirred, told) = mpsc::channel(STIRRED_LANES);
        (Self { idle: Mutex::default(), stirred }, told)
    }

    fn lock(&self) -> MutexGuard<'_, Idle<L>> {
        // Every change below is complete before anything that could panic.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lane that is still good, and how long it has been idle; those that are not are closed.
    pub fn take(&self, key: &Key) -> Option<(Duration, L)> {
        loop {
            let (since, mut lane) = self.pop(key)?;
            let idle = since.elapsed();
            if idle < IDLE_LANE && lane.is_usable(SystemTime::now()) {
                return Some((idle, lane));
            }
        }
    }

    /// Closes all lanes of a pair.
    pub fn abandon(&self, key: &Key) {
        let mut idle = self.lock();
        let closed = idle.lanes.remove(key);
        idle.count -= closed.as_ref().map_or(0, Vec::len);
        drop(idle);
        drop(closed);
    }

    fn pop(&self, key: &Key) -> Option<(Instant, L)> {
        let mut idle = self.lock();
        let lanes = idle.lanes.get_mut(key)?;
        let lane = lanes.pop();
        if lanes.is_empty() {
            idle.lanes.remove(key);
        }
        idle.count -= usize::from(lane.is_some());
        lane
    }

    /// Keeps a lane. Closes the pair's oldest instead if it has enough, or this one if all have.
    pub fn put(&self, key: Key, lane: L) {
        let mut idle = self.lock();
        if idle.closed {
            return;
        }
        let Idle { lanes, count, .. } = &mut *idle;
        if *count >= IDLE_LANES && !lanes.contains_key(&key) {
            return;
        }
        let lanes = lanes.entry(key).or_default();
        let mut oldest = None;
        if lanes.len() >= IDLE_LANES_PER_PAIR || *count >= IDLE_LANES {
            oldest = Some(lanes.remove(0));
            *count -= 1;
        }
        lanes.push((Instant::now(), lane));
        *count += 1;
        // Closing a socket takes a while.
        drop(idle);
        drop(oldest);
    }

    /// Closes what nobody has used for long, and what cannot be used any more.
    pub fn sweep(&self) {
        self.sweep_where(|_| true);
    }

    fn sweep_where(&self, is_asked: impl Fn(&Key) -> bool) {
        let (now, clock) = (Instant::now(), SystemTime::now());
        let good = |lane: &mut (Instant, L)| now - lane.0 < IDLE_LANE && lane.1.is_usable(clock);
        let keys: Vec<Key> =
            self.lock().lanes.keys().filter(|key| is_asked(key)).cloned().collect();
        // One pair at a time: to ask thousands of sockets takes a while, and others need the pool.
        for key in keys {
            let mut idle = self.lock();
            let Some(lanes) = idle.lanes.get_mut(&key) else { continue };
            let closed: Vec<_> = lanes.extract_if(.., |lane| !good(lane)).collect();
            idle.forget(&key, closed.len());
            drop(idle);
        }
    }

    /// Closes lanes until there are no more than so many, each pair's oldest first.
    pub fn shed(&self, most: usize) {
        let mut idle = self.lock();
        let mut closed = Vec::new();
        let keys: Vec<Key> = match idle.count > most {
            true => idle.lanes.keys().cloned().collect(),
            false => return,
        };
        for key in keys {
            let over = idle.count.saturating_sub(most);
            let Some(lanes) = idle.lanes.get_mut(&key) else { continue };
            let count = over.min(lanes.len());
            closed.extend(lanes.drain(..count));
            idle.forget(&key, count);
        }
        drop(idle);
    }

    /// Closes all lanes, and keeps none from now on.
    pub fn close(&self) {
        let mut idle = self.lock();
        idle.closed = true;
        idle.count = 0;
        let lanes = std::mem::take(&mut idle.lanes);
        drop(idle);
        drop(lanes);
    }

    pub fn len(&self) -> usize {
        self.lock().count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake {
        number: usize,
        good: bool,
    }

    impl Kept for Fake {
        fn is_usable(&mut self, _: SystemTime) -> bool {
            self.good
        }
    }

    fn name(name: &str) -> WorkloadName {
        WorkloadName { namespace: "shop".parse().unwrap(), name: name.parse().unwrap() }
    }

    fn key(caller: &str, port: u16) -> Key {
        Key {
            caller: name(caller),
            destination: SocketAddr::from(([10, 0, 0, 1], port)),
            callee: name("web-0"),
            identity: "spiffe://a.org/ns/shop/sa/web".parse().unwrap(),
        }
    }

    fn lane(number: usize) -> Fake {
        Fake { number, good: true }
    }

    #[test]
    fn the_last_lane_is_taken_first_and_only_by_its_pair() {
        let (pool, _told) = Pool::new();
        pool.put(key("cart", 80), lane(1));
        pool.put(key("cart", 80), lane(2));
        assert!(pool.take(&key("cart", 81)).is_none());
        assert!(pool.take(&key("web", 80)).is_none());
        assert_eq!(pool.take(&key("cart", 80)).unwrap().1.number, 2);
        assert_eq!(pool.take(&key("cart", 80)).unwrap().1.number, 1);
        assert!(pool.take(&key("cart", 80)).is_none());
        assert_eq!((pool.len(), pool.lock().lanes.len()), (0, 0));
    }

    #[test]
    fn a_lane_to_who_was_at_an_address_is_not_given_for_who_follows() {
        let (pool, _told) = Pool::new();
        pool.put(key("cart", 80), lane(1));
        assert!(pool.take(&Key { callee: name("web-1"), ..key("cart", 80) }).is_none());
        assert!(pool.take(&key("cart", 80)).is_some());
    }

    #[test]
    fn a_lane_that_is_not_good_is_never_given() {
        let (pool, _told) = Pool::new();
        pool.put(key("cart", 80), lane(1));
        pool.put(key("cart", 80), Fake { good: false, ..lane(2) });
        assert_eq!(pool.take(&key("cart", 80)).unwrap().1.number, 1);
        assert_eq!(pool.len(), 0, "the other was closed");
    }

    #[test]
    fn abandoning_a_pair_closes_its_lanes_and_no_others() {
        let (pool, _told) = Pool::new();
        pool.abandon(&key("cart", 80));
        pool.put(key("cart", 80), lane(1));
        pool.put(key("cart", 80), lane(2));
        pool.put(key("cart", 81), lane(3));
        pool.abandon(&key("cart", 80));
        assert_eq!((pool.len(), pool.lock().lanes.len()), (1, 1));
        assert!(pool.take(&key("cart", 80)).is_none());
        assert!(pool.take(&key("cart", 81)).is_some());
    }

    #[test]
    fn both_bounds_hold_and_the_oldest_goes_first() {
        let (pool, _told) = Pool::new();
        for number in 0..IDLE_LANES_PER_PAIR + 10 {
            pool.put(key("cart", 80), lane(number));
        }
        assert_eq!(pool.len(), IDLE_LANES_PER_PAIR);
        assert_eq!(pool.lock().lanes[&key("cart", 80)][0].1.number, 10);
        for port in 1..10_000 {
            pool.put(key("web", port), lane(0));
        }
        assert_eq!(pool.len(), IDLE_LANES);
        let counted: usize = pool.lock().lanes.values().map(Vec::len).sum();
        assert_eq!(counted, IDLE_LANES);
    }

    #[test]
    fn lanes_that_others_need_the_files_of_are_closed() {
        let (pool, _told) = Pool::new();
        for number in 0..100 {
            pool.put(key("cart", 1 + number % 4), lane(number.into()));
        }
        pool.shed(200);
        assert_eq!(pool.len(), 100);
        pool.shed(30);
        assert_eq!(pool.len(), 30);
        let counted: usize = pool.lock().lanes.values().map(Vec::len).sum();
        assert_eq!(counted, 30);
        pool.shed(0);
        assert_eq!((pool.len(), pool.lock().lanes.len()), (0, 0));
    }

    #[test]
    fn a_sweep_closes_what_is_dead_and_a_closed_pool_keeps_nothing() {
        let (pool, _told) = Pool::new();
        pool.put(key("cart", 80), Fake { good: false, ..lane(1) });
        pool.put(key("cart", 80), lane(2));
        pool.put(key("web", 80), Fake { good: false, ..lane(3) });
        pool.sweep();
        assert_eq!((pool.len(), pool.lock().lanes.len()), (1, 1));
        pool.close();
        pool.put(key("web", 80), lane(3));
        assert_eq!(pool.len(), 0);
    }
}
