//! Every decision of the kernel programs, as pure functions of what they have read.
//!
//! For enrolled workloads the answer to anything unknown is a refusal.

use crate::{
    Address, Enrollment, Event, Member, Membership, Published, Receiver, STEER_PORT_COUNT,
    STEER_PORT_FIRST, is_steer_port,
};

/// What `connect` does with a TCP connection of an enrolled workload, or of nobody known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Connect {
    Pass(Event),
    /// Rewrite the destination's address to this one.
    Steer(Address),
    Refuse(Event),
}

/// Decides about a `connect()` to `destination` of a workload, or of a pod about which nothing is
/// decided yet: that one is like a workload that is not steered.
///
/// `bound` is what the socket is bound to, and `owned` says whether the workload has an address;
/// `member` is what the directory says of the destination. `opens` says whether a connection from an
/// address of the workload passes since no agent is there to steer it to.
#[inline(always)]
pub fn connect(
    workload: &Enrollment,
    bound: &Address,
    destination: &Address,
    member: Option<u32>,
    owned: impl Fn(&Address) -> bool,
    opens: impl FnOnce(&Address) -> bool,
) -> Connect {
    if member.is_none() {
        return Connect::Pass(Event::ConnectOutside);
    }
    if workload.steered == 0 {
        return Connect::Refuse(Event::ConnectUndecided);
    }
    if owned(destination) {
        return Connect::Pass(Event::ConnectOwn);
    }
    let is_v4 = destination.as_v4().is_some();
    let is_bound = !bound.is_unspecified() && bound.as_v4().is_some() == is_v4 && owned(bound);
    let own = match (is_bound, is_v4) {
        // From an address to the same one: only then does the connection stay inside the pod.
        (true, _) => *bound,
        (false, true) => workload.v4,
        (false, false) => workload.v6,
    };
    if own.is_unspecified() {
        return Connect::Refuse(Event::ConnectNoFamily);
    }
    match opens(&own) {
        true => Connect::Pass(Event::ConnectFailedOpen),
        false => Connect::Steer(own),
    }
}

