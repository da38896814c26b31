//! Holding a lease against a server that fails, by paused time.

use std::{
    sync::{Mutex, atomic::AtomicBool, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::time::timeout;

use super::*;

/// One lease for all who have a clone of it.
#[derive(Clone, Default)]
struct Shelf(Arc<Inner>);

#[derive(Default)]
struct Inner {
    record: Mutex<Option<Record>>,
    is_away: AtomicBool,
    hangs: AtomicBool,
}

impl Shelf {
    async fn reach(&self) -> Result<(), String> {
        if self.0.hangs.load(Relaxed) {
            sleep(limits::LEASE_QUESTION).await;
            return Err("no answer in time".to_owned());
        }
        match self.0.is_away.load(Relaxed) {
            true => Err("the server is away".to_owned()),
            false => Ok(()),
        }
    }

    fn candidate(&self, name: &str) -> Candidate<Self> {
        Candidate::new(self.clone(), name.to_owned())
    }
}

impl Register for Shelf {
    async fn read(&self) -> Result<Option<Record>, String> {
        self.reach().await?;
        Ok(self.0.record.lock().unwrap().clone())
    }

    async fn write(&self, holder: &str, over: Option<&Record>) -> Result<(), String> {
        self.reach().await?;
        let mut record = self.0.record.lock().unwrap();
        if record.as_ref() != over {
            return Err("somebody else has changed it".to_owned());
        }
        let version = over.map_or(0, |over| over.version.parse().unwrap());
        let version = u64::to_string(&(version + 1));
        *record = Some(Record { holder: holder.to_owned(), version, transitions: 0 });
        Ok(())
    }
}

/// How long it takes.
async fn taken(candidate: &mut Candidate<Shelf>) -> Duration {
    let began = Instant::now();
    candidate.acquire().await;
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn who_comes_first_holds_it_and_the_other_waits_for_ever() {
    let shelf = Shelf::default();
    let (mut a, mut b) = (shelf.candidate("a"), shelf.candidate("b"));
    assert_eq!(taken(&mut a).await, Duration::ZERO);
    let keeping = async {
        a.keep().await;
        panic!("it was lost");
    };
    let waiting = timeout(Duration::from_secs(3600), b.acquire());
    tokio::select! {
        () = keeping => {}
        waited = waiting => assert!(waited.is_err(), "two hold it"),
    }
    assert_eq!(*b.holder().borrow(), "a");
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_dies_is_followed_when_the_lease_ends() {
    let shelf = Shelf::default();
    let (mut a, mut b) = (shelf.candidate("a"), shelf.candidate("b"));
    a.acquire().await;
    b.step().await;
    let holding = a.holding();
    let waited = taken(&mut b).await;
    assert!(!holding.is_held());
    assert!(
        waited >= limits::LEASE && waited <= limits::LEASE + Duration::from_secs(2),
        "{waited:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_leaves_is_followed_at_once() {
    let shelf = Shelf::default();
    let (mut a, mut b) = (shelf.candidate("a"), shelf.candidate("b"));
    a.acquire().await;
    b.step().await;
    let holding = a.holding();
    a.release().await;
    assert!(!holding.is_held());
    assert!(taken(&mut b).await <= limits::LEASE_RETRY);
}

#[tokio::test(start_paused = true)]
async fn a_short_failure_of_the_server_is_survived_and_a_long_one_is_not() {
    let shelf = Shelf::default();
    let mut a = shelf.candidate("a");
    a.acquire().await;
    let holding = a.holding();
    shelf.0.is_away.store(true, Relaxed);
    assert!(timeout(Duration::from_secs(8), a.keep()).await.is_err());
    shelf.0.is_away.store(false, Relaxed);
    assert!(timeout(Duration::from_secs(60), a.keep()).await.is_err());
    assert!(holding.is_held());
    for (fails, name) in [(&shelf.0.is_away, "away"), (&shelf.0.hangs, "hangs")] {
        a.acquire().await;
        fails.store(true, Relaxed);
        let began = Instant::now();
        a.keep().await;
        assert!(!holding.is_held(), "{name}");
        assert!(began.elapsed() <= limits::LEASE_RENEWED_WITHIN, "{name}");
        fails.store(false, Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn who_was_replaced_hears_of_it() {
    let shelf = Shelf::default();
    let mut a = shelf.candidate("a");
    a.acquire().await;
    let record = Record { holder: "b".to_owned(), version: "9".to_owned(), transitions: 1 };
    *shelf.0.record.lock().unwrap() = Some(record.clone());
    timeout(Duration::from_secs(3), a.keep()).await.expect("it is noticed");
    // And takes nothing from whoever has it now.
    a.release().await;
    assert_eq!(*shelf.0.record.lock().unwrap(), Some(record));
}
