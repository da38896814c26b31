//! What many threads have done so far, said again and again until all have ended.

use std::{
    collections::BTreeMap,
    io::{self, Read as _},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, Scope, ScopedJoinHandle},
    time::Duration,
};

use serde_json::json;

use crate::facts;

const SAID_EVERY: Duration = Duration::from_millis(100);

#[derive(Default)]
pub struct Tally {
    /// What lasts, and has begun.
    pub opened: AtomicU64,
    pub done: AtomicU64,
    /// What lasts, and has ended as it should.
    pub finished: AtomicU64,
    slowest_us: AtomicU64,
    is_over: AtomicBool,
    errors: Mutex<BTreeMap<String, u64>>,
}

impl Tally {
    pub fn add(counter: &AtomicU64) -> u64 {
        counter.fetch_add(1, Ordering::Relaxed)
    }

    pub fn took(&self, duration: Duration) {
        self.slowest_us.fetch_max(facts::micros(duration), Ordering::Relaxed);
    }

    pub fn failed(&self, error: &io::Error) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        *errors.entry(facts::name(error)).or_default() += 1;
    }

    /// Whether the input has ended.
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Ends the program when all threads have ended.
    pub fn say_until_ended<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        threads: &[ScopedJoinHandle<'scope, ()>],
    ) -> ! {
        scope.spawn(|| {
            let _ = io::stdin().read_to_end(&mut Vec::new());
            self.is_over.store(true, Ordering::Relaxed);
        });
        while !threads.iter().all(ScopedJoinHandle::is_finished) {
            thread::sleep(SAID_EVERY);
            self.print();
        }
        self.print();
        std::process::exit(0);
    }

    fn print(&self) {
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        crate::print(&json!({
            "at": facts::wall_clock(),
            "opened": count(&self.opened),
            "done": count(&self.done),
            "finished": count(&self.finished),
            "slowest_us": count(&self.slowest_us),
            "errors": *errors,
        }));
    }
}
