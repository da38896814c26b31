//! Idle lanes, kept for the next connection of the same caller to the same place.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Instant, SystemTime},
};

use martlet_model::{SpiffeId, WorkloadName};

use crate::{
    lane::Lane,
    limits::{IDLE_LANE, IDLE_LANES, IDLE_LANES_PER_PAIR},
};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    pub caller: WorkloadName,
    pub destination: SocketAddr,
    pub identity: SpiffeId,
}

/// Last in, first out: a pair that needs few lanes lets the others grow old.
#[derive(Default)]
pub struct Pool {
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    lanes: HashMap<Key, Vec<(Instant, Lane)>>,
    count: usize,
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Idle> {
        // Every change below is complete before anything that could panic.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lane that is still good; those that are not are closed.
    pub fn take(&self, key: &Key, generation: u64) -> Option<Lane> {
        loop {
            let (since, mut lane) = {
                let mut idle = self.lock();
                let lane = idle.lanes.get_mut(key)?.pop();
                match lane {
                    Some(lane) => {
                        idle.count -= 1;
                        lane
                    }
                    None => {
                        idle.lanes.remove(key);
                        return None;
                    }
                }
            };
            if since.elapsed() < IDLE_LANE && lane.is_usable(generation, SystemTime::now()) {
                return Some(lane);
            }
        }
    }

    /// Keeps a lane, or closes it if there are enough.
    pub fn put(&self, key: Key, lane: Lane) {
        let now = Instant::now();
        let mut idle = self.lock();
        if idle.count >= IDLE_LANES {
            return;
        }
        let lanes = idle.lanes.entry(key).or_default();
        // The oldest stand first.
        let old = lanes.iter().take_while(|(since, _)| now - *since >= IDLE_LANE).count();
        lanes.drain(..old);
        let mut change = -(old as isize);
        if lanes.len() < IDLE_LANES_PER_PAIR {
            lanes.push((now, lane));
            change += 1;
        }
        idle.count = idle.count.saturating_add_signed(change);
    }

    /// Closes what nobody has used for long. Called now and then.
    pub fn sweep(&self) {
        let now = Instant::now();
        let mut idle = self.lock();
        for lanes in idle.lanes.values_mut() {
            lanes.retain(|(since, _)| now - *since < IDLE_LANE);
        }
        idle.lanes.retain(|_, lanes| !lanes.is_empty());
        idle.count = idle.lanes.values().map(Vec::len).sum();
    }

    pub fn len(&self) -> usize {
        self.lock().count
    }
}
