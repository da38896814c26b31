//! Where lanes stand that callers have dialed: each has the application's address and port, and
//! keeps an application that did not ask for SO_REUSEADDR from listening there again.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

/// As many entries as there are addresses and ports at which lanes stand.
#[derive(Default)]
pub struct Standing {
    places: Mutex<HashMap<SocketAddr, Place>>,
}

struct Place {
    lanes: usize,
    deserted: CancellationToken,
}

/// That a lane stands somewhere, while this lives.
pub struct Stand {
    standing: Arc<Standing>,
    at: SocketAddr,
    /// Cancelled when nobody listens there any more.
    pub deserted: CancellationToken,
}

impl Standing {
    pub fn stand(self: &Arc<Self>, at: SocketAddr) -> Stand {
        let mut places = self.lock();
        let new = || Place { lanes: 0, deserted: CancellationToken::new() };
        let place = places.entry(at).or_insert_with(new);
        place.lanes += 1;
        Stand { standing: self.clone(), at, deserted: place.deserted.clone() }
    }

    /// Where lanes stand at a port.
    pub fn at(&self, port: u16) -> Vec<SocketAddr> {
        self.lock().keys().filter(|at| at.port() == port).copied().collect()
    }

    /// For the lanes that stand there now; those that come later belong to who listens then.
    pub fn desert(&self, at: SocketAddr) {
        let mut places = self.lock();
        // Under the lock: whoever leaves a place that is not deserted finds it in the map.
        if let Some(place) = places.remove(&at) {
            place.deserted.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Place>> {
        // Every change is complete before anything that could panic.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        let mut places = self.standing.lock();
        if self.deserted.is_cancelled() {
            return;
        }
        if let Some(place) = places.get_mut(&self.at) {
            place.lanes -= 1;
            if place.lanes == 0 {
                places.remove(&self.at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deserted_port_is_left_by_who_stands_there_and_by_nobody_else() {
        let standing = Arc::new(Standing::default());
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (here, other) = (at("10.0.0.1:80"), at("10.0.0.1:81"));
        let lanes = [standing.stand(here), standing.stand(here), standing.stand(other)];
        assert_eq!(standing.at(80), [here]);
        standing.desert(here);
        assert_eq!(lanes.each_ref().map(|lane| lane.deserted.is_cancelled()), [true, true, false]);
        let later = standing.stand(here);
        drop(lanes);
        assert!(!later.deserted.is_cancelled());
        assert_eq!((standing.at(80), standing.at(81)), (vec![here], vec![]));
        drop(later);
        assert!(standing.lock().is_empty());
    }
}
