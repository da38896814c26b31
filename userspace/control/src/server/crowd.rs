//! How many of something one address may have at once, so that a flood from one keeps no other out.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

#[derive(Debug)]
pub struct Crowd {
    most: usize,
    /// Only of those that have any.
    places: Mutex<HashMap<IpAddr, usize>>,
}

/// Free again when it is dropped.
#[derive(Debug)]
pub struct Place {
    crowd: Arc<Crowd>,
    of: IpAddr,
}

impl Crowd {
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, places: Mutex::default() })
    }

    /// `None`: the address has as many as it may have.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let of = source(address);
        let mut places = self.places();
        let taken = places.get(&of).copied().unwrap_or_default();
        if taken >= self.most {
            return None;
        }
        places.insert(of, taken + 1);
        Some(Place { crowd: self.clone(), of })
    }

    fn places(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.crowd.places();
        match places.get_mut(&self.of) {
            Some(taken) if *taken > 1 => *taken -= 1,
            _ => drop(places.remove(&self.of)),
        }
    }
}

/// Who has an IPv6 address mostly has all of its /64 (RFC 4291, section 2.5.4).
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (!0 << 64))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_places_and_takes_none_of_another() {
        let crowd = Crowd::new(2);
        let at = |text: &str| text.parse::<IpAddr>().unwrap();
        for (one, same, other) in
            [("10.0.0.1", "::ffff:10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2", "fd00:0:0:1::1")]
        {
            let first = crowd.enter(at(one)).unwrap();
            let second = crowd.enter(at(same)).unwrap();
            assert!(crowd.enter(at(one)).is_none());
            let others = crowd.enter(at(other)).expect("another one");
            drop(first);
            let third = crowd.enter(at(same)).expect("a place is free");
            drop((second, third, others));
        }
        assert!(crowd.places().is_empty(), "who has none is not remembered");
    }
}
