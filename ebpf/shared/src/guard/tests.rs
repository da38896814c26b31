//! Every verdict, by kind of packet and by what is known of its connection.

use super::*;

use Direction::{In, Out};

const WORKLOAD: Option<u32> = Some(Member::Workload as u32);
const SERVICE: Option<u32> = Some(Member::Service as u32);
const BOTH: [Direction; 2] = [In, Out];

/// What is known, in the order of the questions.
struct Facts(Owner, Option<Plain>, Sender, bool);

fn facts(owner: Owner, began: Option<Plain>) -> Facts {
    sent(owner, began, Sender::Anybody)
}

fn sent(owner: Owner, began: Option<Plain>, sender: Sender) -> Facts {
    Facts(owner, began, sender, false)
}

fn open() -> Facts {
    Facts(Owner::Nobody, None, Sender::Anybody, true)
}

impl Known for Facts {
    fn owner(&self) -> Owner {
        self.0
    }

    fn began(&self) -> Option<Plain> {
        self.1
    }

    fn sender(&self) -> Sender {
        self.2
    }

    fn fails_open(&self) -> bool {
        self.3
    }
}

/// Nothing may be asked: it costs.
struct Unasked;

impl Known for Unasked {
    fn owner(&self) -> Owner {
        panic!("the owner was asked for")
    }

    fn began(&self) -> Option<Plain> {
        panic!("the beginning was asked for")
    }

    fn sender(&self) -> Sender {
        panic!("the sender was asked for")
    }

    fn fails_open(&self) -> bool {
        panic!("whether the node fails open was asked for")
    }
}

fn passage(direction: Direction, kind: Kind, strict: bool, remote: Option<u32>) -> Passage {
    Passage { direction, kind, strict, refuses_udp: false, forged: false, remote }
}

fn payload(direction: Direction, strict: bool, remote: Option<u32>, facts: impl Known) -> Verdict {
    guard(&passage(direction, Kind::TcpPayload, strict, remote), &facts)
}

#[test]
fn between_enrolled_workloads_payload_passes_in_the_agents_connections_only() {
    for (direction, remote) in BOTH.into_iter().zip([WORKLOAD, SERVICE, Some(99)]) {
        for strict in [true, false] {
            for plain in [Some(Plain::Opened), None] {
                let agents = payload(direction, strict, remote, facts(Owner::Agent, plain));
                assert_eq!(agents, Pass(Event::GuardAgent));
            }
            for owner in [Owner::Pod, Owner::Nobody] {
                let verdict = payload(direction, strict, remote, facts(owner, None));
                assert_eq!(verdict, Refuse(Event::GuardPlaintext), "{direction:?} {owner:?}");
            }
        }
    }
}

#[test]
fn a_connection_that_began_in_plaintext_goes_on_while_the_pod_is_permissive() {
    for direction in BOTH {
        for owner in [Owner::Pod, Owner::Nobody] {
            for began in [Plain::Opened, Plain::Accepted] {
                let with = |strict| payload(direction, strict, WORKLOAD, facts(owner, Some(began)));
                assert_eq!(with(false), Pass(Event::GuardOlder));
                assert_eq!(with(true), Refuse(Event::GuardPlaintext));
            }
        }
    }
}

#[test]
fn what_arrives_for_a_socket_that_has_ended_is_answered_and_nothing_leaves_for_it() {
    for (strict, remote) in [(true, WORKLOAD), (false, WORKLOAD), (true, None)] {
        let arriving = payload(In, strict, remote, facts(Owner::Ended, None));
        assert_eq!(arriving, Pass(Event::GuardEnded));
    }
    for strict in [true, false] {
        let leaving = payload(Out, strict, WORKLOAD, facts(Owner::Ended, None));
        assert_eq!(leaving, Refuse(Event::GuardPlaintext));
    }
}

#[test]
fn from_outside_a_strict_pod_gets_answers_only() {
    let from_outside = |facts| payload(In, true, None, facts);
    assert_eq!(from_outside(facts(Owner::Pod, None)), Pass(Event::GuardOwn));
    assert_eq!(from_outside(facts(Owner::Agent, None)), Pass(Event::GuardAgent));
    for owner in [Owner::Pod, Owner::Nobody] {
        let answer = from_outside(facts(owner, Some(Plain::Opened)));
        assert_eq!(answer, Pass(Event::GuardOwn));
        let accepted = from_outside(facts(owner, Some(Plain::Accepted)));
        assert_eq!(accepted, Refuse(Event::GuardPlaintext), "while it was permissive");
    }
    assert_eq!(from_outside(facts(Owner::Nobody, None)), Refuse(Event::GuardPlaintext));
}

