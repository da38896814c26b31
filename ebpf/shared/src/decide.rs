//! Every decision of the kernel programs, as pure functions of what they have read.
//!
//! For enrolled workloads the answer to anything unknown is a refusal.

use crate::{Address, Enrollment, Event, Member, Published, STEER_PORT_COUNT, STEER_PORT_FIRST};

/// What `connect` does with a TCP connection that a process of an enrolled workload opens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Connect {
    Pass(Event),
    /// Rewrite the destination's address to this one.
    Steer(Address),
    Refuse(Event),
}

/// Decides about a `connect()` of an enrolled workload to `destination`.
///
/// `member` is what the directory says of the destination.
#[inline(always)]
pub fn connect(workload: &Enrollment, destination: &Address, member: Option<u32>) -> Connect {
    if *destination == workload.v4 || *destination == workload.v6 {
        return Connect::Pass(Event::ConnectOwn);
    }
    if member.is_none() {
        return Connect::Pass(Event::ConnectOutside);
    }
    let own = match destination.as_v4() {
        Some(_) => workload.v4,
        None => workload.v6,
    };
    match own.is_unspecified() {
        true => Connect::Refuse(Event::ConnectNoFamily),
        false => Connect::Steer(own),
    }
}

/// The port that a steered connection gets: one of a fixed set, but never the socket's own source
/// port, which would make it connect to itself.
#[inline(always)]
pub fn steer_port(random: u32, source_port: u32) -> u16 {
    let offset = (random as u16) & (STEER_PORT_COUNT - 1);
    let port = STEER_PORT_FIRST + offset;
    match u32::from(port) == source_port {
        true => STEER_PORT_FIRST + (offset ^ 1),
        false => port,
    }
}

/// What `sk_lookup` knows about a SYN that arrives in a pod.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    pub remote: Address,
    pub local: Address,
    /// The kind of what was published for this flow, if remote and local address are the same.
    pub published: Option<u32>,
    /// Whether the pod is strict; `None` if the local address is not an enrolled workload's.
    pub strict: Option<bool>,
    /// What the directory says of the remote address.
    pub member: Option<u32>,
    /// Whether the application listens on the local port.
    pub listening: bool,
}

/// Where a SYN goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lookup {
    Pass(Event),
    Outbound,
    Inbound,
    Refuse(Event),
}

