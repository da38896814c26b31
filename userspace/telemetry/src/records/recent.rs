//! The last records, and those to come, for whoever asks on the admin socket.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
};

use martlet_model::report::TimedRecord;
use tokio::sync::broadcast;

use crate::limits;

/// A ring of records. Clones share it.
#[derive(Clone)]
pub struct Recent(Arc<Shared>);

struct Shared {
    kept: Mutex<VecDeque<Arc<TimedRecord>>>,
    live: broadcast::Sender<Arc<TimedRecord>>,
}

impl Default for Recent {
    fn default() -> Self {
        let kept = Mutex::new(VecDeque::with_capacity(limits::RECENT_RECORDS));
        let (live, _) = broadcast::channel(limits::RECENT_RECORDS);
        Self(Arc::new(Shared { kept, live }))
    }
}

impl Recent {
    pub(crate) fn push(&self, record: TimedRecord) {
        let record = Arc::new(record);
        let mut kept = self.kept();
        if kept.len() == limits::RECENT_RECORDS {
            kept.pop_front();
        }
        kept.push_back(record.clone());
        // Sent while the ring is locked, so that a follower sees each record exactly once.
        // Nobody may be following.
        let _ = self.0.live.send(record);
    }

    /// The kept records, oldest first.
    pub fn all(&self) -> Vec<Arc<TimedRecord>> {
        self.kept().iter().cloned().collect()
    }

    /// The kept records, and those that come after them.
    pub(crate) fn follow(&self) -> (Vec<Arc<TimedRecord>>, broadcast::Receiver<Arc<TimedRecord>>) {
        let kept = self.kept();
        (kept.iter().cloned().collect(), self.0.live.subscribe())
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Arc<TimedRecord>>> {
        // A poisoned lock protects nothing that could be half-written.
        self.0.kept.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
