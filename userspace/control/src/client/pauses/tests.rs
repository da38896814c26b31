//! That many who lost the same controller do not come back as one.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::time::{Instant, sleep};

use super::*;

#[test]
fn ceilings_double_up_to_the_longest_and_a_good_connection_ends_them() {
    let mut pauses = Pauses::default();
    let seconds: Vec<_> = (0..6).map(|_| pauses.next(Duration::ZERO, 1.0).as_secs()).collect();
    assert_eq!(seconds, [4, 8, 16, 32, 60, 60]);
    assert_eq!(pauses.next(Duration::from_secs(59), 1.0).as_secs(), 60, "it did not last");
    assert_eq!(pauses.next(Duration::from_secs(61), 1.0).as_secs(), 4);
}

#[test]
fn nobody_comes_back_at_once() {
    assert_eq!(Pauses::default().next(Duration::ZERO, 0.0), FIRST_PAUSE / 10);
    assert!(Pauses::default().next(Duration::MAX, -1.0) > Duration::ZERO);
}

/// Counts attempts in each second of an outage that begins for all agents at the same instant.
#[tokio::test(start_paused = true)]
async fn ten_thousand_agents_do_not_stampede() {
    const AGENTS: usize = 10_000;
    const OUTAGE: u64 = 600;
    let start = Instant::now();
    let attempts = Arc::new(Mutex::new(BTreeMap::<u64, u32>::new()));
    let up = Arc::new(AtomicBool::new(false));
    let agents: Vec<_> = (0..AGENTS)
        .map(|_| {
            let (attempts, up) = (attempts.clone(), up.clone());
            tokio::spawn(async move {
                let mut pauses = Pauses::default();
                loop {
                    sleep(pauses.next(Duration::ZERO, rand::random())).await;
                    let second = start.elapsed().as_secs();
                    *attempts.lock().unwrap().entry(second).or_default() += 1;
                    if up.load(Ordering::Relaxed) {
                        return;
                    }
                }
            })
        })
        .collect();
    sleep(Duration::from_secs(OUTAGE)).await;
    up.store(true, Ordering::Relaxed);
    for agent in agents {
        agent.await.unwrap();
    }
    let attempts = attempts.lock().unwrap();
    let at = |from: u64, to: u64| attempts.range(from..to).map(|(_, count)| *count).max().unwrap();
    let back = attempts.keys().max().unwrap() - OUTAGE;
    let (first, late, end) = (at(0, 10), at(OUTAGE - 60, OUTAGE), at(OUTAGE, u64::MAX));
    println!(
        "evidence 10,000 agents: most attempts in one second: {first} when the controller goes, \
         {late} after ten minutes, {end} when it is back; all are back after {back} s"
    );
    assert!(first < 4_500, "{first}");
    assert!(late < 500 && end < 500, "{late} {end}");
    assert!(back <= LONGEST_PAUSE.as_secs(), "{back}");
}
