//! What the guard lets through, as a pure function of what it has read.
//!
//! Each guard speaks for its own pod, whatever the other side's guard does: between two enrolled
//! workloads, and towards a strict one from anybody, TCP payload passes only in connections whose
//! socket in *this* pod is the agent's.

use crate::{
    Event, Member, Plain,
    ledger::{Column, Party},
    packet::Kind,
};

/// Seen from the pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    Out,
    In,
}

/// Whose the pod's socket of a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    Agent,
    /// A socket of the pod, with a connection.
    Pod,
    /// There was one, in TIME_WAIT: nothing is delivered to it, but the kernel answers for it.
    Ended,
    /// There is none, or only a listening one.
    Nobody,
}

/// A packet on its way out of a pod or into it.
#[derive(Clone, Copy, Debug)]
pub struct Passage {
    pub direction: Direction,
    pub kind: Kind,
    /// Whether the pod is strict.
    pub strict: bool,
    /// Whether it has no UDP with the mesh.
    pub refuses_udp: bool,
    /// Whether it leaves a pod with another workload's address, or comes to it with its own.
    pub forged: bool,
    /// What the directory says of the other side's address; of no interest for a bare segment, and
    /// for the agent's.
    pub remote: Option<u32>,
}

/// Who sends to a pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sender {
    /// The prober of this node, to a port that was declared for it.
    Prober,
    /// Somebody else, to such a port.
    NotProber,
    /// Somebody, to any other port.
    Anybody,
}

/// What is known about a packet's connection; asked only where it matters, since it costs.
pub trait Known {
    fn owner(&self) -> Owner;
    /// How it began, if it began as plaintext that was allowed.
    fn began(&self) -> Option<Plain>;
    /// Who sends this packet; asked for what arrives only.
    fn sender(&self) -> Sender;
    /// Whether a new one passes in plaintext, since no agent is there to carry it.
    fn fails_open(&self) -> bool;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Pass(Event),
    Refuse(Event),
}

use Verdict::{Pass, Refuse};

#[inline(always)]
pub fn guard(passage: &Passage, known: &impl Known) -> Verdict {
    let Passage { direction, kind, strict, refuses_udp, forged, remote } = *passage;
    if forged {
        return Refuse(Event::GuardForged);
    }
    let is_mesh = is_mesh(remote);
    match kind {
        Kind::Arp | Kind::Control => Pass(Event::GuardControl),
        Kind::TcpBare => Pass(Event::GuardBare),
        Kind::Unreadable if strict => Refuse(Event::GuardUnreadable),
        Kind::Unreadable => Pass(Event::GuardOther),
        // Where the pod itself goes outside the mesh is its own business, as is who comes to a
        // permissive one.
        _ if !is_mesh && (direction == Direction::Out || !strict) => Pass(Event::GuardOutside),
        Kind::TcpSyn => Pass(Event::GuardBare),
        Kind::TcpPayload => payload(direction, is_mesh, strict, known),
        Kind::Fragment => Refuse(Event::GuardFragment),
        Kind::Udp if is_mesh && refuses_udp => Refuse(Event::GuardUdpRefused),
        Kind::Udp => Pass(Event::GuardUdp),
        Kind::Tunnel if strict => Refuse(Event::GuardTunnel),
        Kind::Other if strict => Refuse(Event::GuardProtocol),
        Kind::Tunnel | Kind::Other => Pass(Event::GuardOther),
    }
}

/// Unknown numbers count as the mesh's: the stricter side.
#[inline(always)]
fn is_mesh(remote: Option<u32>) -> bool {
    remote.is_some()
}

/// What comes to a strict pod from outside the mesh is an answer, or it is refused: also what the
/// pod has accepted while it was permissive. A permissive pod's connections with an address that
/// was enrolled only later go on.
#[inline(always)]
fn payload(direction: Direction, is_mesh: bool, strict: bool, known: &impl Known) -> Verdict {
    match known.owner() {
        Owner::Agent => Pass(Event::GuardAgent),
        // Refused, a sender that missed the end would repeat itself for minutes, and never be told.
        Owner::Ended if direction == Direction::In => Pass(Event::GuardEnded),
        _ if is_mesh && strict => Refuse(Event::GuardPlaintext),
        owner => match (is_mesh, known.began()) {
            (true, Some(_)) => Pass(Event::GuardOlder),
            // Without a socket: those of network namespaces and machines inside the pod.
            (false, Some(Plain::Opened)) => Pass(Event::GuardOwn),
            (false, began) => match known.sender() {
                Sender::Prober => Pass(Event::GuardProbe),
                // It was pushed out of the list of what began in plaintext.
                Sender::Anybody if began.is_none() && owner == Owner::Pod => Pass(Event::GuardOwn),
                _ => Refuse(Event::GuardPlaintext),
            },
            _ => Refuse(Event::GuardPlaintext),
        },
    }
}

/// What is said of payload in the agent's own connection. With a party that is no workload the
/// agent speaks plaintext too.
#[inline(always)]
pub fn agents(peer: Party) -> (Event, Column) {
    match peer.is_workload() {
        true => (Event::GuardAgent, Column::Mtls),
        false => (Event::GuardOutside, Column::Plain),
    }
}

/// Where the ledger counts a packet that is not the agent's; nowhere if it carries nothing, and if
/// it is of a protocol that carries errors and neighbors.
#[inline(always)]
pub fn column(kind: Kind, verdict: Verdict, is_mesh: bool) -> Option<Column> {
    let is_tcp = matches!(kind, Kind::TcpSyn | Kind::TcpBare | Kind::TcpPayload);
    match (kind, verdict) {
        (Kind::Arp | Kind::Control, _) | (Kind::TcpSyn | Kind::TcpBare, Pass(_)) => None,
        // Nothing of it is delivered.
        (_, Pass(Event::GuardEnded)) => None,
        (_, Refuse(Event::GuardPlaintext)) if is_mesh => Some(Column::Unseen),
        (_, Pass(_)) => Some(if is_tcp { Column::Plain } else { Column::OtherPassed }),
        (_, Refuse(_)) => Some(if is_tcp { Column::Refused } else { Column::OtherRefused }),
    }
}

/// How a new connection begins, if it is one in plaintext that is allowed: with somebody outside
/// the mesh, who is not the one to open it if the pod is strict, unless it is the prober; and of a
/// permissive pod with the mesh, while the node fails open.
#[inline(always)]
pub fn begins_plain(
    direction: Direction,
    strict: bool,
    remote: Option<u32>,
    known: &impl Known,
) -> Option<Plain> {
    match direction {
        _ if is_mesh(remote) && (strict || !known.fails_open()) => None,
        Direction::Out => Some(Plain::Opened),
        Direction::In if strict => (known.sender() == Sender::Prober).then_some(Plain::Probe),
        Direction::In => Some(Plain::Accepted),
    }
}

/// Whether an address that a pod sends from belongs to another workload.
#[inline(always)]
pub fn is_anothers(member: Option<u32>, is_own: impl FnOnce() -> bool) -> bool {
    matches!(member, Some(member) if member == Member::Workload as u32) && !is_own()
}

#[cfg(test)]
mod tests;
