//! Whose work may wait for whose: a workload that keeps the threads busy while others have work too
//! does it in turns, one step after the other. Whoever does little never waits for a turn.
//!
//! What a workload's steps take is measured by samples, and compared ten times a second. Only who is
//! over the average then pays for more than that.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use crate::{
    Dataplane,
    limits::{BUSY_TIME, COMPARISON_INTERVAL, STEPS_PER_SAMPLE},
    pace::{Gate, Line},
    share::Account,
};

/// The agent's accounts, by which work is compared.
pub struct Fairness {
    gate: Arc<Gate<usize>>,
    accounts: Mutex<Vec<Weak<Account>>>,
}

impl Fairness {
    /// One thread is left to those who do little.
    pub fn new(threads: usize) -> Self {
        let gate = Arc::new(Gate::new(threads.saturating_sub(1)));
        Self { gate, accounts: Mutex::default() }
    }

    /// The account takes part in the comparison as long as it lives.
    pub fn know(&self, account: &Arc<Account>) {
        if account.become_known() {
            let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
            accounts.push(Arc::downgrade(account));
        }
    }

    /// A connection of the account's.
    pub fn steps(&self, account: Arc<Account>) -> Steps {
        let party = Arc::as_ptr(&account).addr();
        // Connections begin at different points of the sample, since many are short.
        let count = account.held() as u32;
        Steps { line: Line::new(self.gate.clone(), party), account, count }
    }

    fn compare(&self) {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.retain(|account| account.strong_count() > 0);
        let spent: Vec<_> = accounts
            .iter()
            .filter_map(Weak::upgrade)
            .map(|account| (account.take_spent(), account))
            .collect();
        drop(accounts);
        let times: Vec<_> = spent.iter().map(|(time, _)| *time).collect();
        for (time, account) in spent {
            account.set_busy(is_busy(time, &times));
        }
    }
}

/// Whether somebody who has spent so much is to do his work in turns.
fn is_busy(spent: Duration, all: &[Duration]) -> bool {
    let at_work = all.iter().filter(|time| !time.is_zero()).count() as u32;
    let average = all.iter().sum::<Duration>() / at_work.max(1);
    at_work > 1 && spent > BUSY_TIME && spent > average
}

/// Compares until the data plane is gone.
pub async fn run(dataplane: Weak<Dataplane>) {
    let mut ticks = tokio::time::interval(COMPARISON_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(dataplane) = dataplane.upgrade() else { return };
        dataplane.fairness.compare();
    }
}

/// The steps of one connection.
pub struct Steps {
    line: Line<usize>,
    account: Arc<Account>,
    count: u32,
}

impl Steps {
    /// Does all of the work.
    pub async fn of<T>(mut self, mut work: Pin<&mut impl Future<Output = T>>) -> T {
        std::future::poll_fn(|context| self.poll(context, work.as_mut())).await
    }

    fn poll<T>(
        &mut self,
        context: &mut Context<'_>,
        work: Pin<&mut impl Future<Output = T>>,
    ) -> Poll<T> {
        let _turn = match self.account.is_busy() || self.line.is_waiting() {
            true => Some(ready!(self.line.poll_turn(context))),
            false => None,
        };
        self.count = self.count.wrapping_add(1);
        if !self.count.is_multiple_of(STEPS_PER_SAMPLE) {
            return work.poll(context);
        }
        let begun = Instant::now();
        let polled = work.poll(context);
        self.account.spend(begun.elapsed() * STEPS_PER_SAMPLE);
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_does_more_than_the_average_beside_others_takes_turns() {
        let ms = Duration::from_millis;
        assert!(!is_busy(ms(100), &[ms(100), ms(0)]), "alone");
        assert!(is_busy(ms(100), &[ms(100), ms(1)]));
        assert!(!is_busy(ms(1), &[ms(100), ms(1)]));
        assert!(!is_busy(ms(2), &[ms(2), ms(1)]), "there is time for both");
        assert!([90, 80].map(ms).iter().all(|busy| is_busy(*busy, &[ms(90), ms(80), ms(1)])));
    }
}