/// Decides about a SYN in the network namespace of an enrolled pod.
///
/// Strict is judged before anything else is looked at, so that nothing forgotten can widen it.
#[inline(always)]
pub fn lookup(arrival: &Arrival) -> Lookup {
    if arrival.remote == arrival.local {
        return match arrival.published {
            Some(Published::ORIGIN) => Lookup::Outbound,
            _ => Lookup::Pass(Event::LookupOwn),
        };
    }
    let Some(strict) = arrival.strict else {
        return Lookup::Pass(Event::LookupOwn);
    };
    if arrival.remote.is_loopback() {
        return Lookup::Pass(Event::LookupOwn);
    }
    let enrolled = matches!(arrival.member, Some(member) if member == Member::Workload as u32);
    match (enrolled, strict, arrival.listening) {
        (false, true, _) => Lookup::Refuse(Event::LookupRefusedPlaintext),
        (false, false, _) => Lookup::Pass(Event::LookupPlaintext),
        (true, _, true) => Lookup::Inbound,
        (true, true, false) => Lookup::Refuse(Event::LookupRefusedNoListener),
        (true, false, false) => Lookup::Pass(Event::LookupNoListener),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(octets: [u8; 4]) -> Address {
        Address::v4(u32::from_ne_bytes(octets))
    }

    const WORKLOAD: Option<u32> = Some(Member::Workload as u32);
    const SERVICE: Option<u32> = Some(Member::Service as u32);

    fn pod() -> Enrollment {
        Enrollment { v4: v4([10, 0, 0, 1]), v6: Address::UNSPECIFIED }
    }

    #[test]
    fn a_destination_of_the_mesh_is_steered_to_the_own_address() {
        for member in [WORKLOAD, SERVICE] {
            assert_eq!(connect(&pod(), &v4([10, 0, 0, 2]), member), Connect::Steer(pod().v4));
        }
    }

    #[test]
    fn what_is_outside_the_mesh_or_the_pod_itself_is_passed() {
        let outside = connect(&pod(), &v4([10, 0, 0, 9]), None);
        assert_eq!(outside, Connect::Pass(Event::ConnectOutside));
        let own = connect(&pod(), &v4([10, 0, 0, 1]), WORKLOAD);
        assert_eq!(own, Connect::Pass(Event::ConnectOwn));
    }

    #[test]
    fn a_destination_of_a_family_that_the_pod_lacks_is_refused() {
        let mut octets = [0; 16];
        octets[0] = 0xfd;
        let refused = connect(&pod(), &Address::from_octets(octets), WORKLOAD);
        assert_eq!(refused, Connect::Refuse(Event::ConnectNoFamily));
    }

    #[test]
    fn a_steered_connection_never_goes_to_its_own_source_port() {
        for random in 0..2048 {
            for source in 500..1030 {
                let port = steer_port(random, source);
                assert_ne!(u32::from(port), source);
                assert!((512..1024).contains(&port));
            }
        }
    }

    fn arrival() -> Arrival {
        Arrival {
            remote: v4([10, 0, 0, 2]),
            local: v4([10, 0, 0, 1]),
            published: None,
            strict: Some(true),
            member: WORKLOAD,
            listening: true,
        }
    }

    #[test]
    fn an_enrolled_caller_goes_to_the_agent() {
        assert_eq!(lookup(&arrival()), Lookup::Inbound);
        assert_eq!(lookup(&Arrival { strict: Some(false), ..arrival() }), Lookup::Inbound);
    }

    #[test]
    fn plaintext_is_refused_when_strict_and_passed_when_permissive() {
        for listening in [true, false] {
            let strict = Arrival { member: None, listening, ..arrival() };
            assert_eq!(lookup(&strict), Lookup::Refuse(Event::LookupRefusedPlaintext));
            let permissive = Arrival { strict: Some(false), ..strict };
            assert_eq!(lookup(&permissive), Lookup::Pass(Event::LookupPlaintext));
        }
    }

    #[test]
    fn a_service_address_is_no_caller() {
        let service = Arrival { member: SERVICE, ..arrival() };
        assert_eq!(lookup(&service), Lookup::Refuse(Event::LookupRefusedPlaintext));
    }

    #[test]
    fn a_port_nobody_listens_on_never_reaches_the_agent() {
        let strict = Arrival { listening: false, ..arrival() };
        assert_eq!(lookup(&strict), Lookup::Refuse(Event::LookupRefusedNoListener));
        let permissive = Arrival { strict: Some(false), ..strict };
        assert_eq!(lookup(&permissive), Lookup::Pass(Event::LookupNoListener));
    }

    #[test]
    fn the_pods_own_connections_go_out_only_with_an_origin() {
        let own = Arrival { remote: v4([10, 0, 0, 1]), ..arrival() };
        assert_eq!(lookup(&own), Lookup::Pass(Event::LookupOwn));
        let client = Arrival { published: Some(Published::CLIENT), ..own };
        assert_eq!(lookup(&client), Lookup::Pass(Event::LookupOwn));
        let steered = Arrival { published: Some(Published::ORIGIN), ..own };
        assert_eq!(lookup(&steered), Lookup::Outbound);
        let loopback = Arrival { remote: v4([127, 0, 0, 1]), member: None, ..arrival() };
        assert_eq!(lookup(&loopback), Lookup::Pass(Event::LookupOwn));
    }

    #[test]
    fn an_address_that_is_not_the_workloads_is_left_alone() {
        let other = Arrival { strict: None, member: None, ..arrival() };
        assert_eq!(lookup(&other), Lookup::Pass(Event::LookupOwn));
    }
}