#[test]
fn what_is_not_the_meshs_passes_unasked() {
    for kind in
        [Kind::TcpSyn, Kind::TcpPayload, Kind::Fragment, Kind::Udp, Kind::Tunnel, Kind::Other]
    {
        for (direction, strict) in [(Out, true), (Out, false), (In, false)] {
            let verdict = guard(&passage(direction, kind, strict, None), &Unasked);
            assert_eq!(verdict, Pass(Event::GuardOutside), "{direction:?} {kind:?}");
        }
    }
}

/// The table of docs/guard.md for what is no TCP payload: in a permissive pod, in a strict one.
#[test]
fn each_kind_has_its_verdict() {
    for (kind, permissive, strict) in [
        (Kind::Arp, Pass(Event::GuardControl), Pass(Event::GuardControl)),
        (Kind::Control, Pass(Event::GuardControl), Pass(Event::GuardControl)),
        (Kind::TcpSyn, Pass(Event::GuardBare), Pass(Event::GuardBare)),
        (Kind::TcpBare, Pass(Event::GuardBare), Pass(Event::GuardBare)),
        (Kind::Fragment, Refuse(Event::GuardFragment), Refuse(Event::GuardFragment)),
        (Kind::Udp, Pass(Event::GuardUdp), Pass(Event::GuardUdp)),
        (Kind::Tunnel, Pass(Event::GuardOther), Refuse(Event::GuardTunnel)),
        (Kind::Other, Pass(Event::GuardOther), Refuse(Event::GuardProtocol)),
        (Kind::Unreadable, Pass(Event::GuardOther), Refuse(Event::GuardUnreadable)),
    ] {
        for direction in BOTH {
            for remote in [WORKLOAD, SERVICE] {
                let verdict = |strict| guard(&passage(direction, kind, strict, remote), &Unasked);
                assert_eq!(verdict(false), permissive, "{direction:?} {kind:?}");
                assert_eq!(verdict(true), strict, "{direction:?} {kind:?}");
            }
        }
        // From outside, a strict pod gets what it would get from the mesh.
        assert_eq!(guard(&passage(In, kind, true, None), &Unasked), strict, "{kind:?}");
    }
}

#[test]
fn a_forged_source_is_refused_whatever_it_says() {
    for kind in [Kind::TcpSyn, Kind::TcpPayload, Kind::Udp, Kind::Control, Kind::Other] {
        for strict in [true, false] {
            let forged = Passage { forged: true, ..passage(Out, kind, strict, None) };
            assert_eq!(guard(&forged, &Unasked), Refuse(Event::GuardForged));
        }
    }
    assert!(is_anothers(WORKLOAD, || false));
    assert!(!is_anothers(WORKLOAD, || true), "the pod's second address");
    assert!(!is_anothers(SERVICE, || false) && !is_anothers(None, || false));
}

#[test]
fn plaintext_begins_with_the_outside_only_and_by_a_strict_pod_itself() {
    for strict in [true, false] {
        for remote in [WORKLOAD, SERVICE] {
            for direction in BOTH {
                let closed = facts(Owner::Nobody, None);
                assert_eq!(begins_plain(direction, strict, remote, &closed), None);
            }
        }
        assert_eq!(begins_plain(Out, strict, None, &Unasked), Some(Plain::Opened));
        let accepted = (!strict).then_some(Plain::Accepted);
        let from_outside =
            |sender| begins_plain(In, strict, None, &sent(Owner::Nobody, None, sender));
        assert_eq!(from_outside(Sender::Anybody), accepted);
        assert_eq!(from_outside(Sender::NotProber), accepted);
        let probe = if strict { Plain::Probe } else { Plain::Accepted };
        assert_eq!(from_outside(Sender::Prober), Some(probe));
    }
}