/// Whether a connection that is the agent's to carry passes in plaintext, on a node that fails open:
/// only without an agent, and only if neither side is strict. `own` is the workload of this node at
/// the connection's near end, whichever end opens it.
#[inline(always)]
pub fn fails_open(own: Option<&Receiver>, remote: &Membership, agent_lives: bool) -> bool {
    let is_permissive = matches!(own, Some(own) if own.strict == 0) && remote.strict == 0;
    is_permissive && remote.kind != 0 && !agent_lives
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
    pub port: u16,
    /// Whether the pod is strict, as its program knows: for addresses that nobody has declared.
    pub pod_strict: bool,
    /// The kind of what was published for this flow, if remote and local address are the same.
    pub published: Option<u32>,
    /// Whether the workload is strict; `None` if the local address is not an enrolled workload's.
    pub strict: Option<bool>,
    /// What the directory says of the remote address.
    pub member: Option<u32>,
    /// Whether the application listens on the local port.
    pub listening: bool,
    /// Whether the guard has seen this SYN come from the prober to a declared port.
    pub is_probe: bool,
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
/// A loopback source does not come from the wire: the kernel drops it there. Who forges the local
/// address as source gets no answer, since the answer goes to the pod itself.
#[inline(always)]
pub fn lookup(arrival: &Arrival) -> Lookup {
    if arrival.remote == arrival.local {
        return own(arrival);
    }
    if arrival.remote.is_loopback() || arrival.local.is_loopback() {
        return Lookup::Pass(Event::LookupOwn);
    }
    let Some(strict) = arrival.strict else {
        // A second or a link-local address must not be a way around strict.
        return match arrival.pod_strict {
            true => Lookup::Refuse(Event::LookupRefusedAddress),
            false => Lookup::Pass(Event::LookupPlaintext),
        };
    };
    let enrolled = matches!(arrival.member, Some(member) if member == Member::Workload as u32);
    match (enrolled, strict, arrival.listening) {
        (false, true, _) if arrival.is_probe => Lookup::Pass(Event::LookupProbe),
        (false, true, _) => Lookup::Refuse(Event::LookupRefusedPlaintext),
        (false, false, _) => Lookup::Pass(Event::LookupPlaintext),
        (true, _, true) => Lookup::Inbound,
        // Passed on, this SYN could meet a socket that began to listen in this very moment, and
        // the application would be sent TLS. The caller can't tell the two refusals apart.
        (true, _, false) => Lookup::Refuse(Event::LookupRefusedNoListener),
    }
}

/// A connection from an address to itself.
#[inline(always)]
fn own(arrival: &Arrival) -> Lookup {
    match arrival.published {
        Some(Published::ORIGIN) => Lookup::Outbound,
        Some(_) => Lookup::Pass(Event::LookupOwn),
        // It may have been steered, and what was published is lost: some other program that
        // listens on this port must not get it.
        None if arrival.strict.is_some() && is_steer_port(arrival.port) => {
            Lookup::Refuse(Event::LookupRefusedNoOrigin)
        }
        None => Lookup::Pass(Event::LookupOwn),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Party;

    fn v4(octets: [u8; 4]) -> Address {
        Address::v4(u32::from_ne_bytes(octets))
    }

    const WORKLOAD: Option<u32> = Some(Member::Workload as u32);
    const SERVICE: Option<u32> = Some(Member::Service as u32);

    fn pod() -> Enrollment {
        Enrollment { v4: v4([10, 0, 0, 1]), steered: 1, ..Enrollment::default() }
    }

    /// The decision for a socket that is not bound, of a pod whose only address is 10.0.0.1.
    fn unbound(workload: &Enrollment, destination: &Address, member: Option<u32>) -> Connect {
        let owned = |address: &Address| *address == workload.v4;
        connect(workload, &Address::UNSPECIFIED_V4, destination, member, owned, |_| false)
    }

    fn closed(bound: &Address, to: &Address, owned: impl Fn(&Address) -> bool) -> Connect {
        connect(&pod(), bound, to, WORKLOAD, owned, |_| false)
    }

    #[test]
    fn a_bound_socket_is_steered_to_the_address_that_it_is_bound_to() {
        let second = v4([10, 0, 0, 8]);
        let owned = |address: &Address| [pod().v4, second].contains(address);
        let to = |bound: &Address| closed(bound, &v4([10, 0, 0, 2]), owned);
        assert_eq!(to(&second), Connect::Steer(second));
        assert_eq!(to(&v4([10, 0, 0, 9])), Connect::Steer(pod().v4));
        let to_second = closed(&pod().v4, &second, owned);
        assert_eq!(to_second, Connect::Pass(Event::ConnectOwn));
    }

    #[test]
    fn an_undecided_pod_reaches_only_what_is_outside_the_mesh() {
        for undecided in [Enrollment { steered: 0, ..pod() }, Enrollment::UNDECIDED] {
            for member in [WORKLOAD, SERVICE] {
                let refused = unbound(&undecided, &v4([10, 0, 0, 2]), member);
                assert_eq!(refused, Connect::Refuse(Event::ConnectUndecided));
            }
            let passed = unbound(&undecided, &v4([10, 0, 0, 9]), None);
            assert_eq!(passed, Connect::Pass(Event::ConnectOutside));
        }
    }

    #[test]
    fn a_destination_of_the_mesh_is_steered_to_the_own_address() {
        for member in [WORKLOAD, SERVICE] {
            assert_eq!(unbound(&pod(), &v4([10, 0, 0, 2]), member), Connect::Steer(pod().v4));
        }
    }

    #[test]
    fn what_is_outside_the_mesh_or_the_pod_itself_is_passed() {
        let outside = unbound(&pod(), &v4([10, 0, 0, 9]), None);
        assert_eq!(outside, Connect::Pass(Event::ConnectOutside));
        let own = unbound(&pod(), &v4([10, 0, 0, 1]), WORKLOAD);
        assert_eq!(own, Connect::Pass(Event::ConnectOwn));
    }

    #[test]
    fn a_destination_of_a_family_that_the_pod_lacks_is_refused() {
        let mut octets = [0; 16];
        octets[0] = 0xfd;
        let refused = unbound(&pod(), &Address::from_octets(octets), WORKLOAD);
        assert_eq!(refused, Connect::Refuse(Event::ConnectNoFamily));
    }

    #[test]
    fn only_what_would_be_steered_passes_because_no_agent_is_there() {
        let owned = |address: &Address| *address == pod().v4;
        let to = |workload: &Enrollment, to: &Address, member| {
            connect(workload, &Address::UNSPECIFIED_V4, to, member, owned, |own| *own == pod().v4)
        };
        let mesh = v4([10, 0, 0, 2]);
        for member in [WORKLOAD, SERVICE] {
            assert_eq!(to(&pod(), &mesh, member), Connect::Pass(Event::ConnectFailedOpen));
        }
        assert_eq!(to(&pod(), &mesh, None), Connect::Pass(Event::ConnectOutside));
        assert_eq!(to(&pod(), &pod().v4, WORKLOAD), Connect::Pass(Event::ConnectOwn));
        let undecided = to(&Enrollment::UNDECIDED, &mesh, WORKLOAD);
        assert_eq!(undecided, Connect::Refuse(Event::ConnectUndecided));
    }

    #[test]
    fn a_node_fails_open_only_between_permissive_ends_and_only_without_an_agent() {
        let own = |strict: u32| Receiver { strict, ..Receiver::default() };
        let remote = Membership::workload(Party::default());
        assert!(fails_open(Some(&own(0)), &remote, false));
        assert!(fails_open(Some(&own(0)), &Membership::service(), false));
        assert!(!fails_open(Some(&own(0)), &remote, true));
        assert!(!fails_open(Some(&own(1)), &remote, false));
        assert!(!fails_open(Some(&own(0)), &remote.with_strict(true), false));
        assert!(!fails_open(None, &remote, false), "nobody of this node");
        assert!(!fails_open(Some(&own(0)), &Membership::default(), false), "not in the mesh");
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
            port: 8080,
            pod_strict: true,
            published: None,
            strict: Some(true),
            member: WORKLOAD,
            listening: true,
            is_probe: false,
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
    fn an_enrolled_caller_reaches_neither_agent_nor_application_where_nobody_listens() {
        let strict = Arrival { listening: false, ..arrival() };
        assert_eq!(lookup(&strict), Lookup::Refuse(Event::LookupRefusedNoListener));
        let permissive = Arrival { strict: Some(false), ..strict };
        assert_eq!(lookup(&permissive), Lookup::Refuse(Event::LookupRefusedNoListener));
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
    fn a_steered_connection_whose_origin_is_lost_reaches_nobody() {
        let own = Arrival { remote: v4([10, 0, 0, 1]), port: 873, ..arrival() };
        assert_eq!(lookup(&own), Lookup::Refuse(Event::LookupRefusedNoOrigin));
        for kind in [Published::OWN, Published::CLIENT] {
            let known = Arrival { published: Some(kind), ..own };
            assert_eq!(lookup(&known), Lookup::Pass(Event::LookupOwn));
        }
        // Not an enrolled workload's address, or not a port of steered connections.
        let other = Arrival { strict: None, ..own };
        assert_eq!(lookup(&other), Lookup::Pass(Event::LookupOwn));
        for port in [511, 1024, 8080] {
            assert_eq!(lookup(&Arrival { port, ..own }), Lookup::Pass(Event::LookupOwn));
        }
    }

    #[test]
    fn a_probe_is_let_in_by_a_strict_pod_and_by_no_undeclared_address() {
        let probe = Arrival { member: None, is_probe: true, ..arrival() };
        assert_eq!(lookup(&probe), Lookup::Pass(Event::LookupProbe));
        let look_alike = Arrival { is_probe: false, ..probe };
        assert_eq!(lookup(&look_alike), Lookup::Refuse(Event::LookupRefusedPlaintext));
        let undeclared = Arrival { strict: None, ..probe };
        assert_eq!(lookup(&undeclared), Lookup::Refuse(Event::LookupRefusedAddress));
        assert_eq!(lookup(&Arrival { member: WORKLOAD, ..probe }), Lookup::Inbound);
    }

    #[test]
    fn an_address_that_nobody_declared_is_no_way_around_strict() {
        for member in [None, WORKLOAD] {
            let strict = Arrival { strict: None, member, ..arrival() };
            assert_eq!(lookup(&strict), Lookup::Refuse(Event::LookupRefusedAddress));
            let permissive = Arrival { pod_strict: false, ..strict };
            assert_eq!(lookup(&permissive), Lookup::Pass(Event::LookupPlaintext));
            let inside = Arrival { local: v4([127, 0, 0, 1]), ..strict };
            assert_eq!(lookup(&inside), Lookup::Pass(Event::LookupOwn));
        }
    }
}
