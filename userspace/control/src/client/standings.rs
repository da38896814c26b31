//! How it stands with this node's workloads, said over one connection.

use std::{collections::BTreeMap, future::pending};

use martlet_model::WorkloadName;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::{Standing, limits, message::standings_to, proto};

/// What is to be said still.
pub struct Saying {
    now: watch::Receiver<BTreeMap<WorkloadName, Standing>>,
    said: BTreeMap<WorkloadName, Standing>,
    not_before: Instant,
    is_wanted: bool,
    /// Whether what was said is all that there was to say then.
    is_complete: bool,
}

impl Saying {
    pub fn new(now: watch::Receiver<BTreeMap<WorkloadName, Standing>>) -> Self {
        let (said, not_before) = (BTreeMap::new(), Instant::now());
        Self { now, said, not_before, is_wanted: false, is_complete: false }
    }

    /// Controllers that do not want it would not understand it.
    pub fn is_wanted(&mut self, is_wanted: bool) {
        self.is_wanted |= is_wanted;
    }

    /// Waits until there is something to say. Whoever stops waiting has heard nothing.
    pub async fn next(&mut self) -> proto::Standings {
        if !self.is_wanted {
            return pending().await;
        }
        loop {
            sleep_until(self.not_before).await;
            let news = standings_to(&mut self.said, &self.now.borrow_and_update());
            let is_first = !self.is_complete;
            self.is_complete = news.complete;
            if is_first || !news.standings.is_empty() || !news.gone.is_empty() {
                self.not_before = Instant::now() + limits::STANDINGS_PAUSE;
                return news;
            }
            if self.now.changed().await.is_err() {
                return pending().await;
            }
        }
    }
}