#[test]
fn while_the_node_fails_open_plaintext_begins_with_the_mesh_but_never_of_a_strict_pod() {
    for remote in [WORKLOAD, SERVICE] {
        assert_eq!(begins_plain(Out, false, remote, &open()), Some(Plain::Opened));
        assert_eq!(begins_plain(In, false, remote, &open()), Some(Plain::Accepted));
        assert!(BOTH.map(|direction| begins_plain(direction, true, remote, &open())) == [None; 2]);
        // What did not begin so is refused as ever.
        for direction in BOTH {
            let verdict = payload(direction, false, remote, open());
            assert_eq!(verdict, Refuse(Event::GuardPlaintext));
        }
    }
}

#[test]
fn udp_with_the_mesh_passes_or_is_refused_as_the_pod_says() {
    for (direction, strict) in [(In, true), (In, false), (Out, true), (Out, false)] {
        for remote in [WORKLOAD, SERVICE] {
            let refusing =
                Passage { refuses_udp: true, ..passage(direction, Kind::Udp, strict, remote) };
            assert_eq!(guard(&refusing, &Unasked), Refuse(Event::GuardUdpRefused));
            let passing = Passage { refuses_udp: false, ..refusing };
            assert_eq!(guard(&passing, &Unasked), Pass(Event::GuardUdp));
        }
        // A resolver outside of the mesh, for one.
        let outside = Passage { refuses_udp: true, ..passage(direction, Kind::Udp, strict, None) };
        assert!(matches!(guard(&outside, &Unasked), Pass(_)), "{direction:?}");
    }
}

#[test]
fn each_packet_has_at_most_one_column() {
    let (pass, refuse) = (Pass(Event::GuardOutside), Refuse(Event::GuardForged));
    for (kind, passed, refused) in [
        (Kind::Arp, None, None),
        (Kind::Control, None, None),
        (Kind::TcpSyn, None, Some(Column::Refused)),
        (Kind::TcpBare, None, Some(Column::Refused)),
        (Kind::TcpPayload, Some(Column::Plain), Some(Column::Refused)),
        (Kind::Fragment, Some(Column::OtherPassed), Some(Column::OtherRefused)),
        (Kind::Udp, Some(Column::OtherPassed), Some(Column::OtherRefused)),
        (Kind::Tunnel, Some(Column::OtherPassed), Some(Column::OtherRefused)),
        (Kind::Other, Some(Column::OtherPassed), Some(Column::OtherRefused)),
        (Kind::Unreadable, Some(Column::OtherPassed), Some(Column::OtherRefused)),
    ] {
        for is_mesh in [true, false] {
            assert_eq!(column(kind, pass, is_mesh), passed, "{kind:?}");
            assert_eq!(column(kind, refuse, is_mesh), refused, "{kind:?}");
        }
    }
    let around = Refuse(Event::GuardPlaintext);
    assert_eq!(column(Kind::TcpPayload, around, true), Some(Column::Unseen));
    assert_eq!(column(Kind::TcpPayload, around, false), Some(Column::Refused));
    assert_eq!(column(Kind::TcpPayload, Pass(Event::GuardEnded), true), None);
}

#[test]
fn the_agents_own_connection_with_somebody_outside_counts_as_plaintext() {
    assert_eq!(agents(Party::workload(1)), (Event::GuardAgent, Column::Mtls));
    let outside = Party::class(crate::ledger::Class::Private);
    assert_eq!(agents(outside), (Event::GuardOutside, Column::Plain));
}

#[test]
fn at_a_probe_port_of_a_strict_pod_the_prober_is_heard_and_nobody_else() {
    for owner in [Owner::Pod, Owner::Nobody] {
        for began in [Some(Plain::Probe), None] {
            let from_outside = |sender| payload(In, true, None, sent(owner, began, sender));
            assert_eq!(from_outside(Sender::Prober), Pass(Event::GuardProbe));
            assert_eq!(from_outside(Sender::NotProber), Refuse(Event::GuardPlaintext));
        }
        let meshs = payload(In, true, WORKLOAD, sent(owner, Some(Plain::Probe), Sender::Prober));
        assert_eq!(meshs, Refuse(Event::GuardPlaintext), "the prober is not of the mesh");
        let answer = sent(owner, Some(Plain::Opened), Sender::NotProber);
        assert_eq!(payload(In, true, None, answer), Pass(Event::GuardOwn));
    }
    let no_more_declared = sent(Owner::Pod, Some(Plain::Probe), Sender::Anybody);
    assert_eq!(payload(In, true, None, no_more_declared), Refuse(Event::GuardPlaintext));
}
