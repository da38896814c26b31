//! Which endpoint of a service each caller stays with.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use martlet_model::WorkloadName;
use tokio::time::Instant;

use crate::{limits::AFFINITIES, resolve::Stay};

/// An endpoint that a caller of a service stays with, for another process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staying {
    pub caller: WorkloadName,
    pub service: SocketAddr,
    pub endpoint: SocketAddr,
    /// Unless the caller uses it again before.
    pub lasts: Duration,
}

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

    /// All that has not ended.
    pub fn all(&self, now: Instant) -> Vec<Staying> {
        let stays = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |((caller, service), (endpoint, until)): (&Key, &(SocketAddr, Instant))| {
            let lasts = until.saturating_duration_since(now);
            let (caller, service, endpoint) = (caller.clone(), *service, *endpoint);
            (!lasts.is_zero()).then_some(Staying { caller, service, endpoint, lasts })
        };
        stays.iter().filter_map(of).collect()
    }
}

#[cfg(test)]
mod tests {
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
    fn another_process_keeps_a_caller_where_it_is_for_as_long_as_this_one_would() {
        let (affinity, now) = (Affinity::default(), Instant::now());
        let (service, endpoint) = ("10.9.0.1:80".parse().unwrap(), "10.0.0.2:1".parse().unwrap());
        let stay = |seconds| Stay { service, lasts: Duration::from_secs(seconds) };
        affinity.uses(&caller(1), stay(60), endpoint, now);
        affinity.uses(&caller(2), stay(5), endpoint, now);
        let later = now + Duration::from_secs(10);
        let (all, other) = (affinity.all(later), Affinity::default());
        assert_eq!(all.len(), 1, "what has ended is not told");
        for Staying { caller, service, endpoint, lasts } in all {
            other.uses(&caller, Stay { service, lasts }, endpoint, later);
        }
        let end = now + Duration::from_secs(60);
        let before = end.checked_sub(Duration::from_secs(1)).unwrap();
        assert_eq!(other.used(&caller(1), service, before), Some(endpoint));
        assert_eq!(other.used(&caller(1), service, end), None);
        assert_eq!(other.used(&caller(2), service, later), None, "nobody knows: chosen anew");
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
