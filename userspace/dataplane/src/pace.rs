//! Turns: who has much to do does it step by step, in a circle with all others.
//!
//! A flood would fill the queue of the threads that do the work, in the order in which bytes arrive,
//! and everybody else would wait behind all of it. So no more steps are with the threads than they
//! do at a time; the others wait here, by who they are for, and each of those has one turn in each
//! round.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    hash::Hash,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use futures_util::task::AtomicWaker;

/// Lets no more steps happen at a time than it was made for.
#[derive(Debug)]
pub struct Gate<K> {
    at_once: usize,
    state: Mutex<State<K>>,
}

#[derive(Debug)]
struct State<K> {
    running: usize,
    waiting: HashMap<K, VecDeque<Arc<Ticket>>>,
    /// Whoever has somebody waiting, in the order of their turns.
    circle: VecDeque<K>,
}

#[derive(Debug, Default)]
struct Ticket {
    is_granted: AtomicBool,
    is_given_up: AtomicBool,
    waker: AtomicWaker,
}

impl<K> Gate<K> {
    fn lock(&self) -> MutexGuard<'_, State<K>> {
        // Nothing below can panic between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash + Clone> Gate<K> {
    pub fn new(at_once: usize) -> Self {
        let (waiting, circle) = (HashMap::new(), VecDeque::new());
        let state = State { running: 0, waiting, circle };
        Self { at_once: at_once.max(1), state: Mutex::new(state) }
    }

    /// `None` if the turn is now.
    fn enter(&self, party: &K) -> Option<Arc<Ticket>> {
        let mut state = self.lock();
        if state.running < self.at_once {
            state.running += 1;
            return None;
        }
        let ticket = Arc::new(Ticket::default());
        match state.waiting.get_mut(party) {
            Some(queue) => queue.push_back(ticket.clone()),
            None => {
                state.waiting.insert(party.clone(), VecDeque::from([ticket.clone()]));
                state.circle.push_back(party.clone());
            }
        }
        Some(ticket)
    }

    /// Hands the turn on.
    fn leave(&self) {
        let mut state = self.lock();
        state.running -= 1;
        let next = state.next();
        if let Some(ticket) = next {
            state.running += 1;
            ticket.is_granted.store(true, Ordering::Release);
            drop(state);
            ticket.waker.wake();
        }
    }
}

impl<K: Eq + Hash + Clone> State<K> {
    fn next(&mut self) -> Option<Arc<Ticket>> {
        while let Some(party) = self.circle.pop_front() {
            let Some(queue) = self.waiting.get_mut(&party) else { continue };
            let found =
                std::iter::from_fn(|| queue.pop_front()).find(|ticket| !ticket.is_given_up());
            match queue.is_empty() {
                true => drop(self.waiting.remove(&party)),
                false => self.circle.push_back(party),
            }
            if found.is_some() {
                return found;
            }
        }
        None
    }
}

impl Ticket {
    fn is_given_up(&self) -> bool {
        self.is_given_up.load(Ordering::Acquire)
    }
}

/// One who takes turns.
#[derive(Debug)]
pub struct Line<K: Eq + Hash + Clone> {
    gate: Arc<Gate<K>>,
    party: K,
    ticket: Option<Arc<Ticket>>,
}

/// Hands the turn on when it is dropped.
pub struct Turn<'a, K: Eq + Hash + Clone>(&'a Gate<K>);

impl<K: Eq + Hash + Clone> Drop for Turn<'_, K> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl<K: Eq + Hash + Clone> Line<K> {
    pub fn new(gate: Arc<Gate<K>>, party: K) -> Self {
        Self { gate, party, ticket: None }
    }

    pub fn is_waiting(&self) -> bool {
        self.ticket.is_some()
    }

    pub fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<Turn<'_, K>> {
        if self.ticket.is_none() {
            self.ticket = self.gate.enter(&self.party);
        }
        if let Some(ticket) = &self.ticket {
            // Registered before looking, so that nothing is missed in between.
            ticket.waker.register(context.waker());
            if !ticket.is_granted.load(Ordering::Acquire) {
                return Poll::Pending;
            }
        }
        self.ticket = None;
        Poll::Ready(Turn(&self.gate))
    }
}

impl<K: Eq + Hash + Clone> Drop for Line<K> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else { return };
        // Whether it was granted is only certain while nobody can grant it.
        let state = self.gate.lock();
        let is_granted = ticket.is_granted.load(Ordering::Acquire);
        ticket.is_given_up.store(true, Ordering::Release);
        drop(state);
        if is_granted {
            self.gate.leave();
        }
    }
}

