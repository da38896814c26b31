//! Pods that have just arrived on this node, said over one connection.

use std::{collections::BTreeMap, future::pending};

use martlet_model::WorkloadName;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::{Arrival, limits, message::arrivals_to, proto};

/// What is to be said still.
pub struct Arriving {
    now: watch::Receiver<BTreeMap<WorkloadName, Arrival>>,
    said: BTreeMap<WorkloadName, Arrival>,
    not_before: Instant,
    is_wanted: bool,
}

impl Arriving {
    pub fn new(now: watch::Receiver<BTreeMap<WorkloadName, Arrival>>) -> Self {
        Self { now, said: BTreeMap::new(), not_before: Instant::now(), is_wanted: false }
    }

    /// Controllers that do not want it would not understand it.
    pub fn is_wanted(&mut self, is_wanted: bool) {
        self.is_wanted |= is_wanted;
    }

    /// Waits until there is something to say. Whoever stops waiting has heard nothing.
    pub async fn next(&mut self) -> proto::Arrivals {
        if !self.is_wanted {
            return pending().await;
        }
        loop {
            sleep_until(self.not_before).await;
            let news = arrivals_to(&mut self.said, &self.now.borrow_and_update());
            if !news.arrivals.is_empty() {
                self.not_before = Instant::now() + limits::ARRIVALS_PAUSE;
                return news;
            }
            if self.now.changed().await.is_err() {
                return pending().await;
            }
        }
    }
}
