//! Which endpoint of a service each caller stays with.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
};

use martlet_model::WorkloadName;
use tokio::time::Instant;

use crate::{limits::AFFINITIES, resolve::Stay};

/// A caller and the address and port of a service.
type Key = (WorkloadName, SocketAddr);

#[derive(Debug, Default)]
pub struct Affinity(Mutex<HashMap<Key, (SocketAddr, Instant)>>);

impl Affinity {
    /// The endpoint that the caller has used, unless that was too long ago.
    pub fn used(
        &self,
        caller: &WorkloadName,
        service: SocketAddr,
        now: Instant,
    ) -> Option<SocketAddr> {
        let stays = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (endpoint, until) = stays.get(&(caller.clone(), service))?;
        (now < *until).then_some(*endpoint)
    }

    pub fn uses(&self, caller: &WorkloadName, stay: Stay, endpoint: SocketAddr, now: Instant) {
        let mut stays = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (caller.clone(), stay.service);
        if stays.len() >= AFFINITIES && !stays.contains_key(&key) {
            stays.retain(|_, (_, until)| now < *until);
            // What is more goes where its hash leads: to the same endpoint, too, while none comes.
            if stays.len() >= AFFINITIES {
                return;
            }
        }
        stays.insert(key, (endpoint, now + stay.lasts));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn caller(number: usize) -> WorkloadName {
        let (namespace, name) = ("shop".parse().unwrap(), format!("x{number}").parse().unwrap());
        WorkloadName { namespace, name }
    }

    #[test]
    fn an_endpoint_is_kept_until_it_was_not_used_for_long_enough() {
        let (affinity, now) = (Affinity::default(), Instant::now());
        let (service, endpoint) = ("10.9.0.1:80".parse().unwrap(), "10.0.0.2:1".parse().unwrap());
        let stay = Stay { service, lasts: Duration::from_secs(60) };
        affinity.uses(&caller(1), stay, endpoint, now);
        let later = now + Duration::from_secs(59);
        assert_eq!(affinity.used(&caller(1), service, later), Some(endpoint));
        assert_eq!(affinity.used(&caller(2), service, later), None);
        affinity.uses(&caller(1), stay, endpoint, later);
        assert_eq!(affinity.used(&caller(1), service, now + stay.lasts), Some(endpoint));
        assert_eq!(affinity.used(&caller(1), service, later + stay.lasts), None);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_has_ended_makes_room() {
        let (affinity, now) = (Affinity::default(), Instant::now());
        let (service, endpoint) = ("10.9.0.1:80".parse().unwrap(), "10.0.0.2:1".parse().unwrap());
        let stay = Stay { service, lasts: Duration::from_secs(60) };
        (0..=AFFINITIES).for_each(|number| affinity.uses(&caller(number), stay, endpoint, now));
        assert_eq!(affinity.used(&caller(AFFINITIES), service, now), None);
        let later = now + stay.lasts;
        affinity.uses(&caller(AFFINITIES), stay, endpoint, later);
        assert_eq!(affinity.used(&caller(AFFINITIES), service, later), Some(endpoint));
    }
}
