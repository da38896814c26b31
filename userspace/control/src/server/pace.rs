//! How often somebody may do something: so many at once, and so many a second from then on.

use std::sync::{Mutex, PoisonError};

use tokio::time::{Duration, Instant, sleep};

#[derive(Debug)]
pub struct Pace {
    burst: f64,
    per_second: f64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Below zero: somebody waits.
    left: f64,
    at: Instant,
}

impl Pace {
    pub fn new(burst: u32, per_second: u32) -> Self {
        let (burst, per_second) = (f64::from(burst), f64::from(per_second));
        Self { burst, per_second, state: Mutex::new(State { left: burst, at: Instant::now() }) }
    }

    /// Now, or not.
    pub fn try_take(&self) -> bool {
        let mut state = self.refreshed();
        let is_left = state.left >= 1.0;
        if is_left {
            state.left -= 1.0;
        }
        is_left
    }

    /// Waits its turn; whoever takes more than there is makes the next one wait.
    pub async fn take(&self, count: usize) {
        let debt = {
            let mut state = self.refreshed();
            state.left -= count as f64;
            -state.left
        };
        if debt > 0.0 {
            sleep(Duration::from_secs_f64(debt / self.per_second)).await;
        }
    }

    fn refreshed(&self) -> std::sync::MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let earned = now.duration_since(state.at).as_secs_f64() * self.per_second;
        (state.left, state.at) = ((state.left + earned).min(self.burst), now);
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_and_then_so_many_a_second() {
        let pace = Pace::new(10, 2);
        let start = Instant::now();
        pace.take(10).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert!(!pace.try_take());
        pace.take(4).await;
        assert_eq!(start.elapsed().as_secs(), 2);
        sleep(Duration::from_millis(600)).await;
        assert!(pace.try_take() && !pace.try_take());
        sleep(Duration::from_secs(3600)).await;
        assert_eq!((0..100).filter(|_| pace.try_take()).count(), 10, "no more than a burst");
    }
}
