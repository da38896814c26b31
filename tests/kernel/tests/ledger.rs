//! What the ledger counts, to the byte: every packet and connection once, for the right pair, in
//! the right column.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result};
use martlet_kernel::{
    Amount, Class, Column, Membership, Netns, Node, Pair, Party, Pod, Settings, Tally, Terms,
};
use martlet_lab::wait_for;
use martlet_tests_kernel::{
    Lab, Place, arrives, leave_outside, members,
    packets::{Ip, PORT, PUSH_ACK, TCP, tcp_between},
    raw, relay,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(10);
/// With segmentation by the device.
const LARGEST_SEGMENT: u64 = 65_536;
const PRIVATE: Party = Party::class(Class::Private);
/// To a port where nobody listens.
const DISCARD: u16 = 9;

fn tally(node: &Node, from: Party, to: Party) -> Tally {
    let entries = node.ledger().expect("the ledger can be read");
    let found = entries.iter().find(|(pair, _)| *pair == Pair { from, to });
    found.map(|(_, tally)| *tally).unwrap_or_default()
}

/// Fails unless exactly these columns have counted, and nothing else has.
fn assert_counted(node: &Node, from: Party, to: Party, wanted: &[(Column, u64, u64)]) {
    assert_carried(node, from, to, wanted, &[]);
}

/// The same of TCP between pods: what their kernels have sent again counts again.
fn assert_carried(
    node: &Node,
    from: Party,
    to: Party,
    wanted: &[(Column, u64, u64)],
    by: &[&Place],
) {
    let slack = by.iter().map(|place| sent_again(place)).sum::<u64>() * LARGEST_SEGMENT;
    let mut expected = Tally::EMPTY;
    for (column, bytes, units) in wanted {
        expected.columns[*column as usize] = Amount { bytes: *bytes, units: *units };
    }
    let found = tally(node, from, to);
    for (found, expected) in found.columns.iter().zip(expected.columns) {
        let extra = found.bytes.checked_sub(expected.bytes);
        let is_exact = extra.is_some_and(|extra| extra <= slack) && found.units == expected.units;
        assert!(is_exact, "{found:?} is not {expected:?}, by {slack} at most");
    }
}

/// Segments that a pod's kernel has sent again: none, unless the machine is very busy.
fn sent_again(place: &Place) -> u64 {
    let read = || std::fs::read_to_string("/proc/thread-self/net/snmp");
    let table = place.netns.run(read).expect("the pod's numbers can be read");
    let mut lines = table.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let mut numbers = names.split(' ').zip(values.split(' '));
    let found = numbers.find(|(name, _)| *name == "RetransSegs").expect("it is counted");
    found.1.parse().expect("a number")
}

/// Enrolled with these terms, and the relay as their agent.
fn enroll_by(node: &Node, place: &Place, terms: Terms) -> Result<Pod> {
    let (pod, listeners) = place.enroll_by(node, terms)?;
    relay(pod.dialer(), listeners);
    Ok(pod)
}

fn enroll(node: &Node, places: &[&Place], strict: bool) -> Result<Vec<Pod>> {
    members(node, places)?;
    let enroll = |place: &&Place| enroll_by(node, place, Terms { strict, ..place.terms() });
    places.iter().map(enroll).collect()
}

/// One connection: so many bytes there, so many back, and its orderly end.
async fn talk(from: &Place, to: &TcpListener, there: usize, back: usize) -> Result<()> {
    let mut caller = timeout(PATIENCE, from.connect(to.local_addr()?)).await??;
    let (mut callee, _) = timeout(PATIENCE, to.accept()).await??;
    let calling = tokio::spawn(async move {
        caller.write_all(&vec![1; there]).await?;
        caller.shutdown().await?;
        let mut answer = Vec::new();
        caller.read_to_end(&mut answer).await?;
        io::Result::Ok(answer.len())
    });
    let mut asked = Vec::new();
    timeout(PATIENCE, callee.read_to_end(&mut asked)).await??;
    callee.write_all(&vec![2; back]).await?;
    callee.shutdown().await?;
    assert_eq!((asked.len(), timeout(PATIENCE, calling).await???), (there, back));
    Ok(())
}

fn datagrams(from: &Place, to: &Place, count: usize, size: usize) -> Result<()> {
    let socket = from.netns.run(|| UdpSocket::bind(SocketAddr::new(from.v4, 0)))?;
    for _ in 0..count {
        socket.send_to(&vec![3; size], SocketAddr::new(to.v4, DISCARD))?;
    }
    Ok(())
}

/// Payload in a packet made by hand, in a connection that nobody has opened.
fn forge(from: &Place, to: &Place, source_port: u16, payload: &[u8]) -> Result<()> {
    let segment = tcp_between(source_port, PORT, PUSH_ACK, payload);
    let packet = Ip::new(from.v4, to.v4, TCP, &segment).bytes();
    Ok(from.netns.run(|| raw::send_packet(to.v4, &packet))?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_agent_carries_between_two_pods_of_a_node_is_counted_once() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (lab.place("cart-0")?, lab.place("web-0")?);
    let node = Node::start(&lab.settings)?;
    for strict in [true, false] {
        let _pods = enroll(&node, &[&a, &b], strict)?;
        let round = if strict { 1 } else { 2 };
        for ip in [b.v4, b.v6] {
            let listener = b.listen(SocketAddr::new(ip, PORT))?;
            talk(&a, &listener, 1_000_000, 777).await?;
        }
        assert_carried(
            &node,
            a.party(),
            b.party(),
            &[(Column::Mtls, 2_000_000 * round, 2 * round)],
            &[&a, &b],
        );
        assert_carried(&node, b.party(), a.party(), &[(Column::Mtls, 1554 * round, 0)], &[&a, &b]);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plaintext_with_somebody_outside_is_counted_by_his_class() -> Result<()> {
    let lab = Lab::new()?;
    let (a, outside) = (lab.place("cart-0")?, lab.place("web-0")?);
    let node = Node::start(&lab.settings)?;
    let pods = enroll(&node, &[&a], false)?;
    leave_outside(&node, &[&outside])?;
    let there = outside.listen(SocketAddr::new(outside.v4, PORT))?;
    let here = a.listen(SocketAddr::new(a.v4, PORT))?;
    talk(&a, &there, 5000, 60).await?;
    assert_carried(&node, a.party(), PRIVATE, &[(Column::Plain, 5000, 1)], &[&a, &outside]);
    assert_carried(&node, PRIVATE, a.party(), &[(Column::Plain, 60, 0)], &[&a, &outside]);
    talk(&outside, &here, 400, 3).await?;
    assert_carried(&node, PRIVATE, a.party(), &[(Column::Plain, 460, 1)], &[&a, &outside]);
    assert_carried(&node, a.party(), PRIVATE, &[(Column::Plain, 5003, 1)], &[&a, &outside]);

    pods[0].set_terms(Terms { strict: true, ..a.terms() })?;
    let refused = timeout(PATIENCE, outside.connect(here.local_addr()?)).await?;
    assert!(refused.is_err(), "strict");
    assert_carried(
        &node,
        PRIVATE,
        a.party(),
        &[(Column::Plain, 460, 1), (Column::Refused, 0, 1)],
        &[&a, &outside],
    );
    talk(&a, &there, 10, 20).await?;
    assert_carried(&node, a.party(), PRIVATE, &[(Column::Plain, 5013, 2)], &[&a, &outside]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_itself_is_told_from_other_private_addresses() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.place("cart-0")?;
    let node = Node::start(&lab.settings)?;
    node.keep_own_addresses()?;
    let _pods = enroll(&node, &[&a], false)?;
    let host = Netns::open(&lab.settings.host)?;
    let socket = host.run(|| UdpSocket::bind("0.0.0.0:0"))?;
    socket.send_to(b"twelve bytes", SocketAddr::new(a.v4, DISCARD))?;
    let from_node = Party::class(Class::Node);
    assert_counted(&node, from_node, a.party(), &[(Column::OtherPassed, 12, 1)]);
    assert_counted(&node, PRIVATE, a.party(), &[]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_steering_has_not_seen_is_counted_apart() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (lab.place("cart-0")?, lab.place("web-0")?);
    let node = Node::start(&lab.settings)?;
    for strict in [false, true] {
        let before = tally(&node, a.party(), b.party()).of(Column::Unseen);
        let _pods = enroll(&node, &[&a, &b], strict)?;
        let port = if strict { 5000 } else { 6000 };
        for payload in [&b"twice in"[..], b"one", b"connection"] {
            forge(&a, &b, port, payload)?;
        }
        forge(&a, &b, port + 1, b"!")?;
        let Amount { bytes, units } = tally(&node, a.party(), b.party()).of(Column::Unseen);
        assert_eq!((bytes - before.bytes, units - before.units), (22, 2), "strict: {strict}");
    }
    assert_counted(&node, a.party(), b.party(), &[(Column::Unseen, 44, 4)]);
    // From outside the mesh it is only refused.
    let outside = lab.place("shop-0")?;
    forge(&outside, &b, 5000, b"hello")?;
    // The node has to ask for the pod's address first.
    wait_for("the refusal", PATIENCE, || {
        let refused = tally(&node, PRIVATE, b.party()).of(Column::Refused);
        Ok((refused.units > 0).then_some(()))
    })?;
    assert_counted(&node, PRIVATE, b.party(), &[(Column::Refused, 5, 1)]);
    let by_lookup = node.counters()?.into_iter().filter(|c| c.hook == "lookup");
    assert_eq!(by_lookup.map(|c| c.count).sum::<u64>(), 0, "looking for a socket is no arrival");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_refused_before_it_carries_anything_is_counted() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (lab.place("cart-0")?, lab.place("web-0")?);
    let node = Node::start(&lab.settings)?;
    let pods = enroll(&node, &[&a, &b], true)?;
    // Nobody listens.
    let mut stream = a.connect(SocketAddr::new(b.v4, PORT)).await?;
    let ended = timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await?;
    assert!(ended.is_ok_and(|read| read == 0), "the relay found nobody");
    assert_counted(&node, a.party(), b.party(), &[(Column::Refused, 0, 1)]);
    drop((pods, node));

    // Without an agent; the listeners of the relay live as long as this process's runtime.
    let node = Node::start(&lab.settings)?;
    drop(a.enroll(&node, true)?);
    let refused = timeout(PATIENCE, a.connect(SocketAddr::new(b.v4, PORT))).await?;
    assert!(refused.is_err(), "without an agent");
    assert_counted(&node, a.party(), b.party(), &[(Column::Refused, 0, 2)]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn udp_between_workloads_passes_or_is_refused_as_each_end_says() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b, resolver) = (lab.place("cart-0")?, lab.place("web-0")?, lab.place("shop-0")?);
    let node = Node::start(&lab.settings)?;
    let pods = enroll(&node, &[&a, &b], true)?;
    let send = |from: &Place, to: &Place, is_expected| {
        arrives(from, to, is_expected, |canary| {
            let socket = from.netns.run(|| UdpSocket::bind(SocketAddr::new(from.v4, 0)))?;
            socket.send_to(canary, SocketAddr::new(to.v4, 53)).map(drop)
        })
    };
    assert!(send(&a, &b, true)? && send(&b, &a, true)?, "as it is by default");
    datagrams(&a, &b, 3, 10)?;
    let before = tally(&node, a.party(), b.party());
    pods[1].set_terms(Terms { strict: true, refuses_udp: true, ..b.terms() })?;
    datagrams(&a, &b, 4, 100)?;
    datagrams(&b, &a, 5, 7)?;
    let mut expected = before;
    expected.columns[Column::OtherRefused as usize] = Amount { bytes: 400, units: 4 };
    assert_eq!(tally(&node, a.party(), b.party()), expected, "into the pod that refuses");
    let back = tally(&node, b.party(), a.party()).of(Column::OtherRefused);
    assert_eq!(back, Amount { bytes: 35, units: 5 }, "out of the pod that refuses");
    // A resolver outside of the mesh, in both directions.
    assert!(send(&b, &resolver, true)? && send(&resolver, &b, true)?);
    for verdict in ["refused_udp", "passed_udp"] {
        let counters = node.counters()?;
        let counter = counters.iter().find(|c| c.hook == "guard" && c.verdict == verdict);
        assert!(counter.context("it exists")?.count >= 9, "{verdict}");
    }
    pods[1].set_terms(Terms { strict: true, ..b.terms() })?;
    assert!(send(&a, &b, true)?, "allowed again");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_between_two_pods_of_a_node_are_counted_once() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (lab.place("cart-0")?, lab.place("web-0")?);
    let node = Node::start(&lab.settings)?;
    let _pods = enroll(&node, &[&a, &b], false)?;
    datagrams(&a, &b, 3, 10)?;
    assert_counted(&node, a.party(), b.party(), &[(Column::OtherPassed, 30, 3)]);
    assert_counted(&node, b.party(), a.party(), &[]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_is_given_to_another_takes_nothing_along() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (lab.place("cart-0")?, lab.place("web-0")?);
    let node = Node::start(&lab.settings)?;
    let mut pods = enroll(&node, &[&a, &b], true)?;
    let listener = b.listen(SocketAddr::new(b.v4, PORT))?;
    datagrams(&a, &b, 2, 50)?;
    talk(&a, &listener, 1000, 1).await?;
    let first = [(Column::OtherPassed, 100, 2), (Column::Mtls, 1000, 1)];
    assert_carried(&node, a.party(), b.party(), &first, &[&a, &b]);

    // Another workload has the pod's place and its address.
    let next = Party::workload(12345);
    pods.remove(1).withdraw()?;
    let here = |place: &Place, party| place.addresses().map(|ip| (ip, Membership::workload(party)));
    node.set_members(here(&a, a.party()).into_iter().chain(here(&b, next)))?;
    let _pod = enroll_by(&node, &b, Terms { strict: true, party: next, ..Terms::default() })?;
    datagrams(&a, &b, 1, 7)?;
    talk(&a, &listener, 20, 1).await?;
    forge(&a, &b, 5000, b"around")?;
    assert_carried(&node, a.party(), b.party(), &first, &[&a, &b]);
    let second = [(Column::OtherPassed, 7, 1), (Column::Mtls, 20, 1), (Column::Unseen, 6, 1)];
    assert_carried(&node, a.party(), next, &second, &[&a, &b]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_counted_outlives_the_agent_and_goes_on_without_one() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (lab.place("cart-0")?, lab.place("web-0")?);
    let node = Node::start(&lab.settings)?;
    let pods = enroll(&node, &[&a, &b], true)?;
    forge(&a, &b, 5000, b"before")?;
    drop((pods, node));
    forge(&a, &b, 5001, b"without")?;
    let node = Node::start(&lab.settings)?;
    assert_counted(&node, a.party(), b.party(), &[(Column::Unseen, 13, 2)]);
    let _pods = enroll(&node, &[&a, &b], true)?;
    forge(&a, &b, 5002, b"after")?;
    assert_counted(&node, a.party(), b.party(), &[(Column::Unseen, 18, 3)]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_finds_no_room_is_counted_among_the_others_until_there_is_room() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b, outside) = (lab.place("cart-0")?, lab.place("web-0")?, lab.place("shop-0")?);
    let settings = Settings { ledger_room: 3, ..lab.settings.clone() };
    let node = Node::start(&settings)?;
    let _pods = enroll(&node, &[&a, &b], false)?;
    datagrams(&a, &b, 1, 10)?;
    datagrams(&b, &a, 2, 10)?;
    datagrams(&a, &outside, 3, 10)?;
    let others = Party::class(Class::Others);
    assert_counted(&node, a.party(), b.party(), &[(Column::OtherPassed, 10, 1)]);
    assert_counted(&node, a.party(), PRIVATE, &[]);
    assert_counted(&node, others, others, &[(Column::OtherPassed, 50, 5)]);
    let lost = node.counters()?.into_iter().find(|c| c.hook == "ledger").context("it exists")?;
    assert_eq!(lost.count, 5);

    // The sum stays; the entry that made room is among those that are gone.
    let gone = Party::class(Class::Gone);
    let sum = |node: &Node| -> Result<u64> {
        let all = node.ledger()?;
        Ok(all.iter().map(|(_, tally)| tally.of(Column::OtherPassed).bytes).sum())
    };
    assert_eq!(sum(&node)?, 60);
    node.close_accounts(&[Pair { from: a.party(), to: b.party() }])?;
    assert_eq!(sum(&node)?, 60);
    assert_counted(&node, gone, gone, &[(Column::OtherPassed, 10, 1)]);
    assert_counted(&node, a.party(), b.party(), &[]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_while_the_ledger_is_read_all_the_time() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (lab.place("cart-0")?, lab.place("web-0")?);
    let node = Node::start(&lab.settings)?;
    let _pods = enroll(&node, &[&a, &b], true)?;
    let listener = b.listen(SocketAddr::new(b.v4, PORT))?;
    let talking = tokio::spawn(async move {
        for _ in 0..20 {
            talk(&a, &listener, 100_000, 10).await?;
        }
        anyhow::Ok(a)
    });
    let mut last = 0;
    wait_for("the last connection", PATIENCE * 3, || {
        let all = node.ledger()?;
        let now = all.iter().map(|(_, tally)| tally.of(Column::Mtls).bytes).sum();
        assert!(now >= last, "numbers only grow: {last} then {now}");
        last = now;
        Ok(talking.is_finished().then_some(()))
    })?;
    let from = talking.await??;
    assert_carried(&node, from.party(), b.party(), &[(Column::Mtls, 2_000_000, 20)], &[&from, &b]);
    Ok(())
}