/// A future whose every step takes a turn.
#[derive(Debug)]
pub struct Paced<K: Eq + Hash + Clone, F> {
    line: Line<K>,
    inner: Pin<Box<F>>,
}

impl<K: Eq + Hash + Clone, F> Paced<K, F> {
    pub fn new(gate: Arc<Gate<K>>, party: K, inner: F) -> Self {
        Self { line: Line::new(gate, party), inner: Box::pin(inner) }
    }
}

impl<K: Eq + Hash + Clone + Unpin, F: Future> Future for Paced<K, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Self { line, inner } = &mut *self;
        let _turn = ready!(line.poll_turn(context));
        inner.as_mut().poll(context)
    }
}

/// So many in a second, and as many at once after a second without any.
#[derive(Debug)]
pub struct Rate {
    every: Duration,
    burst: Duration,
    /// When the next one is due, if all that were let through had kept their distance.
    due: Mutex<Option<Instant>>,
}

impl Rate {
    pub fn per_second(count: u32) -> Self {
        let second = Duration::from_secs(1);
        Self { every: second / count, burst: second, due: Mutex::new(None) }
    }

    /// How long to wait; `None` if that is longer than `patience`, and then it does not count.
    pub fn next(&self, now: Instant, patience: Duration) -> Option<Duration> {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let at = due.map_or(now, |due| due.max(now));
        let wait = at.saturating_duration_since(now).saturating_sub(self.burst);
        if wait > patience {
            return None;
        }
        *due = Some(at + self.every);
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Says its name at each of its two steps.
    fn steps<'a>(
        gate: &Arc<Gate<&'static str>>,
        name: &'static str,
        said: &'a Mutex<Vec<&'static str>>,
    ) -> Paced<&'static str, impl Future<Output = ()> + 'a> {
        let mut left = 2;
        let inner = std::future::poll_fn(move |context| {
            said.lock().unwrap().push(name);
            left -= 1;
            context.waker().wake_by_ref();
            if left == 0 { Poll::Ready(()) } else { Poll::Pending }
        });
        Paced::new(gate.clone(), name, inner)
    }

    fn poll<F: Future>(future: &mut Paced<&'static str, F>) -> bool {
        Pin::new(future).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn a_crowd_of_one_party_has_as_many_turns_as_one_of_another() {
        let (gate, said) = (Arc::new(Gate::new(1)), Mutex::default());
        // Somebody is at it, so that all have to wait.
        assert!(gate.enter(&"other").is_none());
        let mut crowd: Vec<_> = (0..10).map(|_| steps(&gate, "bad", &said)).collect();
        crowd.iter_mut().for_each(|one| assert!(!poll(one)));
        let mut good = steps(&gate, "good", &said);
        assert!(!poll(&mut good));
        gate.leave();
        for _ in 0..2 {
            for one in &mut crowd {
                poll(one);
            }
            poll(&mut good);
        }
        let said = said.lock().unwrap();
        let before: Vec<_> = said.iter().take_while(|name| **name == "bad").collect();
        assert_eq!(before.len(), 1, "{said:?}");
    }

    #[test]
    fn who_gives_up_costs_nobody_a_turn() {
        let (gate, said) = (Arc::new(Gate::new(1)), Mutex::default());
        assert!(gate.enter(&"other").is_none());
        let mut gone = steps(&gate, "gone", &said);
        let mut granted = steps(&gate, "granted", &said);
        let mut last = steps(&gate, "last", &said);
        for one in [&mut gone, &mut granted, &mut last] {
            assert!(!poll(one));
        }
        drop(gone);
        gate.leave();
        drop(granted);
        assert!(!poll(&mut last));
        assert!(poll(&mut last));
        let state = gate.lock();
        assert_eq!((state.running, state.circle.len(), state.waiting.len()), (0, 0, 0));
    }

    #[test]
    fn a_rate_lets_a_burst_through_and_then_keeps_its_distance() {
        let (rate, now, patience) = (Rate::per_second(10), Instant::now(), Duration::from_secs(1));
        let waits: Vec<_> = (0..30).map(|_| rate.next(now, patience)).collect();
        assert!(waits[..10].iter().all(|wait| *wait == Some(Duration::ZERO)));
        assert_eq!(waits[12], Some(Duration::from_millis(200)));
        assert_eq!(waits[29], None, "over what anybody waits for");
        let later = now + Duration::from_secs(4);
        assert_eq!(rate.next(later, patience), Some(Duration::ZERO));
    }
}
